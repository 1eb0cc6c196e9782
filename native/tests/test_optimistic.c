/* Optimistic sections: what they take and what they do not, nested with guarded calls, under signal handlers, forgotten. */
#include "monitor.h"

#include <bufpool/optimistic.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { UNALLOCATED, ALLOCATED, FREED, EVICTED, PAGES = 8 };

static const char *memory, *trap, *policy;
static bool monitored; /* the pool's faults come through a thread of the library's own */
static bufpool_pool *pool;

static char *page_at(uint64_t page)
{
    return bufpool_address(pool, page);
}

static void open_states(void)
{
    if (monitored) {
        pool = open_monitored(memory, policy, PAGES * GRANULE, GRANULE);
    } else {
        pool = open_pool(memory, trap, policy, PAGES * GRANULE, GRANULE);
    }
    for (uint64_t page = ALLOCATED; page <= EVICTED; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, "content", 7));
    }
    CHECK_OK(bufpool_free(pool, FREED));
    CHECK_OK(bufpool_evict(pool, EVICTED));
}

/* Reads a byte in a section: does it restart? */
__attribute__((noinline)) static bool restarts_at(const char *byte)
{
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        read_byte(byte);
        bufpool_optimistic_leave(&section);
        return false;
    }
    CHECK(section.address == byte);
    return true;
}

/* Counts of the pool, which a step is to have changed by so much. */
static uint64_t faults, restarts;

static void expect(uint64_t more_faults, uint64_t more_restarts)
{
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.faults, ==, faults + more_faults);
    CHECK_IS(s.restarts, ==, restarts + more_restarts);
    faults = s.faults;
    restarts = s.restarts;
}

/* A stray access that the pool's policy has answered, here or in a handler. */
static void expect_stray(bufpool_access access, uint64_t page)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    size_t found;
    CHECK_OK(bufpool_faults(pool, 0, 1, &fault, &found));
    CHECK_IS(found, ==, 1);
    for (bufpool_fault next = fault; found == 1; fault = next) { /* the last one */
        CHECK_OK(bufpool_faults(pool, fault.sequence, 1, &next, &found));
        next = found == 1 ? next : fault;
    }
    CHECK_IS(fault.access, ==, access);
    CHECK_IS(fault.page, ==, page);
    CHECK_IS(fault.thread_id, ==, gettid());
    expect(1, 0);
    CHECK_IS(bufpool_check(&fault), ==, strcmp(policy, "raise") == 0 ? BUFPOOL_ESTRAY : 0);
}

/* ---- What a section takes ---- */

static void reads(void)
{
    for (int page = UNALLOCATED; page <= EVICTED; page++) {
        for (int i = 0; i < 3; i++) {
            CHECK_IS(restarts_at(page_at((uint64_t)page) + 100 * i), ==, page != ALLOCATED);
        }
    }
    expect(0, 9);
    sigset_t before, after;
    CHECK_OK(pthread_sigmask(SIG_BLOCK, NULL, &before));
    bufpool_section section;
    errno = 4711;
    if (bufpool_optimistic_enter(&section)) {
        read_byte(page_at(FREED));
    }
    if (NESTED_FAULTS) { /* the sanitizer puts a number of its own there while a handler runs */
        CHECK_IS(errno, ==, 4711);
    }
    CHECK_OK(pthread_sigmask(SIG_BLOCK, NULL, &after));
    CHECK_IS(memcmp(&before, &after, 8), ==, 0);
    /* A whole read, from word to word over the page's end. */
    if (bufpool_optimistic_enter(&section)) {
        uint64_t word;
        memcpy(&word, page_at(EVICTED) - 4, sizeof word); /* the page before it is freed */
        __asm__ volatile("" : : "r"(word));
        bufpool_optimistic_leave(&section);
        CHECK(false);
    }
    expect(0, 2);
    /* What has come back is read as ever. */
    CHECK_OK(bufpool_populate(pool, EVICTED, "again", 5));
    CHECK(!restarts_at(page_at(EVICTED)));
    CHECK_OK(bufpool_evict(pool, EVICTED));
    CHECK_OK(bufpool_check(NULL));
    CHECK_IS(stats_of(pool).scratch_maps, ==, 0);
    expect(0, 0);
}

static volatile int went_on;

