/* check.c: see check.h. */
#include "check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct walk {
    const struct kv_store *store;
    struct kv_census *census;
    bool *seen;
    struct kv_text last; /* key */
};

static bool wrong(struct kv_census *census, const char *what, uint64_t page)
{
    if (census->wrong[0] == '\0') {
        snprintf(census->wrong, sizeof census->wrong, "page %" PRIu64 ": %s", page, what);
    }
    return false;
}

static bool state_is(const struct kv_store *store, uint64_t page, bufpool_state wanted)
{
    bufpool_state state;
    return bufpool_page_state(store->pool, page, &state) == 0 && state == wanted;
}

/* Keys of the page are >= low (if it has bytes) and < high (if it has). */
static bool walk_page(struct walk *walk, uint64_t number, int level, uint64_t version, struct kv_text low,
                      struct kv_text high)
{
    struct kv_census *census = walk->census;
    if (number == 0 || number >= walk->store->pages || walk->seen[number]) {
        return wrong(census, "no such page, or in the tree twice", number);
    }
    if (!state_is(walk->store, number, BUFPOOL_STATE_ALLOCATED)) {
        return wrong(census, "in the tree, but not allocated", number);
    }
    walk->seen[number] = true;
    census->pages++;
    const struct kv_page *page = kv_page_at(walk->store, number);
    if (page->level != level || page->version > version || page->count == 0) {
        return wrong(census, "of another level, a later version than the page above, or empty", number);
    }
    for (unsigned i = 0; i < page->count; i++) {
        struct kv_entry entry;
        struct kv_entry next = {.key = high};
        if (!kv_entry_at(page, i, &entry) || (i + 1u < page->count && !kv_entry_at(page, i + 1, &next))) {
            return wrong(census, "an entry that reaches over the page's end", number);
        }
        if (level > 0) {
            if (!walk_page(walk, entry.number, level - 1, page->version, i == 0 ? low : entry.key, next.key)) {
                return false;
            }
            continue;
        }
        if ((walk->last.bytes != NULL && kv_compare(walk->last, entry.key) >= 0) ||
            (low.bytes != NULL && kv_compare(entry.key, low) < 0) ||
            (high.bytes != NULL && kv_compare(entry.key, high) >= 0)) {
            return wrong(census, "a key that is not in its place", number);
        }
        if (entry.number > page->version) {
            return wrong(census, "a value of a later version than its page", number);
        }
        walk->last = entry.key;
        census->keys++;
    }
    return true;
}

static void look(struct walk *walk, uint64_t root)
{
    const struct kv_store *store = walk->store;
    uint64_t number = KV_PAGE_OF(root);
    struct kv_text open = {NULL, 0};
    walk->census->version = KV_VERSION_OF(root);
    walk->census->pages = 1;
    walk->seen[0] = true;
    if (number != 0) {
        int level = kv_page_at(store, number)->level;
        walk->census->depth = (unsigned)level + 1;
        if (!walk_page(walk, number, level, KV_VERSION_OF(root), open, open)) {
            return;
        }
    }
    for (uint64_t page = 0; page < store->pages; page++) {
        if (!walk->seen[page] && state_is(store, page, BUFPOOL_STATE_ALLOCATED)) {
            walk->census->leaked++;
            wrong(walk->census, "allocated, but not in the tree", page);
        }
    }
}

int kv_check(struct kv_store *store, struct kv_census *census)
{
    *census = (struct kv_census){0};
    struct walk walk = {store, census, calloc(store->pages, sizeof *walk.seen), {NULL, 0}};
    int code = walk.seen == NULL ? -ENOMEM : kv_begin(store);
    if (code == 0) {
        look(&walk, atomic_load(&store->meta->root));
        code = kv_undo(store);
    }
    free(walk.seen);
    return code;
}
