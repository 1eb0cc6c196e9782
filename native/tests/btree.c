/* btree.c: the B+tree of btree.h. */
#include "btree.h"

#include <bufpool/optimistic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A page's word: flags, and the version above them. */
#define LATCHED 1u
#define EVICTED 2u
#define ABSENT 4u /* no page of the tree */
#define FLAGS 7u
#define VERSION 8u

#define ENTRY (1 + BTREE_VALUE)
#define NO_PAGE UINT64_MAX

/* The content is read while others write it. What is read is in order before the word is looked at again, and what is
 * written is in order after the latch. (The sanitizer's own acquire must not be left by a jump, and it sees that the
 * accesses are atomic.) */
#if defined(__SANITIZE_THREAD__)
#define READING memory_order_relaxed
#else
#define READING memory_order_acquire
#endif

static void must(bool done, const char *what)
{
    if (!done) {
        char sentence[512] = "";
        bufpool_last_error(sentence, sizeof sentence);
        fprintf(stderr, "btree: %s failed (last error: %s)\n", what, sentence);
        abort();
    }
}

/* ---- Nodes: words. 0: level and count; a leaf then has entries, an inner node keys, and after all of them children ---- */

static _Atomic uint64_t *node(const struct btree *tree, uint64_t page)
{
    return (_Atomic uint64_t *)(uintptr_t)(tree->base + page * tree->page_size);
}

static uint64_t get(_Atomic uint64_t *at, uint64_t index)
{
    return atomic_load_explicit(at + index, READING);
}

static void set(_Atomic uint64_t *at, uint64_t index, uint64_t value)
{
    atomic_store_explicit(at + index, value, memory_order_release);
}

static void move(_Atomic uint64_t *to, uint64_t at, _Atomic uint64_t *from, uint64_t index, uint64_t count)
{
    if (to != from || at < index) {
        for (uint64_t i = 0; i < count; i++) {
            set(to, at + i, get(from, index + i));
        }
    } else {
        for (uint64_t i = count; i-- > 0;) {
            set(to, at + i, get(from, index + i));
        }
    }
}

static uint64_t level_of(uint64_t head)
{
    return head >> 32;
}

static uint64_t count_of(uint64_t head)
{
    return head & UINT32_MAX;
}

static void set_head(_Atomic uint64_t *at, uint64_t level, uint64_t count)
{
    set(at, 0, level << 32 | count);
}

static uint64_t key_place(uint64_t level, uint64_t index)
{
    return level == 0 ? 1 + index * ENTRY : 1 + index;
}

static uint64_t child_place(const struct btree *tree, uint64_t index)
{
    return 1 + tree->inner_most + index;
}

/* How many keys of the node are < key (or, for an inner node, <= key). */
static uint64_t search(_Atomic uint64_t *at, uint64_t level, uint64_t count, uint64_t key)
{
    uint64_t low = 0;
    while (low < count) {
        uint64_t middle = low + (count - low) / 2;
        uint64_t here = get(at, key_place(level, middle));
        if (here < key || (level > 0 && here == key)) {
            low = middle + 1;
        } else {
            count = middle;
        }
    }
    return low;
}

/* ---- Words ---- */

static uint64_t word_of(const struct btree *tree, uint64_t page)
{
    return atomic_load_explicit(&tree->words[page], memory_order_acquire);
}

static bool latch(struct btree *tree, uint64_t page, uint64_t seen)
{
    return !(seen & FLAGS) && atomic_compare_exchange_strong(&tree->words[page], &seen, seen | LATCHED);
}

/* With the flags that the page has from now on. */
static void unlatch(struct btree *tree, uint64_t page, uint64_t flags)
{
    uint64_t version = (atomic_load_explicit(&tree->words[page], memory_order_relaxed) & ~(uint64_t)FLAGS) + VERSION;
    atomic_store_explicit(&tree->words[page], version | flags, memory_order_release);
}

/* Undoes a latch under which nothing was changed. */
static void unlatch_same(struct btree *tree, uint64_t page, uint64_t seen)
{
    atomic_store_explicit(&tree->words[page], seen, memory_order_release);
}

/* ---- Pages come and go ---- */

static uint64_t new_page(struct btree *tree)
{
    uint64_t page;
    must(bufpool_allocate(tree->pool, NULL, 0, &page) == 0, "allocate");
    must(page < tree->pages, "a page number");
    atomic_store(&tree->words[page], (word_of(tree, page) & ~(uint64_t)FLAGS) | LATCHED);
    atomic_fetch_add(&tree->resident, 1);
    return page;
}

static void free_page(struct btree *tree, struct btree_user *user, uint64_t page)
{
    must(bufpool_free(tree->pool, page) == 0, "free");
    atomic_fetch_sub(&tree->resident, 1);
    unlatch(tree, page, ABSENT);
    user->freed++;
}

