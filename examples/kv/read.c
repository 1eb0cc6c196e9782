/* read.c: searching without a latch. */
#include "page.h"

#include <bufpool/optimistic.h>
#include <string.h>

enum { ABSENT, FOUND, STALE };

/* In a section. What is read of a page counts only if the page is still of the same version afterwards: until it is freed
 * it does not change, and what comes there next is of a version after root's. */
static int search(const struct kv_store *store, uint64_t root, struct kv_text key, struct kv_value *value)
{
    uint64_t number = KV_PAGE_OF(root);
    unsigned above = KV_MAX_DEPTH;
    while (number != 0) {
        const struct kv_page *page = kv_page_at(store, number);
        uint64_t version = *(const volatile uint64_t *)&page->version;
        atomic_thread_fence(memory_order_acquire);
        unsigned level = *(const volatile uint16_t *)&page->level;
        unsigned count = *(const volatile uint16_t *)&page->count;
        struct kv_entry entry = {0};
        bool equal;
        if (version > KV_VERSION_OF(root) || level >= above || count == 0 || count > KV_PAGE_SIZE / 16) {
            return STALE;
        }
        int index = kv_page_find(page, count, key, &equal);
        if (index == -2 || !kv_entry_at(page, index < 0 ? 0 : (unsigned)index, &entry) ||
            entry.value.size > KV_MAX_VALUE) {
            return STALE;
        }
        if (level == 0) {
            value->version = entry.number;
            value->size = entry.value.size;
            memcpy(value->bytes, entry.value.bytes, entry.value.size);
        }
        atomic_thread_fence(memory_order_acquire);
        if (*(const volatile uint64_t *)&page->version != version) {
            return STALE;
        }
        if (level == 0) {
            return equal ? FOUND : ABSENT;
        }
        number = entry.number;
        above = level;
    }
    return ABSENT;
}

bool kv_get(struct kv_store *store, struct kv_text key, struct kv_value *value)
{
    for (;;) {
        uint64_t root = atomic_load(&store->meta->root);
        bufpool_section section;
        if (bufpool_optimistic_enter(&section)) {
            int result = search(store, root, key, value);
            bufpool_optimistic_leave(&section);
            if (result != STALE) {
                return result == FOUND;
            }
        }
        store->restarts++; /* freed under us: the root has changed, too */
    }
}
