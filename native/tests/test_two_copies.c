/* Two copies of the library in one process, this program's and a plugin's: each reports what strays into its own pools,
 * whoever does it and whichever came first. Neither can be unloaded once it has a handler. */
#include "hosts.h"

#include "plugin/plugin.h"

#include <dlfcn.h>
#include <setjmp.h>

struct variant {
    const char *on_fault;
    int order; /* see prepare() */
};

static struct plugin_table *plugin;
static bufpool_pool *pool;
static void *handle;

static void load(const char *path)
{
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        fprintf(stderr, "%s\n", dlerror());
    }
    CHECK(handle != NULL);
    plugin = dlsym(handle, "plugin_table");
    CHECK(plugin != NULL);
    CHECK((void *)plugin->install != (void *)bufpool_install_handlers);
}

static void prepare(const struct variant *variant)
{
    load(BUFPOOL_TEST_PLUGIN);
    for (int step = 0; step < 2; step++) {
        if (step == variant->order % 2) {
            pool = open_small(variant->on_fault);
        } else {
            CHECK_OK(plugin->open(memory, trap, variant->on_fault));
        }
    }
    /* Then each in front of the other, again and again: the chain must not grow, nor go round. */
    for (int i = 0; i < (variant->order >= 2 ? 20 + variant->order % 2 : 0); i++) {
        CHECK_OK(i % 2 ? bufpool_install_handlers() : plugin->install());
    }
}

static char *theirs(uint64_t page)
{
    return (char *)plugin->address(plugin->pool, page) + page;
}

