/*
 * buffers.h: a buffer array as PostgreSQL has one, in shared memory of its own making.
 *
 * One piece of shared memory, made before the backends are forked: descriptors first, then the blocks, each in the place
 * of its buffer's number. A backend counts its own pins privately, and shows others only whether it has any; who needs a
 * buffer takes one that nobody has pinned, by clock sweep, and writes it back first if it is dirty. The names in brackets
 * are PostgreSQL's.
 *
 * All that bufpool is told is in four places of buffers.c: bufpool_adopt() of the blocks when a backend starts, and
 * bufpool_pin() and bufpool_unpin_for() where the backend's first pin of a buffer begins and its last one ends, and where
 * it takes and leaves the content lock for writing.
 */
#ifndef PG_BUFFERS_H
#define PG_BUFFERS_H

#include <bufpool/bufpool.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PG_BLOCK 8192 /* bytes [BLCKSZ] */
#define PG_BUFFERS 16 /* [NBuffers] */
#define PG_BLOCKS 64  /* of the one table that there is */
#define PG_NONE UINT32_MAX

struct pg_descriptor { /* [BufferDesc] */
    uint32_t block;    /* PG_NONE: empty */
    uint32_t pins;     /* backends that have it pinned */
    uint32_t usage;    /* clock sweeps that it outlives */
    bool dirty;
    pthread_rwlock_t content;
};

struct pg_shared {
    pthread_mutex_t mapping; /* of all descriptors, but for their content locks [BufMappingLock] */
    uint32_t hand;           /* of the clock */
    uint64_t reads, evictions;
    uint64_t increments; /* what the backends have done, to be found in the blocks at the end */
    bufpool_state stray; /* what the last backend that strayed has met; 0: nobody has */
    uint64_t stray_buffer;
    struct pg_descriptor buffers[PG_BUFFERS];
};

struct pg_backend {
    struct pg_shared *shared;
    char *blocks;
    int file;                    /* the table */
    bufpool_pool *pool;          /* of the blocks */
    uint32_t pinned[PG_BUFFERS]; /* [PrivateRefCount] */
};

/* Before the backends are forked. false: no such memory is to be had, and errno says why. */
bool pg_create(bool sysv, struct pg_backend *backend);

/* In each backend: the blocks become a pool of its own. Errors: those of bufpool_adopt(). */
int pg_start(struct pg_backend *backend);
void pg_end(struct pg_backend *backend);

/* The number of the buffer that has the block, pinned [ReadBuffer, ReleaseBuffer]. */
uint32_t pg_read(struct pg_backend *backend, uint32_t block);
void pg_release(struct pg_backend *backend, uint32_t buffer);

/* For writing: the buffer is dirty then [LockBuffer, MarkBufferDirty]. */
void pg_lock(struct pg_backend *backend, uint32_t buffer, bool write);
void pg_unlock(struct pg_backend *backend, uint32_t buffer, bool write);

/* [BufferGetPage] */
uint64_t *pg_page(const struct pg_backend *backend, uint32_t buffer);

/* Writes every dirty buffer to the table. Nobody else may be at work. */
void pg_checkpoint(struct pg_backend *backend);

#endif
