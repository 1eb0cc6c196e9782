/* A program that is built with AddressSanitizer, with its handlers of SIGSEGV and SIGBUS on, beside the library as it is
 * delivered: each reports what is its own. */
#include "hosts.h"

#ifdef BUFPOOL_TEST_ASAN

static const char *on_fault;

static void strays(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_small(on_fault);
    CHECK(traps_at(hole(pool, 1), NULL));
    CHECK_IS((unsigned char)read_byte(hole(pool, 2)), ==, BUFPOOL_POISON);
    write_byte(hole(pool, 3), 1);
    fprintf(stderr, "went through\n");
    CHECK_OK(bufpool_close(pool));
}

/* Instrumented, unlike the harness's. */
__attribute__((noinline)) static char look_at(const char *address)
{
    return *(const volatile char *)address;
}

static void instrumented(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_small("resume");
    CHECK_IS((unsigned char)look_at(hole(pool, 2)), ==, BUFPOOL_POISON);
    CHECK_IS(stats_of(pool).faults, ==, 1);
}

static void overflows(void *argument)
{
    bufpool_pool *pool = open_small("resume");
    read_byte(hole(pool, 2));
    char *block = calloc(1, 100);
    CHECK(block != NULL);
    look_at(block + *(int *)argument);
    fprintf(stderr, "went through\n");
}

static void dereferences(void *argument)
{
    bufpool_pool *pool = open_small("resume");
    read_byte(hole(pool, 2));
    look_at(*(char **)argument);
    fprintf(stderr, "went through\n");
}

static void refused(void *argument)
{
    (void)argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    bufpool_pool *pool;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "handle_segv=2");
    CHECK_IS(bufpool_install_handlers(), ==, BUFPOOL_EUNSUPPORTED);
    config.flags = BUFPOOL_HOST_HANDLER;
    CHECK_OK(bufpool_open(&config, &pool));
}

static void again_with_other_options(void *argument)
{
    setenv("ASAN_OPTIONS", "handle_segv=2:handle_sigbus=2:detect_leaks=0", 1);
    execl("/proc/self/exe", "test_asan_host", (char *)argument, (char *)NULL);
    CHECK(false);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"resume", "raise", "abort"};
    for (int i = 0; i < 3; i++) {
        on_fault = policies[i];
        struct child child = run_child(strays, NULL);
        CHECK_CHILD(strstr(child.text, "AddressSanitizer") == NULL, child);
        if (i == 2) {
            CHECK_DIED(child, signal_of(trap));
            CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 1, child);
        } else {
            CHECK_PASSED(child);
            CHECK_HAS(child.text, "went through\n");
        }
    }
    passes(instrumented, NULL);
    int beyond = 100;
    struct child child = run_child(overflows, &beyond);
    CHECK_CHILD(strstr(child.text, "went through") == NULL, child);
    CHECK_CHILD(count_in(child.text, "ERROR: AddressSanitizer: heap-buffer-overflow") == 1, child);
    CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 1, child);
    char *wild[] = {NULL, closed_page() + 9};
    for (int i = 0; i < 2; i++) {
        child = run_child(dereferences, &wild[i]);
        CHECK_CHILD(strstr(child.text, "went through") == NULL, child);
        CHECK_CHILD(count_in(child.text, "ERROR: AddressSanitizer: SEGV on unknown address") == 1, child);
        CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 1, child);
    }
}

int main(int count, char **arguments)
{
    harness_begin();
    if (count > 1) {
        refused(arguments[1]);
        return 0;
    }
    passes(again_with_other_options, (void *)(uintptr_t)"again");
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}

#else

int main(void)
{
    printf("this compiler cannot build a program with AddressSanitizer beside a library without\n");
    return HARNESS_SKIP;
}

#endif
