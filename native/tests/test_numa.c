/* Memory policies: what the kernel says of the pool's range, nodes that are not there, and mbind refused. */
#include "cells.h"
#include "refuse.h"

#define PREFERRED 1 /* MPOL_PREFERRED, as kernels before 5.14 call "local" */
#define BIND 2
#define INTERLEAVE 3
#define LOCAL 4
#define F_ADDR 2
#define F_MEMS_ALLOWED 4

static int runs;

static int count_nodes(void)
{
    unsigned long nodes[16] = {0};
    if (syscall(SYS_get_mempolicy, NULL, nodes, 1024UL, NULL, (unsigned long)F_MEMS_ALLOWED) != 0) {
        return 0;
    }
    int count = 0;
    for (int i = 0; i < 16; i++) {
        count += __builtin_popcountl(nodes[i]);
    }
    return count;
}

static int policy_at(const void *address, unsigned long nodes[16])
{
    int mode = -1;
    memset(nodes, 0, 16 * sizeof *nodes);
    CHECK_OK(syscall(SYS_get_mempolicy, &mode, nodes, 1024UL, address, (unsigned long)F_ADDR));
    return mode;
}

static int try_numa(const char *memory, const char *trap, const char *numa, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = is_huge_memory(memory) ? 4 * HUGE_PAGE : MIB;
    config.page_size = 0;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "resume";
    config.numa = numa;
    return bufpool_open(&config, pool);
}

static void check_range(const bufpool_pool *pool, const char *numa)
{
    bufpool_statistics statistics = stats_of(pool);
    for (uint64_t page = 0; page < statistics.pages; page++) {
        unsigned long nodes[16];
        int mode = policy_at(bufpool_address(pool, page), nodes);
        if (strcmp(numa, "local") == 0) {
            CHECK(mode == LOCAL || mode == PREFERRED);
            continue;
        }
        CHECK_IS(mode, ==, numa[0] == 'i' ? INTERLEAVE : BIND);
        int count = 0;
        for (int i = 0; i < 16; i++) {
            count += __builtin_popcountl(nodes[i]);
        }
        CHECK_IS(count, ==, numa[0] == 'i' ? count_nodes() : 1);
        CHECK(numa[0] == 'i' || nodes[0] == 1);
    }
}

static void works(const char *memory, const char *trap, const char *numa)
{
    bufpool_pool *pool;
    CHECK_OK(try_numa(memory, trap, numa, &pool));
    check_range(pool, numa);
    char note[64];
    snprintf(note, sizeof note, "numa \"%s\" changes nothing", numa);
    CHECK_IS(strstr(stats_of(pool).memory_note, note) != NULL, ==, count_nodes() == 1);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    memset(bufpool_address(pool, pages[1]), 5, stats_of(pool).page_size);
    CHECK_OK(bufpool_free(pool, pages[0]));
    CHECK_OK(bufpool_evict(pool, pages[2]));
    CHECK_OK(bufpool_populate(pool, pages[2], "x", 2));
    if (strcmp(trap, "none") != 0) {
        CHECK(traps_at(bufpool_address(pool, pages[0]), NULL));
    }
    check_range(pool, numa);
    runs++;
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    static const char *const good[] = {"interleave", "local", "0", "0,0", "0-0"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        works(memory, trap, good[i]);
    }
    bufpool_pool *pool; /* not asked for: the thread's own, and nothing to say */
    CHECK_OK(try_numa(memory, trap, NULL, &pool));
    unsigned long nodes[16];
    CHECK_IS(policy_at(bufpool_address(pool, 0), nodes), ==, 0);
    CHECK(strstr(stats_of(pool).memory_note, "numa") == NULL);
    CHECK_OK(bufpool_close(pool));
}

static void bad(const char *memory)
{
    static const char *const malformed[] = {"x",          "",
                                            "3-1",        "0,,1",
                                            "0,",         ",0",
                                            "-1",         "0-",
                                            "0--1",       " 0",
                                            "0x1",        "0 ",
                                            "1,x",        "0-1-2",
                                            "all",        "1024",
                                            "0-1024",     "99999999999999999999",
                                            "Interleave", "interleave,0"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        bufpool_pool *pool = NULL;
        CHECK_IS(try_numa(memory, "auto", malformed[i], &pool), ==, BUFPOOL_EARGUMENT);
        char expected[64];
        snprintf(expected, sizeof expected, "numa is \"%s\"", malformed[i]);
        CHECK_HAS(last_error(), expected);
        CHECK_HAS(last_error(), "\"interleave\", \"local\", or a list of nodes");
    }
    static const char *const absent[] = {"99", "0-99", "0,99", "1023", "0-1023"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent && count_nodes() > 0; i++) {
        bufpool_pool *pool = NULL;
        CHECK_IS(try_numa(memory, "auto", absent[i], &pool), ==, BUFPOOL_EARGUMENT);
        char expected[64];
        snprintf(expected, sizeof expected, "numa is \"%s\": this process may use node", absent[i]);
        CHECK_HAS(last_error(), expected);
        CHECK(strlen(last_error()) < 400);
    }
}

static void check_refusal(const char *call)
{
    static const char *const good[] = {"interleave", "local", "0"};
    int fds = count_fds();
    for (int i = 0; i < 3; i++) {
        bufpool_pool *pool = NULL;
        CHECK_IS(try_numa("shared", "auto", good[i], &pool), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), call);
        CHECK_HAS(last_error(), "Operation not permitted");
        CHECK_HAS(last_error(), "leave numa out");
        CHECK(pool == NULL);
    }
    CHECK_IS(count_fds(), ==, fds);
    bufpool_pool *pool; /* who does not ask is not asked */
    CHECK_OK(try_numa("shared", "auto", NULL, &pool));
    CHECK_OK(bufpool_close(pool));
}

static void no_mbind(void *argument)
{
    (void)argument;
    REFUSE(REFUSE_MBIND);
    check_refusal("mbind");
    bad("anon");
}

static void no_mempolicy(void *argument)
{
    (void)argument;
    REFUSE(REFUSE_MEMPOLICY);
    check_refusal("get_mempolicy");
    bad("anon");
}

static int body(void)
{
    bad("anon");
    if (count_nodes() == 0 && errno == ENOSYS) {
        printf("this kernel has no memory policies (CONFIG_NUMA)\n");
        return HARNESS_SKIP;
    }
    struct child child = run_child(no_mbind, NULL);
    CHECK_PASSED(child);
    child = run_child(no_mempolicy, NULL);
    CHECK_PASSED(child);
    unsigned long node = 1;
    bool refused = syscall(SYS_mbind, NULL, 0UL, BIND, &node, 64UL, 0UL) != 0 && errno == EPERM;
    if (refused) {
        check_refusal("mbind");
        printf("mbind is refused here: that, and what is refused before it, is all that was tried\n");
        return 0;
    }
    for_each_cell(cell, true);
    for_each_huge_cell(cell, true);
    CHECK_IS(runs, >, 0);
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
