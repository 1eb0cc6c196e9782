/* machine.c: reading the interrupted processor state, see machine.h. */
#include "machine.h"

#include <stddef.h>
#include <string.h>
#include <ucontext.h>

#if defined(__x86_64__)

void bp_machine_read(const void *context, struct bp_machine *machine)
{
    const greg_t *registers = ((const ucontext_t *)context)->uc_mcontext.gregs;
    /* Page fault error code, Intel SDM volume 3, 4.7: bit 1 is a write, bit 4 an instruction fetch. */
    uint64_t error = (uint64_t)registers[REG_ERR];
    *machine = (struct bp_machine){
        .pc = (uint64_t)registers[REG_RIP],
        .sp = (uint64_t)registers[REG_RSP],
        .fp = (uint64_t)registers[REG_RBP],
        .access = error & 0x10  ? BUFPOOL_EXECUTE
                  : error & 0x2 ? BUFPOOL_WRITE
                                : BUFPOOL_READ,
        .last_fault = (uint64_t)registers[REG_CR2],
    };
}

#elif defined(__aarch64__)

/* arch/arm64/include/uapi/asm/sigcontext.h: records of {magic, size} in __reserved; ESR_MAGIC holds the syndrome. */
static uint64_t syndrome(const mcontext_t *machine)
{
    const unsigned char *at = machine->__reserved;
    const unsigned char *end = at + sizeof machine->__reserved;
    while (at + 16 <= end) {
        uint32_t head[2];
        memcpy(head, at, sizeof head);
        if (head[0] == 0x45535201) {
            uint64_t value;
            memcpy(&value, at + 8, sizeof value);
            return value;
        }
        if (head[0] == 0 || head[1] < 8) {
            break;
        }
        at += head[1];
    }
    return 0;
}

void bp_machine_read(const void *context, struct bp_machine *machine)
{
    const mcontext_t *state = &((const ucontext_t *)context)->uc_mcontext;
    /* Arm ARM, ESR_EL1: exception class 0x20 is an instruction abort from below; bit 6 (WnR) of a data abort is a
     * write. */
    uint64_t esr = syndrome(state);
    *machine = (struct bp_machine){
        .pc = state->pc,
        .sp = state->sp,
        .fp = state->regs[29],
        .link = state->regs[30],
        .access = esr >> 26 == 0x20 ? BUFPOOL_EXECUTE
                  : esr & 0x40      ? BUFPOOL_WRITE
                                    : BUFPOOL_READ,
        .last_fault = state->fault_address,
    };
}

#else
#error "bufpool knows x86-64 and arm64: add the reading of the fault's kind for this architecture here"
#endif