static void each_its_own(void *argument)
{
    const struct variant *variant = argument;
    prepare(variant);
    bool raises = strcmp(variant->on_fault, "raise") == 0;
    for (uint64_t i = 0; i < 4; i++) {
        CHECK_IS((unsigned char)read_byte(hole(pool, i)), ==, BUFPOOL_POISON);
        CHECK_IS((unsigned char)read_byte(theirs(i)), ==, BUFPOOL_POISON);
        CHECK_IS((unsigned char)plugin->stray(hole(pool, 10 + i)), ==, BUFPOOL_POISON);
        CHECK_IS((unsigned char)plugin->stray(theirs(10 + i)), ==, BUFPOOL_POISON);
    }
    CHECK_IS(stats_of(pool).faults, ==, 8);
    CHECK_IS(plugin->count_faults(), ==, 8);
    for (int i = 0; i < 8 * raises; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_STRING(fault.pool_name, "pool-1");
        CHECK_IS(plugin->check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_STRING(fault.pool_name, "plugin");
    }
    CHECK_OK(bufpool_check(NULL));
    CHECK_OK(plugin->check(NULL));
    /* A guarded call is ended by a stray access into a pool of its own copy. */
    CHECK(traps_at(hole(pool, 20), NULL));
    CHECK_IS(plugin->guard(theirs(20)), ==, BUFPOOL_ESTRAY);
    /* One into the other's pool is the other's, which knows nothing of the call. */
    CHECK(!traps_at(theirs(21), NULL));
    CHECK_OK(plugin->guard(hole(pool, 21)));
    CHECK_IS(stats_of(pool).faults, ==, 10);
    CHECK_IS(plugin->count_faults(), ==, 10);
    CHECK_IS(dlclose(handle), ==, 0);
    read_byte(theirs(30)); /* its code is still there */
    read_byte(hole(pool, 30));
    CHECK_IS(stats_of(pool).faults, ==, 11);
    CHECK_IS(plugin->count_faults(), ==, 11);
}

/* The same instruction again and again: nobody takes the other for a handler that does nothing. */
static void over_and_over(void *argument)
{
    const struct variant *variant = argument;
    prepare(variant);
    for (int i = 0; i < 1500; i++) {
        read_byte(theirs(5));
        while (plugin->check(NULL) == BUFPOOL_ESTRAY) {
        }
        read_byte(hole(pool, 5));
        while (bufpool_check(NULL) == BUFPOOL_ESTRAY) {
        }
    }
    CHECK_IS(stats_of(pool).faults, ==, 1500);
    CHECK_IS(plugin->count_faults(), ==, 1500);
}

static int calls;
static sigjmp_buf back;

static void host(int signo, siginfo_t *info, void *context)
{
    (void)context;
    calls++;
    CHECK((char *)info->si_addr == closed_page() + 3);
    siglongjmp(back, signo);
}

static void foreign_fault(void *argument)
{
    set_handler(SIGSEGV, host, 0, NULL);
    prepare(argument);
    for (volatile int i = 0; i < 40; i++) {
        if (sigsetjmp(back, 1) == 0) {
            read_byte(closed_page() + 3);
            CHECK(false);
        }
        read_byte(i % 2 ? theirs((uint64_t)i) : hole(pool, (uint64_t)i));
        bufpool_check(NULL);
        plugin->check(NULL);
    }
    CHECK_IS(calls, ==, 40);
    CHECK_IS(stats_of(pool).faults, ==, 20);
    CHECK_IS(plugin->count_faults(), ==, 20);
}

static void nobody_wants_it(void *argument)
{
    prepare(argument);
    read_byte(closed_page() + 3);
    fprintf(stderr, "went through\n");
}

static void theirs_aborts(void *argument)
{
    prepare(argument);
    read_byte(theirs(3));
    fprintf(stderr, "went through\n");
}

/* A plugin that was not linked with nodelete, and the shared library itself. */
static void unloaded(void *argument)
{
    const struct variant *variant = argument;
    pool = open_small(variant->on_fault);
    load(BUFPOOL_TEST_PLUGIN_PLAIN);
    struct plugin_table table = *plugin;
    CHECK_IS(dlclose(handle), ==, 0); /* without a pool it may go */
    load(BUFPOOL_TEST_PLUGIN_PLAIN);
    CHECK_OK(plugin->open(memory, trap, variant->on_fault));
    table = *plugin;
    CHECK_IS(dlclose(handle), ==, 0);
    read_byte((char *)table.address(table.pool, 3) + 3);
    CHECK_IS(table.count_faults(), ==, 1);
    read_byte(hole(pool, 3));
    CHECK_IS(stats_of(pool).faults, ==, 1);
}

static void shared_library(void *argument)
{
    const struct variant *variant = argument;
    void *library = dlopen(BUFPOOL_TEST_SHARED, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    int (*open)(const bufpool_config *, bufpool_pool **);
    void *(*address)(const bufpool_pool *, uint64_t);
    int (*stats)(const bufpool_pool *, bufpool_statistics *);
    *(void **)&open = dlsym(library, "bufpool_open");
    *(void **)&address = dlsym(library, "bufpool_address");
    *(void **)&stats = dlsym(library, "bufpool_stats");
    CHECK(open != NULL && open != bufpool_open && address != NULL && stats != NULL);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 64 * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = variant->on_fault;
    bufpool_pool *its;
    CHECK_OK(open(&config, &its));
    CHECK_IS(dlclose(library), ==, 0);
    CHECK_IS(dlclose(library), !=, 12345); /* one time too many: an error or not, but nothing goes */
    read_byte((char *)address(its, 4) + 9);
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(stats(its, &statistics));
    CHECK_IS(statistics.faults, ==, 1);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    for (int order = 0; order < 4; order++) {
        for (int i = 0; i < 2; i++) {
            struct variant variant = {i == 0 ? "resume" : "raise", order};
            struct child child = run_child(each_its_own, &variant);
            CHECK_PASSED(child);
            CHECK_CHILD(count_in(child.text, "==END of bufpool report") == (i == 0 ? 20 : 0), child);
        }
        struct variant variant = {"raise", order};
        passes(over_and_over, &variant);
        passes(foreign_fault, &variant);
        struct child child = run_child(nobody_wants_it, &variant);
        CHECK_DIED(child, SIGSEGV);
        CHECK_STRING(child.text, "");
        variant.on_fault = "abort";
        child = run_child(theirs_aborts, &variant);
        CHECK_DIED(child, signal_of(trap));
        CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 1, child);
        CHECK_CHILD(strstr(child.text, "of pool \"plugin\"") != NULL, child);
    }
    struct variant variant = {"raise", 0};
    passes(unloaded, &variant);
    passes(shared_library, &variant);
}

int main(void)
{
    harness_begin();
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