/* Brings an evicted page back, unless somebody else does. */
static void fix(struct btree *tree, struct btree_user *user, uint64_t page)
{
    uint64_t seen = word_of(tree, page);
    if ((seen & FLAGS) != EVICTED || !atomic_compare_exchange_strong(&tree->words[page], &seen, seen | LATCHED)) {
        return;
    }
    char content[8192];
    must(pread(tree->store, content, tree->page_size, (off_t)(page * tree->page_size)) == (ssize_t)tree->page_size,
         "reading the store");
    must(bufpool_populate(tree->pool, page, content, tree->page_size) == 0, "populate");
    atomic_fetch_add(&tree->resident, 1);
    unlatch(tree, page, 0);
    user->fixed++;
}

uint64_t btree_evict(struct btree *tree, struct btree_user *user, uint64_t *hand)
{
    uint64_t victims[8] = {0};
    uint64_t count = 0;
    for (uint64_t i = 0; i < tree->pages && count < 8; i++) {
        uint64_t page = (*hand)++ % tree->pages;
        uint64_t seen = word_of(tree, page);
        if (latch(tree, page, seen)) {
            must(pwrite(tree->store, (void *)node(tree, page), tree->page_size, (off_t)(page * tree->page_size)) ==
                     (ssize_t)tree->page_size,
                 "writing the store");
            victims[count++] = page;
        }
    }
    must(bufpool_evict_many(tree->pool, count, victims) == 0, "evict");
    atomic_fetch_sub(&tree->resident, count);
    for (uint64_t i = 0; i < count; i++) {
        unlatch(tree, victims[i], EVICTED);
    }
    user->evicted += count;
    return count;
}

/* ---- Going down, in a section ---- */

struct place {
    uint64_t page, seen;          /* the leaf, or the node that is to be split, and its word */
    uint64_t parent, parent_seen; /* NO_PAGE: it is the root */
    uint64_t parent_count;
    uint64_t level, count;
    uint64_t next;    /* the least key of the subtree to the right, or BTREE_LAST */
    uint64_t missing; /* the page that is evicted, or NO_PAGE */
};

static bool still(const struct btree *tree, uint64_t page, uint64_t seen)
{
    return word_of(tree, page) == seen;
}

static void pause_here(const struct btree *tree, uint64_t key, uint64_t seen)
{
    if (tree->pause != 0 && (key + seen / VERSION) % tree->pause == 0) {
        sched_yield();
    }
}

/* To the leaf of key, or with split only to the first full inner node. false: somebody changes something, or missing. */
static bool descend(const struct btree *tree, uint64_t key, bool split, struct place *at)
{
    *at = (struct place){.page = tree->root, .parent = NO_PAGE, .next = BTREE_LAST, .missing = NO_PAGE};
    at->seen = word_of(tree, at->page);
    for (;;) {
        if (at->seen & (LATCHED | ABSENT)) {
            return false;
        }
        if (tree->look && at->seen & EVICTED) {
            at->missing = at->page;
            return false;
        }
        _Atomic uint64_t *here = node(tree, at->page);
        uint64_t head = get(here, 0);
        at->level = level_of(head);
        at->count = count_of(head);
        if (!still(tree, at->page, at->seen)) {
            return false;
        }
        if (at->level == 0 || (split && at->count == tree->inner_most)) {
            return true;
        }
        uint64_t index = search(here, at->level, at->count, key);
        uint64_t child = get(here, child_place(tree, index));
        at->next = index < at->count ? get(here, key_place(at->level, index)) : at->next;
        pause_here(tree, key, at->seen);
        if (!still(tree, at->page, at->seen)) {
            return false;
        }
        uint64_t child_seen = word_of(tree, child);
        if (!still(tree, at->page, at->seen)) {
            return false;
        }
        at->parent = at->page;
        at->parent_seen = at->seen;
        at->parent_count = at->count;
        at->page = child;
        at->seen = child_seen;
    }
}

/* What a section is to find out: where the key is, and what is in the leaf. */
struct request {
    uint64_t key;
    bool split;
    struct place at;
    uint64_t index; /* of the key in the leaf, or where it would be */
    bool found;
    uint64_t *value;             /* to be filled in, or NULL */
    struct btree_entry *entries; /* the same, from the key on */
};

