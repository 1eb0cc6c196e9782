/* Guarded calls: nested, left in the wrong way, in threads, both sides of a copy; data that strays into a library call. */
#include "harness.h"

#include <setjmp.h>
#include <sys/mman.h>

static const char *memory, *trap;
static bufpool_pool *pool;

static char *page_at(uint64_t page)
{
    return bufpool_address(pool, page);
}

/* ---- Nesting ---- */

struct nest {
    int depth;
    int stray_at; /* strays when depth has come down to this */
    int codes[8]; /* result of the guarded call at each depth */
    int after;    /* which depths went on after their inner call */
};

static void descend(void *argument)
{
    struct nest *nest = argument;
    int depth = nest->depth--;
    if (depth == 0) {
        read_byte(page_at(3));
        return;
    }
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    nest->codes[depth] = bufpool_guarded_call(descend, nest, &fault);
    if (nest->codes[depth] == BUFPOOL_ESTRAY) {
        CHECK_IS(fault.page, ==, depth == nest->stray_at + 1 ? 4 : 3);
    }
    nest->after++;
    if (depth == nest->stray_at) {
        read_byte(page_at(4));
    }
}

static void nesting(void)
{
    struct nest nest = {.depth = 6, .stray_at = -1};
    CHECK_OK(bufpool_guarded_call(descend, &nest, NULL));
    CHECK_IS(nest.codes[1], ==, BUFPOOL_ESTRAY); /* only the innermost */
    for (int depth = 2; depth <= 6; depth++) {
        CHECK_IS(nest.codes[depth], ==, 0);
    }
    CHECK_IS(nest.after, ==, 6);
    nest = (struct nest){.depth = 6, .stray_at = 3};
    nest.codes[4] = 1;
    CHECK_OK(bufpool_guarded_call(descend, &nest, NULL));
    CHECK_IS(nest.codes[1], ==, BUFPOOL_ESTRAY);
    CHECK_IS(nest.codes[2], ==, 0);
    CHECK_IS(nest.codes[3], ==, 0);
    CHECK_IS(nest.codes[4], ==, BUFPOOL_ESTRAY); /* the one around the second stray access */
    CHECK_IS(nest.codes[5], ==, 0);
    CHECK_IS(nest.after, ==, 6);
    CHECK(traps_at(page_at(5), NULL));
}

/* ---- Left by a longjmp, which is not allowed: no stray access may jump into it afterwards ---- */

static jmp_buf out;

static void leave_by_longjmp(void *argument)
{
    (void)argument;
    longjmp(out, 1);
}

__attribute__((noinline)) static void stray_below(int depth)
{
    char room[200];
    memset(room, depth, sizeof room); /* over what was there */
    __asm__ volatile("" : : "r"(room) : "memory");
    depth > 0 ? stray_below(depth - 1) : (void)read_byte(page_at(5));
    __asm__ volatile("" : : "r"(room) : "memory");
}

static void left(void)
{
    if (!NESTED_FAULTS) {
        return; /* the sanitizer's handlers cannot be unwound */
    }
    uint64_t before = stats_of(pool).scratch_maps;
    for (volatile int depth = 0; depth < 6; depth++) {
        if (setjmp(out) == 0) {
            bufpool_guarded_call(leave_by_longjmp, NULL, NULL);
            CHECK(false);
        }
        stray_below(depth); /* comes back, as the policy has it */
        bufpool_check(NULL);
        CHECK(traps_at(page_at(5), NULL));
    }
    CHECK_IS(stats_of(pool).scratch_maps, ==, before + 6);
}

/* ---- Copies ---- */

