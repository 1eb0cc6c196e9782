/* machine.h: what the interrupted processor state says about an access; one file per architecture would hold little. */
#ifndef BP_MACHINE_H
#define BP_MACHINE_H

#include <bufpool/bufpool.h>
#include <stdint.h>

struct bp_machine {
    uint64_t pc;
    uint64_t sp;
    uint64_t fp;
    uint64_t link; /* arm64: the return address register; else 0 */
    bufpool_access access;
    uint64_t
        last_fault; /* address of this thread's last page fault that gave a signal, also when this signal is not one */
};

/* Reads a ucontext_t as a handler receives it. Async-signal-safe. */
void bp_machine_read(const void *context, struct bp_machine *machine);

#endif
