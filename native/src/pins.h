/*
 * pins.h: who uses which page: counts of pins, and what they open.
 *
 * One word a page, of this process only, in a table that takes memory only where a page was ever pinned: the counts of
 * read pins and of write pins, and CHANGING, which is the word's lock: whoever sets it does the kernel's work for the
 * page, and others wait. A pin that changes nothing for the kernel is one compare-and-swap.
 *
 * Who frees or evicts a page sets CHANGING over counts of zero, then BUSY (pages.h); who pins sets CHANGING and then
 * looks whether the page is allocated. Nobody waits for CHANGING where BUSY is set, too. So no two wait for each other,
 * and a page that is pinned keeps its frame.
 */
#ifndef BP_PINS_H
#define BP_PINS_H

#include "sample.h"
#include "space.h"

#include <bufpool/bufpool.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bufpool_pool;

/* "write": who has no write pin cannot write; "all": nor, without a pin, read. */
enum bp_pins_mode { BP_PINS_OFF, BP_PINS_COUNT, BP_PINS_WRITE, BP_PINS_ALL };

#define BP_PIN_BITS 15
#define BP_MAX_PINS ((1u << BP_PIN_BITS) - 1)
#define BP_PIN_READ 1u
#define BP_PIN_WRITE (1u << BP_PIN_BITS)
#define BP_PIN_LOOSE \
    (1u << 30) /* the page shows the scratch pattern, or lets writes through: a stray access is at it */
#define BP_PIN_CHANGING (1u << 31)
#define BP_READS(word) ((word) & BP_MAX_PINS)
#define BP_WRITES(word) ((word) >> BP_PIN_BITS & BP_MAX_PINS)
#define BP_PINS(word) ((word) & (BP_PIN_WRITE * BP_MAX_PINS + BP_MAX_PINS))

struct bp_pins {
    uintptr_t gate;     /* from bp_pins_nothing to the table that bp_pins_counts() looks at first */
    uint64_t gate_mask; /* its words less one */
    bool plain;         /* a pin is its count, and the kernel's work: see pins_plain.c */
    enum bp_pins_mode mode;
    _Atomic uint32_t *words;
    size_t mapped;
    _Atomic uint64_t given;    /* pins, since open */
    _Atomic uint64_t taken;    /* unpins */
    struct bp_sample sample;   /* where not all pages are closed */
    _Atomic uint64_t *writers; /* with BUFPOOL_PIN_KEYS: write pins by thread, see keys.h; else NULL */
};

/* NULL past the last. */
const char *bp_pins_name(enum bp_pins_mode mode);

/* How a page is open that nobody has pinned. */
enum bp_open bp_pins_unpinned(enum bp_pins_mode mode);

/* And with these pins. */
static inline enum bp_open bp_pins_opened(enum bp_open unpinned, uint32_t word)
{
    return BP_WRITES(word) != 0                              ? BP_OPEN_WRITE
           : BP_READS(word) != 0 && unpinned == BP_OPEN_NONE ? BP_OPEN_READ
                                                             : unpinned;
}

/* Errors: -ENOMEM. */
int bp_pins_open(struct bp_pins *pins, enum bp_pins_mode mode, uint32_t one_in, uint64_t seed, uint64_t pages);
void bp_pins_close(struct bp_pins *pins);
void bp_pins_forget(
    struct bp_pins *pins); /* which pages are guarded by sampling, too: nobody has the descriptor any more */

/* What a call is about. */
enum bp_pin_kind { BP_PIN_OF_READING, BP_PIN_OF_WRITING, BP_PIN_OF_ANY };

/* pins_plain.c: the shortest way, of a pool whose pins are plain. Errors: the kernel's, with a sentence. BP_PIN_UNUSUAL:
 * something is not as usual, and nothing is done. pool may be NULL. */
#define BP_PIN_UNUSUAL 1
int bp_pin_plainly(struct bufpool_pool *pool, uint64_t page, bool write);
int bp_unpin_plainly(struct bufpool_pool *pool, uint64_t page, enum bp_pin_kind kind);

/* The whole of it: with sampling, audit, provenance and keys. caller: where in the program. Errors: EARGUMENT, ESTATE,
 * -errno, with a sentence. */
int bp_pins_add(struct bufpool_pool *pool, uint64_t page, bool write, const void *caller);
int bp_pins_remove(struct bufpool_pool *pool, uint64_t page, enum bp_pin_kind kind, const void *caller);

/* The sentence: the kernel has refused what a pin or unpin takes. Returns the code. */
int bp_pins_refused(const struct bufpool_pool *pool, uint64_t page, bufpool_event event, int code);

