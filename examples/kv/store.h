/*
 * store.h: the pages of the store, in a pool that many processes have.
 *
 * A page is written once, when it is allocated, and never changed: a change of the tree writes new pages, publishes the
 * new root with one atomic store, and frees the pages that it has replaced. Page 0 alone is written in place: it holds
 * the root, the writers' latch, and which pages the change under way has allocated and will free. A writer that is
 * killed has either published or not; whoever takes the latch next finishes that change, or undoes it.
 *
 * Readers take no latch. A page that is freed under them is a hole, which restarts them (optimistic.h); one whose number
 * was given out again has a version later than the root they came from.
 */
#ifndef KV_STORE_H
#define KV_STORE_H

#include <bufpool/bufpool.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KV_PAGE_SIZE 8192
#define KV_MAX_DEPTH 10
#define KV_MAX_PAGES (2 * KV_MAX_DEPTH + 2) /* that one change allocates, or frees */

/* Where the tree is, in one word: the root's page number (0: the tree is empty) and the version, which counts changes. */
#define KV_ROOT(version, page) ((version) << 24 | (page))
#define KV_VERSION_OF(root) ((root) >> 24)
#define KV_PAGE_OF(root) ((root) & 0xffffff)

/* Page 0. */
struct kv_meta {
    pthread_mutex_t latch; /* robust; of writers */
    _Atomic uint64_t root;
    uint64_t next;            /* the number to try next */
    _Atomic uint64_t version; /* of the change under way */
    _Atomic uint32_t fresh_count;
    _Atomic uint32_t old_count;
    uint64_t fresh[KV_MAX_PAGES]; /* pages allocated for it */
    uint64_t old[KV_MAX_PAGES];   /* pages that it replaces */
    _Atomic uint64_t finished;    /* changes of killed writers */
    _Atomic uint64_t undone;
    _Atomic uint64_t idle; /* writers that were killed with the latch, and nothing to finish or undo */
};

struct kv_store {
    bufpool_pool *pool;
    struct kv_meta *meta;
    uint64_t pages;    /* in the pool */
    uint64_t restarts; /* of this process's readers */
};

/* All return 0 or the library's code; bufpool_last_error() has the sentence. */
int kv_create(struct kv_store *store, uint64_t capacity);
int kv_attach(struct kv_store *store, const bufpool_handle *handle);

/* A change: begin, any number of new and old pages, then commit or undo. */
int kv_begin(struct kv_store *store);
int kv_page_new(struct kv_store *store, const void *content, uint64_t *page);
void kv_page_old(struct kv_store *store, uint64_t page);
int kv_commit(struct kv_store *store, uint64_t root_page);
int kv_undo(struct kv_store *store);

#endif
