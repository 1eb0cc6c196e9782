/*
 * tree.c: changes of the tree: the pages from a leaf up to the root are written anew.
 *
 * On each level entries of one page are replaced by others: the new value in the leaf, above it the pages that were written
 * below. What the page has then goes into one new page, or two if it is too much, or none if there is nothing; or, if it
 * is little, into one together with a neighbour's. Keys and values are read from the pages that are replaced: they are
 * there until the commit.
 */
#include "page.h"

#include <string.h>

#define LITTLE (KV_ROOM / 4)     /* bytes; with so much a page looks for a neighbour to merge with */
#define MERGED (KV_ROOM / 4 * 3) /* bytes; at most that much in a merged page */
#define MAX_ENTRIES 1024         /* of two pages */

struct list {
    size_t count;
    size_t bytes;
    struct kv_entry entries[MAX_ENTRIES];
};

/* What becomes of entries [from, to) of a page. */
struct edit {
    unsigned from;
    unsigned to;
    unsigned count;
    struct kv_entry entries[2];
};

struct step {
    uint64_t number;
    const struct kv_page *page;
    unsigned index; /* of the entry that leads on */
};

struct path {
    unsigned depth;
    bool equal; /* the leaf has the key, at index; else it belongs at index */
    struct step steps[KV_MAX_DEPTH];
};

/* The writer has the latch, so nothing that it reads is freed. */
static void descend(const struct kv_store *store, struct kv_text key, struct path *path)
{
    uint64_t number = KV_PAGE_OF(atomic_load(&store->meta->root));
    path->depth = 0;
    path->equal = false;
    while (number != 0) {
        struct step *step = &path->steps[path->depth++];
        *step = (struct step){number, kv_page_at(store, number), 0};
        int index = kv_page_find(step->page, step->page->count, key, &path->equal);
        if (step->page->level == 0) {
            step->index = (unsigned)(path->equal ? index : index + 1);
            return;
        }
        struct kv_entry entry;
        step->index = index < 0 ? 0 : (unsigned)index;
        kv_entry_at(step->page, step->index, &entry);
        number = entry.number;
    }
}

static void append(struct list *list, const struct kv_entry *entry)
{
    list->entries[list->count++] = *entry;
    list->bytes += kv_entry_size(entry);
}

static void append_page(struct list *list, const struct kv_page *page, const struct edit *edit)
{
    struct kv_entry entry;
    for (unsigned i = 0; i <= page->count; i++) {
        for (unsigned n = 0; i == edit->from && n < edit->count; n++) {
            append(list, &edit->entries[n]);
        }
        if (i < page->count && (i < edit->from || i >= edit->to)) {
            kv_entry_at(page, i, &entry);
            append(list, &entry);
        }
    }
}

/* The first entry of an inner page may have a key that is greater than some of those below it, because what was before
 * it has been deleted. Behind another page's entries it takes the key that the page above has. */
static void rename_entry(struct list *list, size_t index, struct kv_text key)
{
    struct kv_entry *entry = &list->entries[index];
    list->bytes -= kv_entry_size(entry);
    entry->key = key;
    list->bytes += kv_entry_size(entry);
}

/* Fills the list with what the page has after the edit, and says in `up` which entries of the page above are to go. */
static void gather(struct kv_store *store, const struct step *step, const struct step *above, const struct edit *edit,
                   struct list *list, struct edit *up)
{
    const struct edit none = {UINT32_MAX, UINT32_MAX, 0, {{{0}, {0}, 0}}};
    list->count = 0;
    list->bytes = 0;
    append_page(list, step->page, edit);
    kv_page_old(store, step->number);
    *up = (struct edit){0};
    if (above == NULL) {
        return;
    }
    *up = (struct edit){above->index, above->index + 1, 0, {{{0}, {0}, 0}}};
    if (list->count == 0 || list->bytes > LITTLE || above->page->count < 2) {
        return;
    }
    bool before = above->index > 0;
    struct kv_entry entry;
    kv_entry_at(above->page, before ? above->index - 1 : above->index + 1, &entry);
    const struct kv_page *neighbour = kv_page_at(store, entry.number);
    if (list->bytes + KV_PAGE_SIZE - neighbour->begin + neighbour->count * sizeof neighbour->at[0] > MERGED) {
        return;
    }
    up->from -= before;
    up->to += !before;
    kv_page_old(store, entry.number);
    if (before) {
        list->count = 0;
        list->bytes = 0;
        append_page(list, neighbour, &none);
    }
    size_t middle = list->count;
    append_page(list, before ? step->page : neighbour, before ? edit : &none);
    if (step->page->level > 0) {
        kv_entry_at(above->page, up->to - 1, &entry);
        rename_entry(list, middle, entry.key);
    }
}

