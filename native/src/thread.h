/*
 * thread.h: what the library knows about the running thread.
 *
 * One block of less than 200 bytes of thread-local storage with the initial-exec model, so that a signal handler may read
 * it without the loader allocating anything. glibc keeps 512 bytes for all libraries that are loaded late (glibc.rtld.
 * optional_static_tls), so this is the only thread-local storage of the library; notes.h has the rest.
 */
#ifndef BP_THREAD_H
#define BP_THREAD_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bp_owed;
struct bufpool_section;

struct bp_thread {
    struct bufpool_section *section; /* innermost guarded call or optimistic section, or NULL */
    sigjmp_buf *probe;               /* where a fault of our own handler's careful reads goes, or NULL */
    uintptr_t probe_from;            /* what such a read copies: */
    uintptr_t probe_to;
    size_t probe_size;         /* 0: any address */
    struct bp_owed *owed;      /* the faults owed to this thread, or NULL */
    uint64_t epoch;            /* counts this thread's calls into the library */
    uint64_t last_epoch;       /* the last diverted stray access: in which epoch, */
    uint64_t last_pc;          /* by which instruction, */
    uint64_t last_address;     /* where */
    uint32_t restarts;         /* how often in a row it was run again in vain */
    uint32_t caller;           /* what bufpool_set_caller() said: a text in the depot, 0, or BP_DEPOT_LOST */
    uint64_t place;            /* what bufpool_set_place() said */
    uint64_t retried_pc;       /* the last fault of an allocated page that was run again: by which instruction, */
    uint64_t retried_address;  /* where */
    uint32_t retried;          /* and how many times more */
    uint32_t last_ms;          /* when the last diverted stray access was made (monotonic, wraps) */
    uint32_t scratches;        /* granules this thread's stray accesses diverted and that are not re-armed yet */
    int32_t id;                /* kernel thread id, 0 until asked for, */
    int32_t id_process;        /* and the process that it was asked in */
    uint32_t serial;           /* a number that no other thread of this process ever has, 0 until it has one */
    uint64_t answered_address; /* of the last fault that we answered */
    uintptr_t callback_frame;  /* of the handler that called the host's fault callback, or 0 */
    uint64_t passed_pc;        /* the last fault that was passed on: by which instruction, */
    uint64_t passed_address;   /* where, */
    uint32_t passed_again;     /* and how often in a row */
    uint32_t fills;            /* calls under way that hand the kernel the caller's data to fill pages from */
    uint8_t passing[2];        /* for SIGBUS and SIGSEGV: how many older handlers are running */
    bool let_go;               /* the last signal was a fault's, raised again by another handler, and let go */
    uint16_t inside;           /* how many pools this thread is inside of, see bp_pool_visit() */
    uint16_t interned;         /* this thread's number in the table of interned.h, 0 until it has one */
    uintptr_t passing_frame[2];
};

extern _Thread_local struct bp_thread bp_thread __attribute__((tls_model("initial-exec")));

/* This thread's kernel id. Async-signal-safe. */
int32_t bp_thread_id(void);

/* This thread's number, that no other thread of this process ever has. Async-signal-safe. */
uint32_t bp_thread_number(void);

static inline uint32_t bp_thread_serial(void)
{
    return bp_thread.serial != 0 ? bp_thread.serial : bp_thread_number();
}

/* A word that tells this process from all that it descends from, which a process id does not. It is 0 in a child until
 * the fork handler (fork.h) or, where that was not run, the first open or fork sets it. Async-signal-safe. Read from
 * memory that the kernel wipes on fork (MADV_WIPEONFORK), so that not even a raw clone escapes. */
extern _Atomic int32_t *bp_process_word;

static inline int32_t bp_process(void)
{
    return bp_process_word == NULL ? 0 : atomic_load_explicit(bp_process_word, memory_order_relaxed);
}

/* Is this a child in which nobody has set the word? Says so to one thread, which then has to. */
bool bp_process_is_new(void);

/* Sets the word up for this process. Errors: -errno. */
int bp_process_prepare(void);

/* In a new process: forgets what this thread's block says of the parent's. */
void bp_thread_renew(void);

#endif
