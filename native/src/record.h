/* record.h: the report of an event: filled in, counted, kept for bufpool_faults(), written. All in the handler's manner. */
#ifndef BP_RECORD_H
#define BP_RECORD_H

#include "event.h"

/* Fills in event->fault from what was diagnosed. */
void bp_event_fill(struct bp_event *event, const struct bp_finding *finding);

/* Counts the fault and keeps it for bufpool_faults(). */
void bp_event_keep(struct bp_event *event);

/* Writes what was kept, or that it was only counted. */
void bp_event_log(struct bp_event *event);
void bp_event_stderr(struct bp_event *event);

/* Reports, to the ring and the log, an access of a thread that cannot do it itself, and fills in what is to go to stderr
 * . The caller is inside the pool. */
void bp_record_for(bufpool_pool *pool, const struct bp_order *order, bufpool_fault *fault, struct bp_more *more);

/* What a report of such an access to an address would say, without one: no pc, no stack, no signal. The caller is inside the pool. */
void bp_record_describe(bufpool_pool *pool, uintptr_t address, bufpool_access access, bufpool_fault *fault);

#endif