static bool read_leaf(const struct btree *tree, struct request *request)
{
    struct place *at = &request->at;
    _Atomic uint64_t *leaf = node(tree, at->page);
    request->index = search(leaf, 0, at->count, request->key);
    request->found = request->index < at->count && get(leaf, key_place(0, request->index)) == request->key;
    pause_here(tree, request->key, at->seen);
    if (request->found && request->value != NULL) {
        for (uint64_t i = 0; i < BTREE_VALUE; i++) {
            request->value[i] = get(leaf, key_place(0, request->index) + 1 + i);
        }
    }
    if (request->entries != NULL) {
        for (uint64_t i = request->index; i < at->count; i++) {
            struct btree_entry *entry = &request->entries[i - request->index];
            entry->key = get(leaf, key_place(0, i));
            for (uint64_t j = 0; j < BTREE_VALUE; j++) {
                entry->value[j] = get(leaf, key_place(0, i) + 1 + j);
            }
        }
    }
    return still(tree, at->page, at->seen);
}

/* Not inlined: what is between entering and leaving keeps no variable of the function that does both. */
__attribute__((noinline)) static bool look_up(const struct btree *tree, struct request *request)
{
    if (!descend(tree, request->key, request->split, &request->at)) {
        return false;
    }
    return request->at.level > 0 || read_leaf(tree, request);
}

static void find(struct btree *tree, struct btree_user *user, struct request *request)
{
    for (;;) {
        bufpool_section section;
        user->reads++;
        if (bufpool_optimistic_enter(&section)) {
            bool done = look_up(tree, request);
            bufpool_optimistic_leave(&section);
            if (done) {
                return;
            }
            user->invalidated++;
            if (request->at.missing != NO_PAGE) {
                fix(tree, user, request->at.missing);
            } else {
                sched_yield();
            }
        } else {
            user->restarts++;
            fix(tree, user, ((uintptr_t)section.address - tree->base) / tree->page_size);
        }
    }
}

/* ---- Operations ---- */

bool btree_lookup(struct btree *tree, struct btree_user *user, uint64_t key, uint64_t value[BTREE_VALUE])
{
    struct request request = {.key = key, .value = value};
    find(tree, user, &request);
    return request.found;
}

bool btree_lookup_plain(struct btree *tree, struct btree_user *user, uint64_t key, uint64_t value[BTREE_VALUE])
{
    struct request request = {.key = key, .value = value};
    do {
        user->reads++;
    } while (!look_up(tree, &request));
    return request.found;
}

uint64_t btree_scan(struct btree *tree, struct btree_user *user, uint64_t from, struct btree_entry *entries,
                    uint64_t *next)
{
    struct request request = {.key = from, .entries = entries};
    find(tree, user, &request);
    *next = request.at.next;
    return request.at.count - request.index;
}

/* The upper half of a node goes to an empty one; returns the key that divides them. */
static uint64_t move_half(struct btree *tree, _Atomic uint64_t *from, _Atomic uint64_t *to)
{
    uint64_t head = get(from, 0);
    uint64_t level = level_of(head);
    uint64_t count = count_of(head);
    uint64_t half = count / 2;
    uint64_t key = get(from, key_place(level, half));
    if (level == 0) {
        move(to, 1, from, key_place(0, half), (count - half) * ENTRY);
        set_head(to, 0, count - half);
    } else { /* the key goes up */
        move(to, 1, from, key_place(level, half + 1), count - half - 1);
        move(to, child_place(tree, 0), from, child_place(tree, half + 1), count - half);
        set_head(to, level, count - half - 1);
    }
    set_head(from, level, half);
    return key;
}

/* The root, latched, becomes the parent of two new nodes. */
static void split_root(struct btree *tree)
{
    uint64_t pages[2] = {new_page(tree), new_page(tree)};
    _Atomic uint64_t *root = node(tree, tree->root);
    _Atomic uint64_t *left = node(tree, pages[0]);
    uint64_t level = level_of(get(root, 0));
    move(left, 0, root, 0, tree->page_size / 8);
    uint64_t key = move_half(tree, left, node(tree, pages[1]));
    set(root, key_place(level + 1, 0), key);
    set(root, child_place(tree, 0), pages[0]);
    set(root, child_place(tree, 1), pages[1]);
    set_head(root, level + 1, 1);
    unlatch(tree, pages[0], 0);
    unlatch(tree, pages[1], 0);
}

/* Parent and node are latched, and the parent has room. */
static void split_node(struct btree *tree, uint64_t parent_page, uint64_t page)
{
    uint64_t right = new_page(tree);
    _Atomic uint64_t *parent = node(tree, parent_page);
    uint64_t level = level_of(get(parent, 0));
    uint64_t count = count_of(get(parent, 0));
    uint64_t key = move_half(tree, node(tree, page), node(tree, right));
    uint64_t index = search(parent, level, count, key);
    move(parent, key_place(level, index + 1), parent, key_place(level, index), count - index);
    move(parent, child_place(tree, index + 2), parent, child_place(tree, index + 1), count - index);
    set(parent, key_place(level, index), key);
    set(parent, child_place(tree, index + 1), right);
    set_head(parent, level, count + 1);
    unlatch(tree, right, 0);
}

