/*
 * keys.h: who may write a pool, thread by thread, by a memory protection key of the processor.
 *
 * The whole mapping of a pool with BUFPOOL_PIN_KEYS carries one key (space.key). What a thread may do there stands in a
 * register of its own, PKRU on x86-64: to read, and to write while it has a page of the pool pinned for writing. The truth
 * is the table of counts below, and the register follows it, since others change that, too: threads begin with what their
 * creator had, and those that are older than the key, and every signal handler, with no access at all. So of a fault by the
 * key it is first asked whether the thread has the right: then the register is set in the interrupted state, and the
 * instruction is run again, unreported.
 */
#ifndef BP_KEYS_H
#define BP_KEYS_H

#include "pool.h"

#include <signal.h>

/* Takes a key that nobody may use but for reading. Errors: EUNSUPPORTED, with a sentence. */
int bp_keys_take(void);

/* The counts of write pins by thread. Errors: -ENOMEM. */
int bp_keys_open(struct bp_pins *pins);
void bp_keys_close(struct bp_pins *pins);

/* Brings this thread's register in line; at the beginning of each call on the pool. */
void bp_keys_follow(const bufpool_pool *pool);

/* This thread has one write pin more, or less. Errors of the first: EEXHAUSTED, with a sentence. */
int bp_keys_add(bufpool_pool *pool);
void bp_keys_remove(bufpool_pool *pool);

/* Has this thread a write pin? */
bool bp_keys_may_write(const bufpool_pool *pool);

/* Does the pool's key keep this thread from such an access? */
bool bp_keys_forbid(const bufpool_pool *pool, bufpool_access access);

/* The library itself writes to the pool, until bp_keys_follow(). */
void bp_keys_lend(const bufpool_pool *pool);

/* In a forked child: the pins of the thread that forked are this one's still; others have no thread here. */
void bp_keys_inherit(bufpool_pool *pool);

/* ---- For the handler: async-signal-safe ---- */

/* Goes on with the rights of the interrupted code, which the kernel has taken away; and puts back what there was. */
int64_t bp_keys_enter(void *context);
void bp_keys_leave(int64_t before);

/* Is it a fault by this pool's key? */
bool bp_keys_is_fault(const bufpool_pool *pool, int signo, const siginfo_t *info);

/* true: the thread has the right to that access, and the interrupted code has it, too, from now on. */
bool bp_keys_admit(const bufpool_pool *pool, void *context, bufpool_access access);

/* The interrupted code may write, until the thread's next call on the pool. */
void bp_keys_let_through(const bufpool_pool *pool, void *context);

#endif