static void copies(void)
{
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "allocated", 10, &page));
    char buffer[3 * GRANULE];
    memset(buffer, 'b', sizeof buffer);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_guarded_copy(buffer, page_at(page), 10, &fault));
    CHECK_STRING(buffer, "allocated");
    CHECK_OK(bufpool_guarded_copy(page_at(page), "rewritten", 10, NULL));
    CHECK_STRING(page_at(page), "rewritten");
    CHECK_OK(bufpool_guarded_copy(page_at(7), buffer, 0, &fault)); /* nothing is touched */
    CHECK_IS(bufpool_guarded_copy(buffer, page_at(7) + 9, 1, &fault), ==, BUFPOOL_ESTRAY);
    CHECK(fault.access == BUFPOOL_READ && fault.page == 7 && fault.offset == 9);
    CHECK_IS(bufpool_guarded_copy(page_at(7) + 9, buffer, 1, &fault), ==, BUFPOOL_ESTRAY);
    CHECK(fault.access == BUFPOOL_WRITE && fault.page == 7 && fault.offset == 9);
    /* Over the edge. In which order memcpy goes, and so which of the stray bytes is the first, is not promised. */
    CHECK_OK(bufpool_allocate_at(pool, page + 2, NULL, 0));
    memset(page_at(page + 2), 'c', GRANULE);
    CHECK_IS(bufpool_guarded_copy(buffer, page_at(page + 2) + 96, 2 * GRANULE, &fault), ==, BUFPOOL_ESTRAY);
    CHECK(fault.page == page + 3 || fault.page == page + 4);
    /* Twice in the same place without anything between: each is told. */
    uint64_t before = stats_of(pool).faults;
    for (int i = 0; i < 5; i++) {
        CHECK(traps_at(page_at(7), NULL));
    }
    CHECK_IS(stats_of(pool).faults, ==, before + 5);
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    CHECK_OK(bufpool_check(NULL)); /* nothing is owed besides */
    bufpool_fault last = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_last_fault(&last));
    CHECK_IS(last.page, ==, 7);
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(bufpool_free(pool, page + 2));

    /* The signals are as free afterwards as before. */
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    CHECK(!sigismember(&set, SIGBUS) && !sigismember(&set, SIGSEGV));
}

static void *many(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    for (uint64_t i = 0; i < 500; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        char *at = page_at((self + i) % 8) + self * 100 + i;
        char byte = 1;
        CHECK_IS(i % 2 ? bufpool_guarded_copy(&byte, at, 1, &fault) : bufpool_guarded_copy(at, &byte, 1, &fault), ==,
                 BUFPOOL_ESTRAY);
        CHECK_IS(fault.address, ==, (uintptr_t)at);
        CHECK_IS(fault.access, ==, i % 2 ? BUFPOOL_READ : BUFPOOL_WRITE);
        CHECK_IS(fault.thread_id, ==, gettid());
    }
    return NULL;
}

static void threads(void)
{
    uint64_t before = stats_of(pool).faults;
    uint64_t numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    run_threads(8, many, numbers, sizeof *numbers);
    CHECK_IS(stats_of(pool).faults, ==, before + 8 * 500);
}

/* ---- Library calls inside a guarded call: what strays there leaves the pool usable ---- */

static void list_into_hole(void *argument)
{
    size_t found;
    (void)argument;
    bufpool_list(pool, BUFPOOL_STATE_ALLOCATED, 0, 8, (uint64_t *)(void *)page_at(6), &found);
}

static void faults_into_hole(void *argument)
{
    size_t found;
    (void)argument;
    bufpool_faults(pool, 0, 8, (bufpool_fault *)(void *)page_at(6), &found);
}

static void number_into_hole(void *argument)
{
    (void)argument;
    bufpool_allocate(pool, NULL, 0, (uint64_t *)(void *)page_at(6));
}

static void numbers_from_hole(void *argument)
{
    (void)argument;
    bufpool_free_many(pool, 100, (const uint64_t *)(const void *)page_at(6));
}

static void open_into_hole(void *argument)
{
    (void)argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = GRANULE;
    bufpool_open(&config, (bufpool_pool **)(void *)page_at(6));
}

static void config_from_hole(void *argument)
{
    (void)argument;
    bufpool_pool *opened;
    bufpool_open((const bufpool_config *)(const void *)page_at(6), &opened);
}

static void name_from_hole(void *argument)
{
    (void)argument;
    bufpool_pool *opened;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = GRANULE;
    config.name = page_at(6);
    bufpool_open(&config, &opened);
}

static void trap_into_hole(void *argument)
{
    (void)argument;
    bufpool_probe(memory, trap, page_at(6), 16);
}

static void stats_into_hole(void *argument)
{
    (void)argument;
    bufpool_stats(pool, (bufpool_statistics *)(void *)page_at(6));
}

static void state_into_hole(void *argument)
{
    (void)argument;
    bufpool_page_state(pool, 0, (bufpool_state *)(void *)page_at(6));
}

static void error_into_hole(void *argument)
{
    (void)argument;
    bufpool_last_error(page_at(6), 100);
}

static void report_into_hole(void *argument)
{
    (void)argument;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    bufpool_format_text(&fault, page_at(6), 100);
}

