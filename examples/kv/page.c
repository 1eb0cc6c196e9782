/* page.c: entries of a page, see page.h. */
#include "page.h"

#include <string.h>

int kv_compare(struct kv_text one, struct kv_text other)
{
    int order = memcmp(one.bytes, other.bytes, one.size < other.size ? one.size : other.size);
    return order != 0 ? order : (int)one.size - (int)other.size;
}

struct head {
    uint64_t number;
    uint16_t key_size;
    uint16_t value_size;
};

#define HEAD 12 /* bytes; the key follows, and the value */

bool kv_entry_at(const struct kv_page *page, unsigned index, struct kv_entry *entry)
{
    /* Each word is read once: it may be another page's a moment later. */
    unsigned at = *(const volatile uint16_t *)&page->at[index];
    if (at > KV_PAGE_SIZE - sizeof(struct head) || at % _Alignof(struct head) != 0) {
        return false;
    }
    const volatile struct head *head = (const void *)((const char *)page + at);
    const char *bytes = (const char *)page + at + HEAD;
    entry->number = head->number;
    entry->key = (struct kv_text){bytes, head->key_size};
    entry->value = (struct kv_text){bytes + entry->key.size, head->value_size};
    return bytes + entry->key.size + entry->value.size <= (const char *)page + KV_PAGE_SIZE;
}

int kv_page_find(const struct kv_page *page, unsigned count, struct kv_text key, bool *equal)
{
    int low = 0;
    int high = (int)count;
    *equal = false;
    while (low < high) {
        int middle = (low + high) / 2;
        struct kv_entry entry;
        if (!kv_entry_at(page, (unsigned)middle, &entry)) {
            return -2;
        }
        int order = kv_compare(entry.key, key);
        *equal = *equal || order == 0;
        if (order <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low - 1;
}

size_t kv_entry_size(const struct kv_entry *entry)
{
    size_t size = HEAD + (size_t)entry->key.size + entry->value.size;
    return sizeof(uint16_t) + (size + 7) / 8 * 8;
}

void kv_image_begin(union kv_image *image, uint64_t version, uint16_t level)
{
    memset(image, 0, sizeof *image);
    image->page.version = version;
    image->page.level = level;
    image->page.begin = KV_PAGE_SIZE;
}

void kv_image_add(union kv_image *image, const struct kv_entry *entry)
{
    struct kv_page *page = &image->page;
    struct head head = {entry->number, entry->key.size, entry->value.size};
    page->begin -= (uint16_t)(kv_entry_size(entry) - sizeof page->at[0]);
    page->at[page->count++] = page->begin;
    char *bytes = image->bytes + page->begin;
    memcpy(bytes, &head, HEAD);
    memcpy(bytes + HEAD, entry->key.bytes, entry->key.size);
    if (entry->value.size > 0) {
        memcpy(bytes + HEAD + entry->key.size, entry->value.bytes, entry->value.size);
    }
}
