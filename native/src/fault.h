/* fault.h: what others ask of fault.c, beside the handler itself. */
#ifndef BP_FAULT_H
#define BP_FAULT_H

#include "orders.h"
#include "pool.h"

/* Reports, to the ring, the log and stderr, an access of a thread that cannot do it itself, and fills in the fault. The
 * caller is inside the pool. */
void bp_fault_report_for(bufpool_pool *pool, const struct bp_order *order, bufpool_fault *fault);

/* What a report would say of an address, without an access: no pc, no stack, no signal. The caller is inside the pool. */
void bp_fault_describe(bufpool_pool *pool, uintptr_t address, bufpool_fault *fault);

#endif
