/* sections.c: entering and leaving optimistic sections, and a B+tree (native/tests/btree.h) that reads in them. */
#include "must.h"

#include "../native/tests/btree.h"

#include <bufpool/optimistic.h>
#include <time.h>

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* A read of a word, count times, in a section each; and the same loop without sections. Returns how long it took. */
uint64_t read_in_sections(const volatile uint64_t *word, uint64_t count)
{
    const uint64_t start = now();
    for (volatile uint64_t i = 0; i < count; i++) {
        bufpool_section section;
        if (bufpool_optimistic_enter(&section)) {
            (void)*word;
            bufpool_optimistic_leave(&section);
        }
    }
    return now() - start;
}

uint64_t read_plainly(const volatile uint64_t *word, uint64_t count)
{
    const uint64_t start = now();
    for (volatile uint64_t i = 0; i < count; i++) {
        (void)*word;
    }
    return now() - start;
}

/* A tree of the keys 0 to keys - 1, all resident. */
void *tree_open(bufpool_pool *pool, uint64_t keys)
{
    struct btree *tree = malloc(sizeof *tree);
    struct btree_user user = {0};
    must(tree == NULL ? BUFPOOL_EEXHAUSTED : 0);
    btree_open(tree, pool, 0, true);
    for (uint64_t key = 0; key < keys; key++) {
        uint64_t value[BTREE_VALUE] = {key};
        btree_put(tree, &user, key, value);
    }
    return tree;
}

void tree_close(void *tree)
{
    btree_close(tree);
    free(tree);
}

/* Looks up count random keys; sections 0: without them. */
void tree_lookups(void *tree, uint64_t keys, uint64_t count, uint64_t seed, int sections)
{
    struct btree_user user = {0};
    for (uint64_t i = 0; i < count; i++) {
        uint64_t value[BTREE_VALUE];
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t key = (seed >> 20) % keys;
        bool found = sections ? btree_lookup(tree, &user, key, value) : btree_lookup_plain(tree, &user, key, value);
        must(found && value[0] == key ? 0 : BUFPOOL_ESTATE);
    }
}
