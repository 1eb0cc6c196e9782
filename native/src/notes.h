/*
 * notes.h: what a thread may ask for after a call: the error's sentence, how much of a batch is done, the last fault.
 *
 * On the heap, found through a pthread key and freed when the thread ends. Not in thread-local storage: the handler's
 * own block (thread.h) makes all such storage of the library come out of the few hundred bytes that the loader keeps.
 */
#ifndef BP_NOTES_H
#define BP_NOTES_H

#include <bufpool/bufpool.h>

struct bp_notes {
    char text[1024];
    size_t done;
    bufpool_fault fault; /* size 0: none yet */
};

/* This thread's notes, made at the first call. Without memory for them, one block that all such threads share: a
 * sentence may then be another thread's. Not async-signal-safe. */
struct bp_notes *bp_notes(void);

#endif
