/*
 * tree.h: the B+tree, of pages that are written once (store.h).
 *
 * Leaves have the keys with their values; inner pages have, for each page below, a key that none of its keys is less than,
 * and that all keys before it are less than. All leaves are on one level.
 */
#ifndef KV_TREE_H
#define KV_TREE_H

#include "store.h"

#include <stddef.h>

#define KV_MAX_KEY 64
#define KV_MAX_VALUE 512

struct kv_text {
    const char *bytes;
    uint16_t size;
};

/* What a page has for a key: in a leaf the value, and the version that put it there, in an inner page the page below. */
struct kv_entry {
    struct kv_text key;
    struct kv_text value;
    uint64_t number;
};

struct kv_page {
    uint64_t version; /* that wrote it */
    uint16_t level;   /* 0: a leaf */
    uint16_t count;   /* of entries, in the order of their keys */
    uint16_t begin;   /* offset of the entry that was added last; they lie from the page's end downwards */
    uint16_t at[];    /* their offsets */
};

struct kv_value {
    uint64_t version;
    uint16_t size;
    char bytes[KV_MAX_VALUE];
};

/* *version: of the change. A delete of what is not there changes nothing: *version 0. */
int kv_put(struct kv_store *store, struct kv_text key, struct kv_text value, uint64_t *version);
int kv_delete(struct kv_store *store, struct kv_text key, uint64_t *version);

/* Takes no latch. What it finds was there at one moment between call and return. */
bool kv_get(struct kv_store *store, struct kv_text key, struct kv_value *value);

int kv_compare(struct kv_text one, struct kv_text other);

/* The entry, or false if the page is not whole: freed while it was read. */
bool kv_entry_at(const struct kv_page *page, unsigned index, struct kv_entry *entry);

static inline const struct kv_page *kv_page_at(const struct kv_store *store, uint64_t page)
{
    return (const struct kv_page *)bufpool_address(store->pool, page);
}

#endif