static bool latch_both(struct btree *tree, const struct place *at)
{
    if (!latch(tree, at->parent, at->parent_seen)) {
        return false;
    }
    if (!latch(tree, at->page, at->seen)) {
        unlatch_same(tree, at->parent, at->parent_seen);
        return false;
    }
    return true;
}

static void split(struct btree *tree, struct btree_user *user, const struct place *at)
{
    if (at->parent == NO_PAGE) {
        if (latch(tree, at->page, at->seen)) {
            split_root(tree);
            unlatch(tree, at->page, 0);
            user->splits++;
        }
    } else if (latch_both(tree, at)) {
        split_node(tree, at->parent, at->page);
        unlatch(tree, at->page, 0);
        unlatch(tree, at->parent, 0);
        user->splits++;
    }
}

bool btree_put(struct btree *tree, struct btree_user *user, uint64_t key, const uint64_t value[BTREE_VALUE])
{
    for (;;) {
        struct request request = {.key = key, .split = true};
        struct place *at = &request.at;
        find(tree, user, &request);
        if (at->level > 0 || (at->count == tree->leaf_most && !request.found)) {
            split(tree, user, at);
            continue;
        }
        if (!latch(tree, at->page, at->seen)) {
            continue;
        }
        _Atomic uint64_t *leaf = node(tree, at->page);
        uint64_t place = key_place(0, request.index);
        if (!request.found) {
            move(leaf, place + ENTRY, leaf, place, (at->count - request.index) * ENTRY);
            set_head(leaf, 0, at->count + 1);
            set(leaf, place, key);
        }
        for (uint64_t i = 0; i < BTREE_VALUE; i++) {
            set(leaf, place + 1 + i, value[i]);
        }
        unlatch(tree, at->page, 0);
        return !request.found;
    }
}

/* The leaf of key leaves its parent; both are latched. */
static void unlink_leaf(struct btree *tree, uint64_t parent_page, uint64_t key)
{
    _Atomic uint64_t *parent = node(tree, parent_page);
    uint64_t level = level_of(get(parent, 0));
    uint64_t count = count_of(get(parent, 0));
    uint64_t index = search(parent, level, count, key);
    uint64_t gone = index > 0 ? index - 1 : 0; /* the key between it and a neighbour, who takes over its range */
    move(parent, key_place(level, gone), parent, key_place(level, gone + 1), count - gone - 1);
    move(parent, child_place(tree, index), parent, child_place(tree, index + 1), count - index);
    set_head(parent, level, count - 1);
}

bool btree_delete(struct btree *tree, struct btree_user *user, uint64_t key)
{
    for (;;) {
        struct request request = {.key = key};
        struct place *at = &request.at;
        find(tree, user, &request);
        if (!request.found) {
            return false;
        }
        if (at->count == 1 && at->parent != NO_PAGE && at->parent_count > 0) {
            if (latch_both(tree, at)) {
                unlink_leaf(tree, at->parent, key);
                free_page(tree, user, at->page);
                unlatch(tree, at->parent, 0);
                return true;
            }
        } else if (latch(tree, at->page, at->seen)) {
            _Atomic uint64_t *leaf = node(tree, at->page);
            uint64_t place = key_place(0, request.index);
            move(leaf, place, leaf, place + ENTRY, (at->count - request.index - 1) * ENTRY);
            set_head(leaf, 0, at->count - 1);
            unlatch(tree, at->page, 0);
            return true;
        }
    }
}

void btree_open(struct btree *tree, bufpool_pool *pool, uint64_t inner_most, bool look)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    must(bufpool_stats(pool, &statistics) == 0, "stats");
    uint64_t room = (statistics.page_size / 8 - 2) / 2;
    *tree = (struct btree){.pool = pool,
                           .base = statistics.address,
                           .page_size = statistics.page_size,
                           .pages = statistics.pages,
                           .leaf_most = (statistics.page_size / 8 - 1) / ENTRY,
                           .inner_most = inner_most == 0 ? room : inner_most,
                           .look = look};
    FILE *file = tmpfile();
    must(file != NULL && inner_most <= room && tree->page_size <= 8192, "opening");
    tree->store = dup(fileno(file));
    fclose(file);
    must(tree->store >= 0, "opening the store");
    tree->words = calloc(tree->pages, sizeof *tree->words);
    must(tree->words != NULL, "calloc");
    for (uint64_t page = 0; page < tree->pages; page++) {
        atomic_init(&tree->words[page], ABSENT);
    }
    tree->root = new_page(tree);
    set_head(node(tree, tree->root), 0, 0);
    unlatch(tree, tree->root, 0);
}

void btree_close(struct btree *tree)
{
    close(tree->store);
    free((void *)tree->words);
}
