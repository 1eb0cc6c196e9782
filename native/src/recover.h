/*
 * recover.h: putting right what a process has left that was killed amid a call on a shared pool.
 *
 * It can have left pages BUSY: each of them is on its way from one state to another, and its state word says from where
 * and whose it is. What was being filled is emptied and becomes what it was; what was being freed or evicted is freed or
 * evicted. It can have left the scratch pattern noted, which went with its mapping. And its last calls may not be
 * counted, or not all: that is mended when next nobody is amid a call. Every step can be taken twice, so that whoever
 * repairs may be killed as well.
 *
 * Thread-safe, and async-signal-safe: system calls only. The caller is inside the pool.
 */
#ifndef BP_RECOVER_H
#define BP_RECOVER_H

#include "pool.h"

/* Repairs what every dead member has left. Returns how many there were. Cheap if there is none: one system call for each
 * member that lives. Does nothing for tables that are not shared. */
int bp_recover(bufpool_pool *pool);

/* The same for the one that has this page BUSY, or, if nobody has, those who show the scratch pattern there; or waits a
 * moment for another process that is at it. true: look again at the page. false: it lives. */
bool bp_recover_page(bufpool_pool *pool, uint64_t page);

/* The same for a page that is BUSY with a number that nobody has, which only damaged tables show. */
bool bp_recover_stranded(bufpool_pool *pool, uint64_t page);

/* Of those who count anew, or put counts right, only one may do so at a time. false: another does. */
bool bp_recover_alone(struct bp_pages *pages);
void bp_recover_done(struct bp_pages *pages);

/* If calls may be missing in the counts and nobody is amid a call, counts anew. */
void bp_recover_counts(bufpool_pool *pool);

#endif