static void write_inside(void *argument)
{
    (void)argument;
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        write_byte(page_at(EVICTED) + 5, 1);
        went_on++;
        read_byte(page_at(FREED));
        CHECK(false);
    }
    went_on++;
}

/* Bugs inside a section are told as outside, and the section is there still. */
static void bugs(void)
{
    went_on = 0;
    write_inside(NULL);
    CHECK_IS(went_on, ==, 2);
    restarts++;
    expect_stray(BUFPOOL_WRITE, EVICTED);

    bufpool_pool *open = pool;
    uint64_t counts[] = {faults, restarts};
    pool = open_pool(memory, trap, policy, GRANULE, GRANULE);
    faults = restarts = 0;
    CHECK_OK(bufpool_close(pool));
    CHECK(!restarts_at(page_at(0)));
    expect_stray(BUFPOOL_READ, 0);
    pool = open;
    faults = counts[0];
    restarts = counts[1];
}

/* ---- Nesting ---- */

static void read_hole(void *argument)
{
    read_byte(argument);
    went_on = -1;
}

static void section_inside(void *argument)
{
    CHECK(restarts_at(argument));
    went_on++;
    read_byte(argument);
    went_on = -1;
}

static void run_hole(void *argument)
{
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        ((void (*)(void))(uintptr_t)argument)();
    }
    went_on = -1;
}

static void nesting(void)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    bufpool_section outer, inner;
    went_on = 0;
    if (bufpool_optimistic_enter(&outer)) {
        CHECK(restarts_at(page_at(FREED)));
        went_on++;
        CHECK_IS(bufpool_guarded_call(read_hole, page_at(EVICTED) + 3, &fault), ==, BUFPOOL_ESTRAY);
        CHECK(fault.page == EVICTED && fault.offset == 3);
        went_on++;
        CHECK_IS(bufpool_guarded_call(section_inside, page_at(EVICTED) + 3, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(went_on, ==, 3);
        if (bufpool_optimistic_enter(&inner)) {
            if (bufpool_optimistic_enter(&inner)) { /* entered twice and left once: a mistake without consequences */
                bufpool_optimistic_leave(&inner);
            }
            went_on++;
        }
        read_byte(page_at(UNALLOCATED));
        CHECK(false);
    }
    CHECK_IS(went_on, ==, 4);
    CHECK(outer.address == page_at(UNALLOCATED));
    expect(2, 3);
    /* What the section does not take, the guarded call around it does. */
    CHECK_IS(bufpool_guarded_call(write_inside, NULL, &fault), ==, BUFPOOL_ESTRAY);
    CHECK(fault.page == EVICTED && fault.access == BUFPOOL_WRITE);
    CHECK_IS(bufpool_guarded_call(run_hole, page_at(EVICTED), &fault), ==, BUFPOOL_ESTRAY);
    CHECK(fault.page == EVICTED && fault.access == BUFPOOL_EXECUTE);
    CHECK_IS(went_on, ==, 4);
    expect(2, 0);
    CHECK_OK(bufpool_check(NULL));
}

/* ---- Left without leave ---- */

__attribute__((noinline)) static bool forgets(int how, jmp_buf *out)
{
    bufpool_section section;
    if (!bufpool_optimistic_enter(&section)) {
        went_on = -1;
        return true;
    }
    if (how == 1) {
        longjmp(*out, 1);
    }
    __asm__ volatile("" ::: "memory");
    return false;
}

__attribute__((noinline)) static void deeper(int depth, const char *byte)
{
    char room[100];
    memset(room, depth, sizeof room); /* over what was there */
    __asm__ volatile("" : : "r"(room) : "memory");
    if (depth > 0) {
        deeper(depth - 1, byte);
    } else {
        read_byte(byte);
    }
    __asm__ volatile("" : : "r"(room) : "memory");
}

static void forgotten(void)
{
    if (!NESTED_FAULTS) {
        return; /* the sanitizer unwinds nothing in its handlers */
    }
    static jmp_buf out;
    went_on = 0;
    for (volatile int how = 0; how < 2; how++) {
        for (volatile int depth = -1; depth < 5; depth++) {
            if (setjmp(out) == 0) {
                CHECK(!forgets(how, &out));
            }
            if (depth < 0) {
                read_byte(page_at(EVICTED));
            } else {
                deeper(depth, page_at(EVICTED));
            }
            CHECK_IS(went_on, ==, 0);
            expect_stray(BUFPOOL_READ, EVICTED);
            CHECK(restarts_at(page_at(FREED)));
            restarts++;
        }
    }
}

/* ---- Handlers ---- */

#define HANDLER_STACK (256 * KIB)
#define THREAD_STACK (1 * MIB)

static volatile int handled;

static void on_signal(int signo)
{
    (void)signo;
    CHECK(restarts_at(page_at(FREED)));
    read_byte(page_at(EVICTED)); /* of the handler, whatever it has interrupted */
    handled++;
}

static void raise_inside(void *argument)
{
    (void)argument;
    raise(SIGUSR1);
    went_on++;
}

/* stack: where the handler runs; NULL: on the thread's own. */
static void *interrupt(void *stack)
{
    stack_t there = {.ss_sp = stack, .ss_size = HANDLER_STACK, .ss_flags = stack == NULL ? SS_DISABLE : 0};
    CHECK_OK(sigaltstack(&there, NULL));
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = stack == NULL ? 0 : SA_ONSTACK};
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    handled = went_on = 0;
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        raise(SIGUSR1);
        went_on++;
        read_byte(page_at(UNALLOCATED));
        CHECK(false);
    }
    CHECK(handled == 1 && went_on == 1);
    CHECK(section.address == page_at(UNALLOCATED));
    restarts += 2;
    expect_stray(BUFPOOL_READ, EVICTED);
    CHECK_OK(bufpool_guarded_call(raise_inside, NULL, NULL));
    CHECK(handled == 2 && went_on == 2);
    restarts++;
    expect_stray(BUFPOOL_READ, EVICTED);
    sigset_t mask;
    CHECK_OK(pthread_sigmask(SIG_BLOCK, NULL, &mask));
    CHECK(!sigismember(&mask, SIGUSR1));
    for (int i = 0; i < 1000; i++) { /* the alternate stack is free again after each jump */
        CHECK(restarts_at(page_at(FREED)));
    }
    expect(0, 1000);
    there.ss_flags = SS_DISABLE;
    CHECK_OK(sigaltstack(&there, NULL));
    return NULL;
}

