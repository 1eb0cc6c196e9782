/*
 * audit.h: which clean pages have changed: those that nobody may write just now, and somebody has.
 *
 * A page is clean from the moment its last write pin goes, or its owner says so, until it is pinned for writing, or its
 * owner says that it is to change. One word a page, of this process only, in a table that takes memory only where a page was
 * ever clean: bit 0, it is clean; bits 1-31, a version, which every change of the word raises; bits 32-63, its checksum.
 *
 * "track": the page is write-protected, and the kernel takes that away by itself at the first write, of whatever kind;
 * so what is clean and not protected has changed. "checksum": the content is summed up, and again by the audit.
 *
 * Who is about to write raises the version before he does, so a page that was found changed is found so under one version,
 * or not at all: a legal write is never reported.
 */
#ifndef BP_AUDIT_H
#define BP_AUDIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bufpool_pool;

enum bp_audit_mode { BP_AUDIT_OFF, BP_AUDIT_TRACK, BP_AUDIT_CHECKSUM };

struct bp_audit {
    enum bp_audit_mode mode;
    _Atomic uint64_t *words;
    size_t mapped;
    _Atomic uint64_t clean; /* pages, now */
};

/* NULL past the last. */
const char *bp_audit_name(enum bp_audit_mode mode);

/* Errors: -ENOMEM. */
int bp_audit_open(struct bp_audit *audit, enum bp_audit_mode mode, uint64_t pages);
void bp_audit_close(struct bp_audit *audit);

/* Is there what "track" asks of the kernel beside its userfaultfd? Errors: EUNSUPPORTED, with a sentence. */
int bp_audit_probe(const struct bufpool_pool *pool);

void bp_audit_set_dirty(struct bufpool_pool *pool, uint64_t page);

/* The page, which is allocated and has no write pin, is clean from here on. -errno: it is not watched. */
int bp_audit_set_clean(struct bufpool_pool *pool, uint64_t page);

/* In a forked child. */
void bp_audit_inherit(struct bufpool_pool *pool);

static inline bool bp_audit_is_on(const struct bp_audit *audit)
{
    return __builtin_expect(audit->mode != BP_AUDIT_OFF, 0);
}

/* The page may change, or loses its frame. */
static inline void bp_audit_forget(struct bufpool_pool *pool, const struct bp_audit *audit, uint64_t page)
{
    if (bp_audit_is_on(audit)) {
        bp_audit_set_dirty(pool, page);
    }
}

#endif
