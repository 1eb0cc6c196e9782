/* worker.c: see worker.h. */
#include "worker.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

int kv_write(const struct kv_work *work, uint32_t word, bool is_delete)
{
    struct kv_slot *slot = &work->ledger->slots[work->slot];
    uint64_t index = atomic_load(&slot->count);
    struct kv_operation *operation = &slot->operations[index];
    struct kv_text key = kv_word(work->words, word);
    char buffer[KV_MAX_VALUE];
    uint64_t version;
    operation->word = word;
    operation->is_delete = is_delete;
    atomic_store(&slot->count, index + 1);
    struct kv_text value = kv_word_value(work->words, word, kv_id(work->slot, index), buffer);
    int code = is_delete ? kv_delete(work->store, key, &version) : kv_put(work->store, key, value, &version);
    if (code == 0) {
        atomic_store(&operation->version, version == 0 ? KV_NO_CHANGE : version);
        atomic_fetch_add(is_delete ? &slot->deletes : &slot->puts, version > 0);
    } else if (code == BUFPOOL_EEXHAUSTED) {
        atomic_store(&operation->version, KV_NO_CHANGE);
        atomic_fetch_add(&slot->refused, 1);
    }
    return code;
}

bool kv_value_is_right(const struct kv_work *work, uint32_t word, const struct kv_value *value)
{
    char buffer[KV_MAX_VALUE];
    uint64_t id;
    if (value->size < sizeof id) {
        return false;
    }
    memcpy(&id, value->bytes, sizeof id);
    struct kv_text wanted = kv_word_value(work->words, word, id, buffer);
    uint32_t index = (uint32_t)id;
    const struct kv_slot *slot = &work->ledger->slots[(id >> 32) % (KV_MAX_WORKERS + 1)];
    return value->size == wanted.size && memcmp(value->bytes, wanted.bytes, wanted.size) == 0 &&
           index < atomic_load(&slot->count) && slot->operations[index].word == word &&
           !slot->operations[index].is_delete;
}

static uint64_t state; /* of random() */

static uint32_t below(uint32_t end)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) % end);
}

/* The tree grows for three seconds and shrinks for three. */
static bool is_shrinking(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec / 3 % 2 == 1;
}

static int fail(struct kv_slot *slot, const char *what, struct kv_text word)
{
    snprintf(slot->wrong, sizeof slot->wrong, "%s: %.*s", what, (int)word.size, word.bytes);
    return 1;
}

static int library_error(struct kv_slot *slot, const char *what)
{
    char sentence[200];
    bufpool_last_error(sentence, sizeof sentence);
    snprintf(slot->wrong, sizeof slot->wrong, "%s: %.200s", what, sentence);
    return 1;
}

/* Some words are never deleted, so that a get that wrongly finds nothing is noticed. */
static bool stays(uint32_t word)
{
    return word % 8 == 0;
}

/* A word's versions never go back. */
static int get(const struct kv_work *work, uint32_t word, uint64_t *seen)
{
    struct kv_slot *slot = &work->ledger->slots[work->slot];
    struct kv_value value;
    if (kv_get(work->store, kv_word(work->words, word), &value)) {
        if (!kv_value_is_right(work, word, &value)) {
            return fail(slot, "a get found a wrong value", kv_word(work->words, word));
        }
        if (value.version < seen[word]) {
            return fail(slot, "a get found an older value than the one before", kv_word(work->words, word));
        }
        seen[word] = value.version;
    } else if (stays(word)) {
        return fail(slot, "a get has not found what is never deleted", kv_word(work->words, word));
    }
    atomic_fetch_add(&slot->gets, 1);
    return 0;
}

static int loop(const struct kv_work *work)
{
    struct kv_slot *slot = &work->ledger->slots[work->slot];
    uint32_t count = kv_words_count(work->words);
    uint64_t *seen = calloc(count, sizeof *seen);
    if (seen == NULL) {
        return 1;
    }
    int result = 0;
    while (result == 0 && atomic_load(&work->ledger->stop) == 0) {
        uint32_t word = below(count);
        uint32_t choice = below(100);
        if (choice < 50 || atomic_load(&slot->count) == KV_MAX_OPERATIONS) {
            result = get(work, word, seen);
        } else {
            int code = kv_write(work, word, !stays(word) && (is_shrinking() ? choice < 90 : choice < 60));
            if (code < 0 && code != BUFPOOL_EEXHAUSTED) {
                result = library_error(slot, "a change failed");
            }
        }
        atomic_fetch_add(&slot->restarts, work->store->restarts);
        work->store->restarts = 0;
    }
    free(seen);
    return result;
}

int kv_worker(char **arguments)
{
    struct kv_store store;
    uint32_t slot = (uint32_t)atoi(arguments[0]);
    state = strtoull(arguments[1], NULL, 10) | 1;
    bufpool_handle handle = {sizeof handle, atoi(arguments[2]), atoi(arguments[3])};
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no worker outlives the driver, */
    struct kv_ledger *ledger =
        mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, atoi(arguments[5]), 0);
    const struct kv_words *words = kv_words_map(atoi(arguments[4]));
    if (ledger == MAP_FAILED || words == NULL) {
        perror("kv: a worker cannot map");
        return 1;
    }
    if (getppid() != ledger->driver) { /* nor one that it did not see begin */
        return 1;
    }
    struct kv_work work = {&store, words, ledger, slot};
    if (kv_attach(&store, &handle) < 0) {
        return library_error(&ledger->slots[slot], "a worker cannot attach");
    }
    bufpool_handle_close(&handle);
    atomic_fetch_add(&ledger->slots[slot].starts, 1);
    int result = loop(&work);
    if (bufpool_close(store.pool) < 0 && result == 0) {
        result = library_error(&ledger->slots[slot], "a worker cannot close");
    }
    return result;
}
