/* page.h: searching in a page, and writing one. */
#ifndef KV_PAGE_H
#define KV_PAGE_H

#include "tree.h"

#define KV_ROOM (KV_PAGE_SIZE - sizeof(struct kv_page))

union kv_image {
    struct kv_page page;
    char bytes[KV_PAGE_SIZE];
};

/* The last entry whose key is not greater: its index, or -1 (before the first); -2: the page is not whole. */
int kv_page_find(const struct kv_page *page, unsigned count, struct kv_text key, bool *equal);

void kv_image_begin(union kv_image *image, uint64_t version, uint16_t level);
void kv_image_add(union kv_image *image, const struct kv_entry *entry);
size_t kv_entry_size(const struct kv_entry *entry);

#endif