static void stray_arguments(void)
{
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    static void (*const functions[])(void *) = {list_into_hole,  faults_into_hole, number_into_hole, numbers_from_hole,
                                                open_into_hole,  config_from_hole, name_from_hole,   trap_into_hole,
                                                stats_into_hole, state_into_hole,  error_into_hole,  report_into_hole};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(bufpool_guarded_call(functions[i], NULL, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.page, ==, 6);
        CHECK_OK(bufpool_close(open_pool(memory, trap, "abort", GRANULE, GRANULE)));
    }
    /* The page whose number had no place to go is held still, as with longjmp; nothing else is. */
    uint64_t held[8];
    size_t found;
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_ALLOCATED, 0, 8, held, &found));
    CHECK_IS(found, ==, 2);
    CHECK_OK(bufpool_free_many(pool, 2, held));
}

/* data in a hole, or in no memory at all, whole pages and parts, alone and in batches. */
static void stray_data(const char *on_fault)
{
    bufpool_pool *target = open_pool(memory, trap, on_fault, 8 * 8192, 8192);
    char *unmapped = mmap(NULL, 4 * 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static const size_t sizes[] = {1, 100, 4096, 5000, 8192};
    uint64_t page;
    CHECK_OK(bufpool_allocate_at(target, 1, NULL, 0));
    CHECK_OK(bufpool_evict(target, 1));
    uint64_t evicted = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *hole = page_at(6) + 7;
        int codes[] = {bufpool_allocate(target, hole, sizes[i], &page), bufpool_allocate_at(target, 3, hole, sizes[i]),
                       bufpool_populate(target, 1, hole, sizes[i]), bufpool_allocate_filled(target, 1, hole, &page),
                       bufpool_populate_many(target, 1, &evicted, hole)};
        for (int c = 0; c < 5; c++) {
            CHECK_IS(codes[c], ==, BUFPOOL_ESTRAY);
        }
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_OK(bufpool_last_fault(&fault));
        CHECK_IS(fault.address, ==, (uintptr_t)hole);
        CHECK_IS(fault.access, ==, BUFPOOL_READ);
        int failures[] = {
            bufpool_allocate(target, unmapped, sizes[i], &page), bufpool_allocate_at(target, 3, unmapped, sizes[i]),
            bufpool_populate(target, 1, unmapped, sizes[i]), bufpool_allocate_filled(target, 2, unmapped, &page),
            bufpool_populate_many(target, 1, &evicted, unmapped)};
        for (int c = 0; c < 5; c++) {
            CHECK_IS(failures[c], ==, -EFAULT);
        }
        CHECK_HAS(last_error(), "not readable");
    }
    /* The first part is there, the rest is not. */
    CHECK_OK(bufpool_allocate_at(pool, 2, NULL, 0));
    CHECK_IS(bufpool_allocate(target, page_at(2) + 96, 8192, &page), ==, BUFPOOL_ESTRAY);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_last_fault(&fault));
    CHECK_IS(fault.page, ==, 3);
    CHECK_OK(bufpool_free(pool, 2));

    bufpool_statistics s = stats_of(target);
    CHECK(s.allocated == 0 && s.evicted == 1 && s.faults == 0);
    CHECK_IS(state_of(target, 3), ==, BUFPOOL_STATE_UNALLOCATED);
    for (uint64_t i = 0; i < 8; i++) {
        CHECK(traps_at(bufpool_address(target, i), NULL)); /* what was filled already is gone again */
    }
    CHECK_OK(bufpool_close(target));
    munmap(unmapped, 4 * 8192);
}

/* Under "abort" the pool that holds the stray pointer has the word: report and death. */
static void dies_of_data(void *argument)
{
    pool = open_pool(memory, trap, "abort", 8 * GRANULE, GRANULE);
    uint64_t page;
    int code = bufpool_allocate(pool, page_at(6) + 7, *(size_t *)argument, &page);
    fprintf(stderr, "returned %d\n", code);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"resume", "raise"};
    for (int i = 0; i < 2; i++) {
        pool = open_pool(memory, trap, policies[i], 8 * GRANULE, GRANULE);
        nesting();
        left();
        copies();
        threads();
        stray_arguments();
        stray_data("abort");
        stray_data(policies[i]);
        CHECK_OK(bufpool_check(NULL)); /* told by the calls, so not owed */
        CHECK_OK(bufpool_close(pool));
    }
    static size_t sizes[] = {100, GRANULE};
    for (int i = 0; i < 2; i++) {
        struct child child = run_child(dies_of_data, &sizes[i]);
        CHECK_DIED(child, signal_of(trap));
        CHECK_HAS(child.text, "stray read of an unallocated page");
        CHECK_HAS(child.text, "offset 7 of 4096");
        CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
    }
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
