/* verify.c: see verify.h. */
#include "verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The last acknowledged change of a word; version 0: none. */
struct last {
    uint64_t version;
    uint64_t id;
    bool is_delete;
};

struct open {
    uint64_t id;
    uint32_t word;
    bool is_delete;
};

struct books {
    struct last *words;
    struct open *open;
    bool *versions; /* which are acknowledged */
};

static void wrong(struct kv_verdict *verdict, const char *what, uint64_t number)
{
    if (verdict->wrong[0] == '\0') {
        snprintf(verdict->wrong, sizeof verdict->wrong, "%s: %llu", what, (unsigned long long)number);
    }
}

static void take(struct books *books, const struct kv_operation *operation, uint64_t id, uint64_t newest,
                 struct kv_verdict *verdict)
{
    uint64_t version = atomic_load(&operation->version);
    struct last *last = &books->words[operation->word];
    if (version == KV_NO_CHANGE) {
        return;
    }
    if (version == 0) {
        books->open[verdict->open++] = (struct open){id, operation->word, operation->is_delete};
        return;
    }
    if (version > newest || books->versions[version]) {
        wrong(verdict, "a version that was acknowledged twice, or never published", version);
        return;
    }
    books->versions[version] = true;
    verdict->acknowledged++;
    if (version > last->version) {
        *last = (struct last){version, id, operation->is_delete};
    }
}

static bool was_open(const struct books *books, uint64_t count, uint32_t word, bool is_delete, uint64_t id)
{
    for (uint64_t i = 0; i < count; i++) {
        const struct open *open = &books->open[i];
        if (open->word == word && open->is_delete == is_delete && (is_delete || open->id == id)) {
            return true;
        }
    }
    return false;
}

static void check_word(const struct kv_work *work, const struct books *books, uint32_t word, uint64_t newest,
                       struct kv_verdict *verdict)
{
    const struct last *last = &books->words[word];
    struct kv_value value;
    bool right = false;
    if (kv_get(work->store, kv_word(work->words, word), &value)) {
        uint64_t id = 0;
        verdict->there++;
        right = kv_value_is_right(work, word, &value) && value.version <= newest;
        memcpy(&id, value.bytes, sizeof id);
        if (right && (last->is_delete || id != last->id || value.version != last->version)) {
            right = value.version > last->version && !books->versions[value.version] &&
                    was_open(books, verdict->open, word, false, id);
            verdict->open_there += right;
        }
    } else if (last->version == 0 || last->is_delete) {
        right = true;
    } else {
        right = was_open(books, verdict->open, word, true, 0);
        verdict->open_there += right;
    }
    if (!right) {
        verdict->wrong_keys++;
        wrong(verdict, "a key is not as its last acknowledged change left it; word number", word);
    }
}

static void verify(const struct kv_work *work, const struct kv_census *census, struct books *books,
                   struct kv_verdict *verdict)
{
    for (uint32_t slot = 0; slot <= KV_MAX_WORKERS; slot++) {
        const struct kv_slot *of = &work->ledger->slots[slot];
        uint64_t count = atomic_load(&of->count);
        for (uint64_t i = 0; i < count; i++) {
            take(books, &of->operations[i], kv_id(slot, i), census->version, verdict);
        }
    }
    if (census->version - verdict->acknowledged > verdict->open) {
        wrong(verdict, "more changes were published than begun", census->version);
    }
    for (uint32_t word = 0; word < kv_words_count(work->words); word++) {
        check_word(work, books, word, census->version, verdict);
    }
    if (verdict->there != census->keys) {
        wrong(verdict, "the tree has another number of keys than were found", census->keys);
    }
}

int kv_verify(const struct kv_work *work, const struct kv_census *census, struct kv_verdict *verdict)
{
    uint64_t operations = 0;
    for (uint32_t slot = 0; slot <= KV_MAX_WORKERS; slot++) {
        operations += atomic_load(&work->ledger->slots[slot].count);
    }
    struct books books = {
        calloc(kv_words_count(work->words), sizeof *books.words),
        calloc(operations + 1, sizeof *books.open), /* touched only as far as it is used */
        calloc(census->version + 1, sizeof *books.versions),
    };
    *verdict = (struct kv_verdict){0};
    bool have = books.words != NULL && books.open != NULL && books.versions != NULL;
    if (have) {
        verify(work, census, &books, verdict);
    }
    free(books.words);
    free(books.open);
    free(books.versions);
    return have ? 0 : -ENOMEM;
}
