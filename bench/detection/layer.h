/*
 * layer.h: the thin allocator layer that each row is written against, once.
 *
 * layer_bufpool.c is bufpool; layer_own.c is what an engine has without it, and by which it tells a detector what is
 * closed. Pages are of 4 KiB. A call that the detector refuses returns -1 and has said why: say().
 */
#ifndef DETECTION_LAYER_H
#define DETECTION_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE 4096

struct layer;

struct layer *layer_open(const char *name, uint64_t pages, bool shared);
void layer_close(struct layer *pool);

/* A shared pool, to another process and from there, by a Unix socket. */
void layer_send(struct layer *pool, int socket);
struct layer *layer_receive(int socket);

uint64_t layer_allocate(struct layer *pool); /* without data */
int layer_free(struct layer *pool, uint64_t page);
int layer_evict(struct layer *pool, uint64_t page);
int layer_populate(struct layer *pool, uint64_t page, const void *data, size_t size);
int layer_pin(struct layer *pool, uint64_t page, bool write);
int layer_unpin(struct layer *pool, uint64_t page);
char *layer_at(struct layer *pool, uint64_t page);

/* Of a shared pool: its file, and where in it the page lies. */
int layer_file(struct layer *pool, uint64_t page, off_t *offset);

/* After a system call on a buffer has failed: can the detector tell why? True, and said so, if it can. */
bool layer_explain(const void *at, size_t size);

/* Does the detector know the bytes for a pattern of its own? Says so. */
void layer_pattern(const void *at, size_t size);

/* The page is as it is to stay; or it is to change. Then: which clean pages have changed? Says so. */
void layer_mark(struct layer *pool, uint64_t page, bool clean);
void layer_audit(struct layer *pool);

/* ---- What the runner reads, on standard error ---- */

void say(const char *kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* This cannot be had here, and why: ends the program. */
void lacking(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* No result of a call is passed over. */
#define MUST(condition) \
    do { \
        if (!(condition)) { \
            must_failed(__FILE__, __LINE__, #condition); \
        } \
    } while (0)
void must_failed(const char *file, int line, const char *condition) __attribute__((noreturn));

#endif