/* On no alternate stack, on one below the thread's stack, on one above it. */
static void handlers(void)
{
    if (!NESTED_FAULTS) {
        return;
    }
    char *room =
        mmap(NULL, THREAD_STACK + 2 * HANDLER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED);
    char *stacks[] = {NULL, room, room + HANDLER_STACK + THREAD_STACK};
    for (int i = 0; i < 3; i++) {
        pthread_attr_t attributes;
        pthread_t thread;
        CHECK_OK(pthread_attr_init(&attributes));
        CHECK_OK(pthread_attr_setstack(&attributes, room + HANDLER_STACK, THREAD_STACK));
        CHECK_OK(pthread_create(&thread, &attributes, interrupt, stacks[i]));
        CHECK_OK(pthread_join(thread, NULL));
        CHECK_OK(pthread_attr_destroy(&attributes));
    }
    CHECK_OK(munmap(room, THREAD_STACK + 2 * HANDLER_STACK));
}

/* ---- Code without unwind tables, as a compiler of queries makes it ---- */

static void generated_code(void)
{
#if defined(__x86_64__)
    static const unsigned char code[] = {0x48, 0x83, 0xec, 0x28, 0x8a, 0x07, 0x48, 0x83, 0xc4, 0x28, 0xc3};
    /*                                   sub $40,%rsp            mov (%rdi),%al  add $40,%rsp        ret */
    char *place = mmap(NULL, GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    memcpy(place, code, sizeof code);
    CHECK_OK(mprotect(place, GRANULE, PROT_READ | PROT_EXEC));
    char (*read_there)(const char *) = (char (*)(const char *))(uintptr_t)place;
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        read_there(page_at(ALLOCATED));
        read_there(page_at(EVICTED));
        CHECK(false);
    }
    expect(0, 1);
    CHECK_OK(munmap(place, GRANULE));
#endif
}

/* ---- Threads ---- */

#define ROUNDS 300

static void stray_write(void *byte)
{
    write_byte(byte, 1);
}

