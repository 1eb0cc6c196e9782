/*
 * frozen.h: the record of the threads that on_fault "freeze" has stopped, readable and writable from outside.
 *
 * A memfd named "bufpool-frozen", which /proc/PID/fd shows: so `bufpool frozen PID` finds it in a process that answers to
 * nothing else any more. A page of facts about the layout comes first, then the slots, one for each stopped thread: who,
 * where, the report as text and as JSON, and the wish, a word that whoever wants the thread to go on writes. All of it is
 * plain numbers in the machine's byte order; bufpool/frozen.py reads what is declared here, and a change of it takes
 * another version. Not inherited by forked children, which make one of their own.
 */
#ifndef BP_FROZEN_H
#define BP_FROZEN_H

#include "format.h"
#include "pool.h"

#define BP_FROZEN_SLOTS 1024 /* as many, or what a limit on file sizes or addresses leaves, at least */
#define BP_FROZEN_FEWEST 64
#define BP_FROZEN_TEXT 32768

struct bp_frozen_facts {
    char magic[8]; /* "BPFROZEN" */
    uint32_t version;
    int32_t pid;          /* of the process, as it sees itself */
    uint32_t slots;       /* how many, */
    uint32_t slot_offset; /* of the first, */
    uint32_t slot_size;   /* bytes of one */
    uint32_t text_offset; /* from the slot's start */
    uint32_t json_offset;
    uint32_t text_size; /* bytes that text, and that json, may have */
};

enum bp_frozen_state { BP_FROZEN_EMPTY, BP_FROZEN_WRITING, BP_FROZEN_STOPPED };
enum bp_frozen_wish { BP_WISH_NONE, BP_WISH_RESUME, BP_WISH_ABORT };
enum bp_frozen_where { BP_FROZEN_IN_KERNEL /* asleep on the fault */, BP_FROZEN_IN_HANDLER };

struct bp_frozen_slot {
    _Atomic uint32_t state;
    _Atomic uint32_t wish;
    _Atomic int32_t thread;
    _Atomic uint32_t where;
    _Atomic int64_t since_ns; /* CLOCK_REALTIME */
    _Atomic uint64_t pool_address;
    _Atomic uint64_t address;
    _Atomic uint64_t pc;
    _Atomic uint64_t sp;
    uint32_t text_length;
    uint32_t json_length;
    char text[BP_FROZEN_TEXT];
    char json[BP_FROZEN_TEXT];
    struct bp_frames frames; /* for the making of the texts: a handler's stack is small */
};

/* Makes the record, if this process has none. Errors: -errno. Async-signal-safe. */
int bp_frozen_prepare(void);

/* Writes a stopped thread down, in place of what its slot said before. NULL: all slots are taken, or there is no
 * memory. Async-signal-safe. */
struct bp_frozen_slot *bp_frozen_add(const bufpool_fault *fault, uint64_t sp, enum bp_frozen_where where);

/* The n-th slot of this process; NULL past the last, or where there is no record. Async-signal-safe. */
struct bp_frozen_slot *bp_frozen_at(int n);

/* The slot of a thread that is asleep in the kernel, or NULL. Async-signal-safe. */
struct bp_frozen_slot *bp_frozen_asleep(int32_t thread);

void bp_frozen_remove(struct bp_frozen_slot *slot);

#endif