int bp_pins_claim(struct bufpool_pool *pool, uint64_t page, const char *what);
void bp_pins_settle(struct bufpool_pool *pool, uint64_t page);
void bp_pins_choose(struct bufpool_pool *pool, const uint64_t *pages, size_t count);

/* "cannot what page 3": somebody else has its word for too long. */
int bp_pins_late(const struct bufpool_pool *pool, uint64_t page, const char *what);

static inline bool bp_pins_counted(const struct bp_pins *pins)
{
    return __builtin_expect(pins->mode != BP_PINS_OFF, 0);
}

/* Are the pins of this page counted? All that most calls do: the same few instructions where pins are off and where a few
 * pages are guarded by sampling. A descriptor that was cleared has the table that says no. */
extern const uint64_t bp_pins_nothing;

static inline bool bp_pins_counts(const struct bp_pins *pins, uint64_t page)
{
    uint64_t group = page / BP_SAMPLE_GROUP;
    const _Atomic uint64_t *table = (const _Atomic uint64_t *)((uintptr_t)&bp_pins_nothing + pins->gate);
    uint64_t word = atomic_load_explicit(&table[group / 64 & pins->gate_mask], memory_order_relaxed);
    return __builtin_expect(word >> (group % 64) & 1, 0) &&
           (bp_pins_counted(pins) || bp_sample_has(&pins->sample, page));
}

/* Pages were given frames, and are counted: chooses those that are guarded. */
static inline void bp_pins_sample(struct bufpool_pool *pool, const struct bp_pins *pins, const uint64_t *pages,
                                  size_t count)
{
    if (__builtin_expect(pins->sample.one_in != 0, 0)) {
        bp_pins_choose(pool, pages, count);
    }
}

/* For who is about to take the frame of a page: refuses one that is pinned (ESTATE, with a sentence that names what is to
 * be done, "free" or "evict"), and keeps pins away until bp_pins_release(). -EBUSY: another thread is about to. */
static inline int bp_pins_hold(struct bufpool_pool *pool, const struct bp_pins *pins, uint64_t page, const char *what)
{
    return bp_pins_counts(pins, page) ? bp_pins_claim(pool, page, what) : 0;
}

static inline void bp_pins_release(struct bufpool_pool *pool, const struct bp_pins *pins, uint64_t page)
{
    if (bp_pins_counts(pins, page)) {
        bp_pins_settle(pool, page);
    }
}

/* ---- For the handler, too: async-signal-safe ---- */

/* Sets CHANGING: until bp_pins_put() nobody pins, unpins, frees or evicts the page. false: it was not to be had in so many
 * looks, a tenth of a millisecond each; it may be the very call that was interrupted that has it. */
bool bp_pins_take(struct bufpool_pool *pool, uint64_t page, int patience, uint32_t *word);
void bp_pins_put(struct bufpool_pool *pool, uint64_t page, uint32_t word);

/* How a page with such a word is open, a sampled one, too; and what makes it so: 0, or the kernel's -errno. */
enum bp_open bp_pins_open_as(const struct bufpool_pool *pool, uint64_t page, uint32_t word);
int bp_pins_protect(struct bufpool_pool *pool, uint64_t page, enum bp_open from, enum bp_open to);

/* What an allocated page is to an access: UNPINNED, READ_ONLY, or ALLOCATED if its pins allow it. */
bufpool_state bp_pins_judge(const struct bufpool_pool *pool, uint64_t page, bufpool_access access);

/* How many pins it has. */
void bp_pins_read(const struct bufpool_pool *pool, uint64_t page, uint32_t *reads, uint32_t *writes);

/* Has anybody pinned it for writing? */
bool bp_pins_writing(const struct bufpool_pool *pool, uint64_t page);

/* A page whose pins allow the access is not there: shows again what the kernel has unmapped to reclaim it. true: run the
 * instruction again. */
bool bp_pins_show_again(struct bufpool_pool *pool, uint64_t page, uintptr_t address);

/* Lets a stray access to a page with data get to its end: a page that is closed shows the scratch pattern at the granule,
 * in place of its data, which stays as it is; at a page that others read it goes through. Sets *loose if the page was not
 * LOOSE before: then a slot has to stand for it, until bp_pins_rearm(). false: it cannot be had. */
bool bp_pins_divert(struct bufpool_pool *pool, uint64_t page, bufpool_access access, uintptr_t granule, bool *loose);
bool bp_pins_rearm(struct bufpool_pool *pool, uint64_t page);

/* ---- In a forked child ---- */

/* Opens what is pinned, in a space where every page is as it is when it has just been filled. */
int bp_pins_inherit(struct bufpool_pool *pool);

#endif