static void *mixed(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(restarts_at(page_at(FREED) + next_random(&seed) % GRANULE));
        CHECK(!restarts_at(page_at(ALLOCATED) + next_random(&seed) % GRANULE));
        char *byte = page_at(EVICTED) + next_random(&seed) % GRANULE;
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(bufpool_guarded_call(stray_write, byte, &fault), ==, BUFPOOL_ESTRAY);
        CHECK(fault.address == (uintptr_t)byte && fault.thread_id == gettid());
    }
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        pthread_exit(NULL); /* a thread that ends in a section */
    }
    return NULL;
}

static void threads(void)
{
    uint64_t seeds[] = {1, 2, 3, 4, 5, 6};
    run_threads(6, mixed, seeds, sizeof *seeds);
    expect((uint64_t)6 * ROUNDS, (uint64_t)6 * ROUNDS);
}

/* ---- Callback; what is not a hole; silence ---- */

static bufpool_verdict no_verdict(const bufpool_fault *fault, void *context)
{
    CHECK(fault->access == BUFPOOL_WRITE);
    ++*(int *)context;
    return BUFPOOL_VERDICT_REPORT;
}

static void callbacks(void)
{
    int calls = 0;
    CHECK_OK(bufpool_set_fault_callback(pool, no_verdict, &calls));
    CHECK(restarts_at(page_at(EVICTED)));
    CHECK_IS(calls, ==, 0);
    write_inside(NULL);
    CHECK_IS(calls, ==, 1);
    restarts += 2;
    expect_stray(BUFPOOL_WRITE, EVICTED);
    CHECK_OK(bufpool_set_fault_callback(pool, NULL, NULL));
}

/* A page that is allocated, and closed by the host: no section restarts for ever. */
static void protected_by_host(void *argument)
{
    (void)argument;
    policy = "abort";
    open_states();
    CHECK_OK(mprotect(page_at(ALLOCATED), GRANULE, PROT_NONE));
    while (restarts_at(page_at(ALLOCATED))) {
    }
}

static void silent(void *argument)
{
    (void)argument;
    policy = "abort";
    open_states();
    for (int i = 0; i < 3; i++) {
        CHECK(restarts_at(page_at(EVICTED)));
    }
}

/* A forked child has sections of its own, also when it was made inside one. Shared memory under guard or
 * mprotect is not inherited: there every touch is a stray access. */
static void in_child(void *argument)
{
    (void)argument;
    if (strcmp(memory, "shared") == 0 && strcmp(trap, "uffd") != 0) {
        CHECK(!restarts_at(page_at(EVICTED)));
        expect(1, 0);
        return;
    }
    for (int page = UNALLOCATED; page <= EVICTED; page++) {
        CHECK_IS(restarts_at(page_at((uint64_t)page)), ==, page != ALLOCATED);
    }
    expect(0, 3);
    write_inside(NULL);
    expect(1, 1);
}

static void forked(void)
{
    policy = "resume";
    open_states();
    faults = restarts = 0;
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        struct child child = run_child(in_child, NULL);
        CHECK_PASSED(child);
        read_byte(page_at(EVICTED));
        CHECK(false);
    }
    expect(0, 1);
    CHECK_OK(bufpool_close(pool));
}

static void aborts(void *argument)
{
    (void)argument;
    policy = "abort";
    open_states();
    CHECK(restarts_at(page_at(EVICTED)));
    write_inside(NULL);
}

static void each_policy(void)
{
    static const char *const policies[] = {"resume", "raise"};
    for (int i = 0; i < 2; i++) {
        policy = policies[i];
        open_states();
        faults = restarts = 0;
        reads();
        bugs();
        nesting();
        forgotten();
        handlers();
        generated_code();
        threads();
        callbacks();
        CHECK_OK(bufpool_close(pool));
    }
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    each_policy();
    monitored = strcmp(trap, "uffd") == 0 && can_monitor();
    if (monitored) {
        each_policy();
    }
    monitored = false;
    forked();
    struct child child = run_child(silent, NULL);
    CHECK_PASSED(child);
    CHECK_STRING(child.text, "");
    child = run_child(aborts, NULL);
    CHECK_DIED(child, signal_of(trap));
    CHECK_HAS(child.text, "stray write of an evicted page");
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
    if (NESTED_FAULTS) { /* else it is the sanitizer that ends the child */
        child = run_child(protected_by_host, NULL);
        CHECK_DIED(child, SIGSEGV);
    }
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
