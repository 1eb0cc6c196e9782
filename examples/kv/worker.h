/* worker.h: a process that works on the store: gets, puts and deletes words at random until it is stopped or killed. */
#ifndef KV_WORKER_H
#define KV_WORKER_H

#include "ledger.h"
#include "words.h"

/* Who works on what. */
struct kv_work {
    struct kv_store *store;
    const struct kv_words *words;
    struct kv_ledger *ledger;
    uint32_t slot;
};

/* Enters the operation, does it, and enters its version. Returns 0 or the library's code. */
int kv_write(const struct kv_work *work, uint32_t word, bool is_delete);

/* Is the value one that was put for this word? */
bool kv_value_is_right(const struct kv_work *work, uint32_t word, const struct kv_value *value);

/* The worker's main(): arguments are the slot, a seed and the descriptors of memory, tables, words and ledger. */
int kv_worker(char **arguments);

#endif
