/* 64 threads that stray at once, on one page and on 64, while others allocate, evict and free: every report whole, every
 * thread its own, one death. */
#include "hosts.h"

#include <stdatomic.h>

#define CROWD 64

struct variant {
    const char *on_fault;
    bool one_page;
};

static const struct variant *variant;
static bufpool_pool *pool;
static pthread_barrier_t start;
static atomic_bool stop;

static char *target(uint64_t self)
{
    return (char *)bufpool_address(pool, variant->one_page ? 100 : 100 + self) + 8 * self;
}

static void *strayer(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    pthread_barrier_wait(&start);
    if (self % 2 == 0) {
        CHECK_IS((unsigned char)read_byte(target(self)), ==, BUFPOOL_POISON);
    } else {
        write_byte(target(self), 1);
    }
    if (strcmp(variant->on_fault, "raise") != 0) {
        return NULL;
    }
    /* One at most: on a page that another thread has diverted the access is not seen. */
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    int code = bufpool_check(&fault);
    if (code == BUFPOOL_ESTRAY) {
        CHECK_IS(fault.address, ==, (uintptr_t)target(self));
        CHECK_IS(fault.thread_id, ==, gettid());
        CHECK_IS(fault.access, ==, self % 2 == 0 ? BUFPOOL_READ : BUFPOOL_WRITE);
    }
    CHECK(code == BUFPOOL_ESTRAY || variant->one_page);
    CHECK_OK(bufpool_check(&fault));
    return NULL;
}

static void *churn(void *argument)
{
    (void)argument;
    while (!atomic_load(&stop)) {
        uint64_t pages[8];
        if (bufpool_allocate_many(pool, 8, pages) == 0) {
            for (int i = 0; i < 8; i++) {
                *(uint64_t *)bufpool_address(pool, pages[i]) = pages[i];
            }
            CHECK_OK(bufpool_evict_many(pool, 4, pages));
            CHECK_OK(bufpool_populate_many(pool, 4, pages, NULL));
            for (int i = 4; i < 8; i++) {
                CHECK_IS(*(uint64_t *)bufpool_address(pool, pages[i]), ==, pages[i]);
            }
            CHECK_OK(bufpool_free_many(pool, 8, pages));
        }
    }
    return NULL;
}

static void crowd(void *argument)
{
    variant = argument;
    pool = open_pool(memory, trap, variant->on_fault, MIB, GRANULE);
    for (uint64_t page = 100; page < 100 + CROWD; page++) { /* their numbers stay taken */
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
        CHECK_OK(bufpool_evict(pool, page));
    }
    CHECK_OK(pthread_barrier_init(&start, NULL, CROWD));
    pthread_t others[2];
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_create(&others[i], NULL, churn, NULL));
    }
    uint64_t numbers[CROWD];
    for (uint64_t i = 0; i < CROWD; i++) {
        numbers[i] = i;
    }
    run_threads(CROWD, strayer, numbers, sizeof *numbers);
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_join(others[i], NULL));
    }
    bufpool_statistics statistics = stats_of(pool);
    CHECK_IS(statistics.reports_lost, ==, 0);
    fprintf(stderr, "faults %d\n", (int)statistics.faults);
}

/* Every report is there from its first line to its last, and none runs into another. */
static int whole_reports(const char *text)
{
    int whole = 0;
    while ((text = strstr(text, "ERROR: bufpool: stray")) != NULL) {
        const char *end = strstr(text, "==END of bufpool report ");
        const char *next = strstr(text + 1, "ERROR: bufpool: stray");
        text++;
        whole += end != NULL && (next == NULL || end < next) && strchr(end, '\n') != NULL;
    }
    return whole;
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"resume", "raise", "abort"};
    for (int i = 0; i < 6; i++) {
        struct variant wanted = {policies[i % 3], i >= 3};
        struct child child = run_child(crowd, &wanted);
        int whole = whole_reports(child.text);
        int faults = 0;
        const char *said = strstr(child.text, "faults ");
        CHECK_CHILD((said != NULL && sscanf(said, "faults %d", &faults) == 1) == (i % 3 != 2), child);
        CHECK_CHILD(whole == count_in(child.text, "ERROR: bufpool: stray") || i % 3 == 2, child);
        if (i % 3 == 2) {
            CHECK_DIED(child, signal_of(trap));
            CHECK_CHILD(whole >= 1 && strstr(child.text, "lost") == NULL, child);
        } else {
            CHECK_PASSED(child);
            CHECK_CHILD(wanted.one_page ? faults >= 1 && faults <= CROWD : faults == CROWD, child);
            CHECK_CHILD(whole == (i % 3 == 0 ? faults : 0), child);
        }
    }
}

int main(void)
{
    harness_begin();
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
