/* Threads that stray at the same moment: every report whole, none inside another, on small alternate stacks too. */
#include "harness.h"

#include <sys/mman.h>

static const char *memory, *trap;
static bufpool_pool *pool;
static pthread_barrier_t barrier;

#define ALT_SIZE (16 * 1024)

/* Each report is one block of lines, from its headline to its end, in one piece. Returns how many. */
static int check_reports(struct child child)
{
    int open = 0;
    int reports = 0;
    for (char *line = strtok(child.text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (strstr(line, "==ERROR: bufpool: stray") != NULL) {
            CHECK_CHILD(open == 0 && strncmp(line, "==", 2) == 0, child);
            open = 1;
        } else if (strstr(line, "==END of bufpool report") != NULL) {
            CHECK_CHILD(open == 1 && strncmp(line, "==", 2) == 0, child);
            open = 0;
            reports++;
        } else if (open == 0) {
            CHECK_CHILD(strncmp(line, "fine", 4) == 0, child);
        }
    }
    CHECK_CHILD(open == 0, child);
    return reports;
}

static void *stray(void *argument)
{
    uint64_t page = *(uint64_t *)argument;
    pthread_barrier_wait(&barrier);
    read_byte((char *)bufpool_address(pool, page) + page);
    return NULL;
}

struct plan {
    const char *on_fault;
    int threads;
    bool same_page;
};

static void commit(void *argument)
{
    const struct plan *plan = argument;
    pool = open_pool(memory, trap, plan->on_fault, 128 * GRANULE, GRANULE);
    pthread_barrier_init(&barrier, NULL, (unsigned)plan->threads);
    uint64_t pages[64];
    for (int i = 0; i < plan->threads; i++) {
        pages[i] = plan->same_page ? 5 : (uint64_t)i;
    }
    run_threads(plan->threads, stray, pages, sizeof *pages);
    fprintf(stderr, "fine: %d faults\n", (int)stats_of(pool).faults);
}

static void counts(void)
{
    struct plan many = {"resume", 64, false};
    struct child child = run_child(commit, &many);
    CHECK_PASSED(child);
    CHECK_HAS(child.text, "fine: 64 faults");
    CHECK_IS(check_reports(child), ==, 64);

    struct plan same = {"resume", 16,
                        true}; /* the page is open for the later ones: fewer reports, never a broken one */
    child = run_child(commit, &same);
    CHECK_PASSED(child);
    int reports = check_reports(child);
    CHECK(reports >= 1 && reports <= 16);

    for (int round = 0; round < 5; round++) {
        struct plan two = {"abort", 2 + 5 * round, false};
        child = run_child(commit, &two);
        CHECK_DIED(child, signal_of(trap));
        reports = check_reports(child);
        CHECK(reports >= 1 && reports <= two.threads);
    }
}

/* ---- The handler runs on the thread's alternate stack; 16 KiB are enough ---- */

static void *on_alternate_stack(void *argument)
{
    uint64_t page = *(uint64_t *)argument;
    char *place = mmap(NULL, ALT_SIZE + 2 * GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    CHECK_OK(mprotect(place + GRANULE, ALT_SIZE, PROT_READ | PROT_WRITE)); /* a fault on either side would kill */
    memset(place + GRANULE, 0x55, ALT_SIZE);
    stack_t stack = {.ss_sp = place + GRANULE, .ss_size = ALT_SIZE};
    stack_t before;
    CHECK_OK(sigaltstack(&stack, &before));
    for (int i = 0; i < 3; i++) {
        CHECK_IS((unsigned char)read_byte((char *)bufpool_address(pool, page) + i), ==, BUFPOOL_POISON);
        CHECK(traps_at(bufpool_address(pool, page + 64), NULL));
        bufpool_check(NULL);
    }
    size_t used = ALT_SIZE;
    for (const char *at = place + GRANULE; *at == 0x55; at++) {
        used--;
    }
    CHECK_IS(used, >, 1000); /* it was this stack */
    CHECK_IS(used, <, ALT_SIZE);
    CHECK_OK(sigaltstack(&before, NULL));
    munmap(place, ALT_SIZE + 2 * GRANULE);
    return NULL;
}

static void alternate(void *argument)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.report_limit = UINT32_MAX;
    config.capacity = 128 * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = argument;
    config.log = "/dev/null";
    CHECK_OK(bufpool_open(&config, &pool));
    uint64_t pages[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    on_alternate_stack(pages);
    run_threads(8, on_alternate_stack, pages, sizeof *pages);
    fprintf(stderr, "fine\n");
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    counts();
#if !SANITIZED /* their frames are many times larger */
    struct child child = run_child(alternate, "resume");
    CHECK_PASSED(child);
    CHECK_IS(check_reports(child), ==, 27);
    child = run_child(alternate, "raise");
    CHECK_PASSED(child);
    CHECK_HAS(child.text, "fine\n");
#else
    (void)alternate;
#endif
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