/* Writes the list to one page or two; `up` receives the entries for the page above, the first without its key. */
static int write_pages(struct kv_store *store, const struct list *list, uint16_t level, struct edit *up)
{
    union kv_image image;
    size_t most = list->bytes <= KV_ROOM ? list->bytes : list->bytes / 2;
    size_t next = 0;
    up->count = 0;
    while (next < list->count) {
        struct kv_entry *entry = &up->entries[up->count];
        *entry = (struct kv_entry){list->entries[next].key, {NULL, 0}, 0};
        kv_image_begin(&image, atomic_load(&store->meta->version), level);
        for (size_t bytes = 0; next < list->count && (up->count == 1 || bytes < most); next++) {
            bytes += kv_entry_size(&list->entries[next]);
            kv_image_add(&image, &list->entries[next]);
        }
        int code = kv_page_new(store, &image, &entry->number);
        if (code < 0) {
            return code;
        }
        up->count++;
    }
    return 0;
}

/* Writes all levels anew; *root is the new root's number. */
static int rewrite(struct kv_store *store, const struct path *path, const struct edit *edit, uint64_t *root)
{
    static struct list list; /* too large for the stack; who has the latch has it */
    struct edit now = *edit;
    struct edit up;
    for (unsigned depth = path->depth; depth-- > 0;) {
        const struct step *step = &path->steps[depth];
        const struct step *above = depth > 0 ? &path->steps[depth - 1] : NULL;
        gather(store, step, above, &now, &list, &up);
        if (above == NULL && step->page->level > 0 && list.count == 1) {
            *root = list.entries[0].number; /* the page below is the root */
            return 0;
        }
        int code = write_pages(store, &list, step->page->level, &up);
        if (code < 0) {
            return code;
        }
        struct kv_entry first;
        if (above != NULL && up.count > 0) {
            kv_entry_at(above->page, up.from, &first);
            up.entries[0].key = first.key;
        }
        now = up;
    }
    if (path->depth > 0 && now.count < 2) {
        *root = now.count == 0 ? 0 : now.entries[0].number;
        return 0;
    }
    /* A level more: the first one, or because the root was split. */
    list.count = 0;
    list.bytes = 0;
    for (unsigned i = 0; i < now.count; i++) {
        append(&list, &now.entries[i]);
    }
    int code = write_pages(store, &list, path->depth == 0 ? 0 : path->steps[0].page->level + 1, &up);
    *root = up.entries[0].number;
    return code;
}

static int change(struct kv_store *store, const struct kv_entry *entry, bool remove, uint64_t *version)
{
    int code = kv_begin(store);
    if (code < 0) {
        return code;
    }
    struct path path;
    descend(store, entry->key, &path);
    *version = 0;
    if (remove && !path.equal) {
        return kv_undo(store);
    }
    unsigned index = path.depth == 0 ? 0 : path.steps[path.depth - 1].index;
    struct edit edit = {index, index + path.equal, !remove, {*entry}};
    edit.entries[0].number = atomic_load(&store->meta->version);
    uint64_t root;
    code = rewrite(store, &path, &edit, &root);
    if (code < 0) {
        kv_undo(store);
        return code;
    }
    *version = edit.entries[0].number;
    return kv_commit(store, root);
}

int kv_put(struct kv_store *store, struct kv_text key, struct kv_text value, uint64_t *version)
{
    return change(store, &(struct kv_entry){key, value, 0}, false, version);
}

int kv_delete(struct kv_store *store, struct kv_text key, uint64_t *version)
{
    return change(store, &(struct kv_entry){key, {NULL, 0}, 0}, true, version);
}
