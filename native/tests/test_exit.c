/* Stray accesses while a process ends: after main() has returned, in atexit handlers, in destructors of threads, of
 * objects and of thread-local data, in a thread that outlives main. */
#include "hosts.h"

#include <stdatomic.h>

struct variant {
    const char *on_fault;
    const char *where;
};

static bufpool_pool *pool;
static const char *where = "";

static void stray_here(const char *place)
{
    if (strcmp(where, place) == 0) {
        CHECK_IS((unsigned char)read_byte(hole(pool, 3)), ==, BUFPOOL_POISON);
        fprintf(stderr, "strayed in %s\n", place);
    }
}

__attribute__((destructor)) static void destroy(void)
{
    stray_here("destructor");
}

static void last(void)
{
    stray_here("atexit");
}

static void end_of_key(void *value)
{
    (void)value;
    stray_here("key");
    /* Calls work there, too. */
    if (strcmp(where, "key") == 0) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
        CHECK_OK(bufpool_free(pool, page));
        CHECK_IS(bufpool_free(pool, page), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), "double free");
    }
}

static void cleanup(void *value)
{
    (void)value;
    stray_here("cleanup");
}

static void *work(void *argument)
{
    pthread_key_t *key = argument;
    CHECK_OK(pthread_setspecific(*key, argument));
    pthread_cleanup_push(cleanup, NULL);
    pthread_exit(NULL);
    pthread_cleanup_pop(0);
    return NULL;
}

static void *outlive(void *argument)
{
    atomic_bool *ending = argument;
    while (!atomic_load(ending)) {
        sleep_ms(1);
    }
    stray_here("thread");
    exit(0);
}

static atomic_bool ending;

/* Like main(): what follows its return follows here, by exit(). */
static void main_of(void *argument)
{
    const struct variant *variant = argument;
    where = variant->where;
    atexit(last);
    pool = open_small(variant->on_fault);
    pthread_key_t key;
    CHECK_OK(pthread_key_create(&key, end_of_key));
    run_threads(1, work, &key, 0);
    if (strcmp(where, "thread") == 0) {
        pthread_t thread;
        CHECK_OK(pthread_create(&thread, NULL, outlive, &ending));
        atomic_store(&ending, true);
        pthread_exit(NULL);
    }
    if (strcmp(where, "closed") == 0) {
        CHECK_OK(bufpool_close(pool));
        stray_here("closed");
    }
    exit(0);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"resume", "raise", "abort"};
    static const char *const places[] = {"destructor", "atexit", "key", "cleanup", "thread", "closed"};
    for (size_t p = 0; p < 3; p++) {
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            struct variant variant = {policies[p], places[i]};
            struct child child = run_child(main_of, &variant);
            char strayed[40];
            snprintf(strayed, sizeof strayed, "strayed in %s\n", places[i]);
            CHECK_CHILD((strstr(child.text, strayed) != NULL) == (p != 2), child);
            if (p == 2) {
                CHECK_DIED(child, strcmp(places[i], "closed") == 0 ? SIGSEGV : signal_of(trap));
            } else {
                CHECK_PASSED(child);
            }
            CHECK_CHILD(count_in(child.text, "==END of bufpool report") == (p != 1), child);
        }
    }
}

int main(void)
{
    harness_begin();
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
