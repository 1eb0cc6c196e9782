/* Stacks: a thread that overflows its own keeps its old fate, our handler does its work on small alternate stacks, and a
 * stack that lies in a pool ends with a report. */
#include "hosts.h"

#include <setjmp.h>
#include <sys/auxv.h>
#include <ucontext.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

static bufpool_pool *pool;

/* ---- A thread's own stack overflows ---- */

static __attribute__((noinline)) int overflow(int depth)
{
    volatile char room[1000];
    room[0] = (char)depth;
    return depth < 0 ? 0 : overflow(depth + 1) + room[0];
}

static void *overflow_thread(void *argument)
{
    if (*(size_t *)argument != 0) {
        use_alternate_stack(*(size_t *)argument);
    }
    overflow(1);
    return NULL;
}

static void overflows(void *argument)
{
    pool = open_small("resume");
    run_threads(1, overflow_thread, argument, 0);
    fprintf(stderr, "went through\n");
}

static sigjmp_buf back;

static void recover(int signo, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    siglongjmp(back, signo);
}

/* A host that catches overflows on its alternate stack, as language runtimes do, goes on catching them. */
static void overflow_is_caught(void *argument)
{
    (void)argument;
    set_handler(SIGSEGV, recover, SA_ONSTACK, NULL);
    use_alternate_stack(64 * KIB);
    pool = open_small("abort");
    for (volatile int i = 0; i < 3; i++) {
        int signo = sigsetjmp(back, 1);
        if (signo == 0) {
            overflow(1);
        }
        CHECK_IS(signo, ==, SIGSEGV);
    }
    CHECK(traps_at(hole(pool, 1), NULL));
}

/* ---- Small alternate stacks ---- */

struct small {
    const char *on_fault;
    size_t size;
};

static void on_small_stack(void *argument)
{
    const struct small *small = argument;
    pool = open_small(small->on_fault);
    use_alternate_stack(small->size); /* what lies below cannot be touched */
    for (uint64_t i = 0; i < 3; i++) {
        CHECK_IS((unsigned char)read_byte(hole(pool, i)), ==, BUFPOOL_POISON);
        write_byte(hole(pool, 10 + i), 1);
    }
    CHECK(traps_at(hole(pool, 20), NULL));
    CHECK_IS(stats_of(pool).faults, ==, 7);
}

/* ---- A stack inside a pool ---- */

static ucontext_t outside, coroutine;
static char *stack_page;

static void body(void)
{
    volatile char local[64];
    local[0] = 1;
    fprintf(stderr, "coroutine runs\n");
    swapcontext(&coroutine, &outside);
    local[1] = local[0]; /* its stack is gone by now */
    fprintf(stderr, "went through\n");
}

/* A coroutine whose stack is freed while it is suspended: the first touch is reported, if the handler has a stack of its
 * own; if it has none the kernel cannot call it. */
static void stack_in_a_freed_page(void *argument)
{
    if (*(size_t *)argument != 0) {
        use_alternate_stack(*(size_t *)argument);
    }
    pool = open_pool(memory, trap, "abort", 4 * MIB, 256 * KIB);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    stack_page = bufpool_address(pool, page);
    CHECK_OK(getcontext(&coroutine));
    coroutine.uc_stack.ss_sp = stack_page;
    coroutine.uc_stack.ss_size = 256 * KIB;
    coroutine.uc_link = &outside;
    makecontext(&coroutine, body, 0);
    CHECK_OK(swapcontext(&outside, &coroutine));
    CHECK_OK(bufpool_free(pool, page));
    swapcontext(&outside, &coroutine);
}

static void overflow_body(void)
{
    overflow(1);
}

/* It overflows into the hole below it, the page before. */
static void overflow_into_a_hole(void *argument)
{
    if (*(size_t *)argument != 0) {
        use_alternate_stack(*(size_t *)argument);
    }
    pool = open_pool(memory, trap, "abort", 4 * MIB, 256 * KIB);
    CHECK_OK(bufpool_allocate_at(pool, 5, NULL, 0));
    CHECK_OK(getcontext(&coroutine));
    coroutine.uc_stack.ss_sp = bufpool_address(pool, 5);
    coroutine.uc_stack.ss_size = 256 * KIB;
    coroutine.uc_link = &outside;
    makecontext(&coroutine, overflow_body, 0);
    swapcontext(&outside, &coroutine);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    size_t sizes[] = {0, 64 * KIB};
    for (size_t i = 0; i < 2; i++) {
        struct child child = run_child(overflows, &sizes[i]);
        CHECK_DIED(child, SIGSEGV);
        CHECK_STRING(child.text, "");
        child = run_child(stack_in_a_freed_page, &sizes[i]);
        CHECK_CHILD(WIFSIGNALED(child.status), child);
        CHECK_CHILD(strstr(child.text, "went through") == NULL, child);
        CHECK_CHILD(count_in(child.text, "of a freed page\n") == (sizes[i] != 0), child);
        child = run_child(overflow_into_a_hole, &sizes[i]);
        CHECK_CHILD(WIFSIGNALED(child.status), child);
        CHECK_CHILD(count_in(child.text, "page 4 of pool \"pool-1\" is unallocated") == (sizes[i] != 0), child);
    }
    passes(overflow_is_caught, NULL);
    static const char *const policies[] = {"resume", "raise"};
    size_t least = getauxval(AT_MINSIGSTKSZ); /* the kernel's own share, with all registers */
    for (size_t i = 0; i < 4; i++) {
        struct small small = {policies[i % 2], i < 2 ? 16384 : 8192};
        if (small.size < least + 4700 || (SANITIZED && small.size < 16384)) {
            printf("no room for us on an alternate stack of %zu bytes: the kernel takes up to %zu\n", small.size,
                   least);
            continue;
        }
        passes(on_small_stack, &small);
    }
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, with every signal blocked and on its own stacks\n");
        return HARNESS_SKIP;
    }
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
