/* test_audit_legal.c: an audit reports no page that was changed under a write pin, however many do so meanwhile, and none that
 * the kernel has paged out, collapsed into a huge page, or unmapped; and what was changed is reported all the same. */
#include "harness.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define PAGES 1024 /* 4 MiB, so that there is a whole huge page in it */
#define USED 8     /* pages that the threads write */
#define THREADS 3
#define ROUNDS 4000
#define AUDITS 8

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static const char *mode;

static bufpool_pool *open_audited(const char *memory, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.pins = "count";
    config.audit = mode;
    bufpool_pool *pool = NULL;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED) {
        printf("skipped audit %s on %s/%s: %s\n", mode, memory, trap, last_error());
        return NULL;
    }
    CHECK_OK(code);
    return pool;
}

/* How many pages an audit finds; *first is the first of them. */
static size_t audit(bufpool_pool *pool, uint64_t *first)
{
    static bufpool_changed changed[USED];
    size_t found = 0;
    memset(changed, 0, sizeof changed);
    CHECK_OK(bufpool_audit(pool, 0, USED, changed, &found));
    *first = found > 0 ? changed[0].page : BUFPOOL_NO_PAGE;
    return found;
}

struct worker {
    bufpool_pool *pool;
    uint64_t seed;
    atomic_int *running;
    atomic_int *audits;
};

/* Goes on until it was audited meanwhile: on a busy machine the auditor may get no processor before all is done. */
static void *use_pages(void *argument)
{
    struct worker *self = argument;
    for (int i = 0; i < ROUNDS || atomic_load(self->audits) < AUDITS; i++) {
        uint64_t page = next_random(&self->seed) % USED;
        if (bufpool_pin(self->pool, page, true) == 0) {
            char *at = bufpool_address(self->pool, page);
            write_byte(at + self->seed % GRANULE, (char)i);
            CHECK_OK(bufpool_unpin_for(self->pool, page, true));
        } else {
            bufpool_allocate_at(self->pool, page, "new", 3);
        }
        if (i % 16 == 0) {
            bufpool_free(self->pool, page);
        }
        uint64_t other = next_random(&self->seed) % USED;
        bufpool_mark_clean(self->pool, 1, &other); /* refused while it is pinned for writing, or free */
    }
    atomic_fetch_sub(self->running, 1);
    return NULL;
}

/* One audits while the others pin, write, unpin, free and allocate the same few pages. */
static void test_threads(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_audited(memory, trap);
    if (pool == NULL) {
        return;
    }
    atomic_int running = THREADS;
    atomic_int audits = 0;
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){pool, i, &running, &audits};
        CHECK_OK(pthread_create(&threads[i], NULL, use_pages, &workers[i]));
    }
    uint64_t first;
    while (atomic_load(&running) > 0) {
        CHECK_IS(audit(pool, &first), ==, 0);
        atomic_fetch_add(&audits, 1);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_IS(audit(pool, &first), ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* By all that unmaps pages without changing them; each where the system can. */
static void disturb(bufpool_pool *pool, bool file)
{
    char *at = bufpool_address(pool, 0);
    size_t length = PAGES * GRANULE;
    madvise(at, length, MADV_PAGEOUT);
    madvise(at, length, MADV_COLLAPSE);
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    if (!file || bufpool_share(pool, &handle) < 0) {
        return;
    }
    void *alias = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, handle.memory, 0);
    CHECK(alias != MAP_FAILED);
    madvise(alias, length, MADV_COLLAPSE);
    madvise(at, length / 2, MADV_DONTNEED); /* the file keeps it */
    madvise(alias, length, MADV_PAGEOUT);
    CHECK_OK(munmap(alias, length));
    CHECK_OK(bufpool_handle_close(&handle));
}

static void test_disturbed(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_audited(memory, trap);
    if (pool == NULL) {
        return;
    }
    static uint64_t pages[PAGES];
    static char content[GRANULE];
    bool file = strcmp(memory, "shared") == 0;
    uint64_t first;
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    for (uint64_t page = 0; page < PAGES; page++) {
        memset(content, (int)page, sizeof content);
        memcpy(bufpool_address(pool, page), content, sizeof content);
    }
    CHECK_OK(bufpool_mark_clean(pool, PAGES, pages));
    for (int i = 0; i < 4; i++) {
        disturb(pool, file);
        CHECK_IS(audit(pool, &first), ==, 0);
        for (uint64_t page = 0; page < PAGES; page++) { /* and reads that bring them back */
            CHECK_IS(read_byte(bufpool_address(pool, page)), ==, (char)page);
        }
        CHECK_IS(audit(pool, &first), ==, 0);
        CHECK_OK(bufpool_pin(pool, 3, true));
        write_byte(bufpool_address(pool, 3), 3);
        CHECK_OK(bufpool_unpin_for(pool, 3, true));
        CHECK_IS(audit(pool, &first), ==, 0);
    }
    write_byte((char *)bufpool_address(pool, 700) + 1, 1);
    CHECK_IS(audit(pool, &first), ==, 1);
    CHECK_IS(first, ==, 700);
    disturb(pool, file); /* what was changed stays changed */
    CHECK_IS(audit(pool, &first), ==, 1);
    CHECK_IS(first, ==, 700);
    CHECK_IS(stats_of(pool).clean, ==, PAGES);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    if (strcmp(mode, "track") == 0 && strcmp(trap, "uffd") != 0) {
        return;
    }
    test_disturbed(memory, trap);
    test_threads(memory, trap);
}

int main(void)
{
    harness_begin();
    mode = "track";
    int code = for_each_cell(test_cell, true);
    mode = "checksum";
    return code == 0 ? for_each_cell(test_cell, true) : code;
}
