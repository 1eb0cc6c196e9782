/* Wrong arguments: each gets the right code, a sentence that names the value and what would be right, and changes
 * nothing. */
#include "harness.h"

#include <sys/stat.h>

static bufpool_pool *const unset = (bufpool_pool *)-1;

/* Opens with what change made of a good configuration; expects code and a sentence with every one of the parts. */
static void refused(const bufpool_config *config, int code, const char *part, const char *other)
{
    bufpool_pool *pool = unset;
    CHECK_IS(bufpool_open(config, &pool), ==, code);
    CHECK(pool == unset);
    CHECK_HAS(last_error(), part);
    CHECK_HAS(last_error(), other);
}

static bufpool_config good(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    return config;
}

#define REFUSED(change, code, part, other) \
    do { \
        bufpool_config config = good(); \
        change; \
        refused(&config, code, part, other); \
    } while (0)

static void configurations(void)
{
    REFUSED(config.capacity = 0, BUFPOOL_EARGUMENT, "capacity is 0 bytes", "4096");
    REFUSED(config.capacity = MIB + 1, BUFPOOL_EARGUMENT, "capacity is 1048577", "1048576 and 1052672");
    REFUSED(config.capacity = 16 * TIB + 4096, BUFPOOL_EARGUMENT, "capacity is 17592186048512", "16 TiB");
    REFUSED(config.capacity = UINT64_MAX, BUFPOOL_EARGUMENT, "capacity is 18446744073709551615", "16 TiB");
    REFUSED(config.capacity = (uint64_t)-4096, BUFPOOL_EARGUMENT, "capacity is 18446744073709547520", "16 TiB");
    REFUSED(config.page_size = 512, BUFPOOL_EARGUMENT, "page_size is 512 bytes", "from 4096");
    REFUSED(config.page_size = 4097, BUFPOOL_EARGUMENT, "page_size is 4097 bytes", "which have 4096 bytes");
    REFUSED(config.page_size = GIB + 4096, BUFPOOL_EARGUMENT, "page_size is 1073745920", "to 1073741824");
    REFUSED(config.page_size = 2 * MIB, BUFPOOL_EARGUMENT, "capacity is 1048576", "2097152");
    REFUSED(config.memory = "hugemem", BUFPOOL_EARGUMENT, "unknown memory \"hugemem\"",
            "\"anon\", \"thp\", \"shared\", \"hugetlb\", \"path\"");
    REFUSED(config.memory = "", BUFPOOL_EARGUMENT, "unknown memory \"\"", "\"anon\"");
    REFUSED(config.trap = "ufd", BUFPOOL_EARGUMENT, "unknown trap \"ufd\"",
            "\"auto\", \"noautofill\", \"uffd\", \"guard\", \"mprotect\", \"none\"");
    REFUSED(config.trap = "UFFD", BUFPOOL_EARGUMENT, "unknown trap \"UFFD\"", "\"uffd\"");
    REFUSED(config.on_fault = "ignore", BUFPOOL_EARGUMENT, "unknown on_fault \"ignore\"",
            "\"abort\", \"raise\", \"resume\"");
    REFUSED(config.flags = 1u << 20, BUFPOOL_EARGUMENT, "flags is 0x100000", "BUFPOOL_LAZY_ZERO");
    REFUSED(config.flags = 0x80000001, BUFPOOL_EARGUMENT, "flags is 0x80000001", "are known");
    char name[65];
    memset(name, 'n', 64);
    name[64] = 0;
    REFUSED(config.name = name, BUFPOOL_EARGUMENT, "name has 64 bytes", "1 to 63");
    REFUSED(config.name = "", BUFPOOL_EARGUMENT, "name has 0 bytes", "1 to 63");
    REFUSED(config.size = 0, BUFPOOL_EARGUMENT, "config.size is 0", "BUFPOOL_CONFIG_INIT");
    REFUSED(config.size = 8, BUFPOOL_EARGUMENT, "config.size is 8", "sizeof(bufpool_config)");
    REFUSED(config.size = 1 << 20, BUFPOOL_EARGUMENT, "config.size is 1048576", "sizeof(bufpool_config)");
    char long_memory[2000];
    memset(long_memory, 'm', sizeof long_memory);
    long_memory[1999] = 0;
    REFUSED(config.memory = long_memory, BUFPOOL_EARGUMENT, "unknown memory \"mmm", "mmm");

    struct {
        bufpool_config config;
        char newer[16];
    } larger = {good(), {0}};
    larger.config.size = sizeof larger;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&larger.config, &pool)); /* a newer header's fields, unused */
    CHECK_OK(bufpool_close(pool));
    larger.newer[3] = 1;
    refused(&larger.config, BUFPOOL_EARGUMENT, "does not know", BUFPOOL_VERSION);

    bufpool_config small = good(); /* an older header: what it lacks has its default */
    small.size = offsetof(bufpool_config, page_size);
    small.page_size = 77;
    CHECK_OK(bufpool_open(&small, &pool));
    CHECK_IS(stats_of(pool).page_size, ==, 4096);
    CHECK_OK(bufpool_close(pool));

    bufpool_config zero = good(); /* NULL names mean the defaults */
    zero.memory = zero.trap = zero.on_fault = NULL;
    CHECK_OK(bufpool_open(&zero, &pool));
    CHECK_STRING(stats_of(pool).memory, "anon");
    CHECK_STRING(stats_of(pool).on_fault, "abort");
    CHECK_OK(bufpool_close(pool));

    name[63] = 0;
    bufpool_config named = good();
    named.name = name;
    CHECK_OK(bufpool_open(&named, &pool));
    CHECK_STRING(stats_of(pool).name, name);
    CHECK_OK(bufpool_close(pool));
}

static void nulls(bufpool_pool *pool)
{
    uint64_t page = 0;
    size_t found = 0;
    bufpool_config config = good();
    CHECK_IS(bufpool_open(NULL, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "config is NULL");
    CHECK_IS(bufpool_open(&config, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "pool is NULL");
#define NULL_POOL(call) \
    do { \
        CHECK_IS(call, ==, BUFPOOL_EARGUMENT); \
        CHECK_HAS(last_error(), "NULL"); \
    } while (0)
    NULL_POOL(bufpool_close(NULL));
    NULL_POOL(bufpool_keep(NULL));
    NULL_POOL(bufpool_allocate(NULL, NULL, 0, &page));
    NULL_POOL(bufpool_allocate(NULL, "x", 1, &page));
    NULL_POOL(bufpool_allocate_at(NULL, 0, "x", 1));
    NULL_POOL(bufpool_allocate_many(NULL, 1, &page));
    NULL_POOL(bufpool_allocate_filled(NULL, 1, "x", &page));
    NULL_POOL(bufpool_free(NULL, 0));
    NULL_POOL(bufpool_free_many(NULL, 1, &page));
    NULL_POOL(bufpool_evict(NULL, 0));
    NULL_POOL(bufpool_evict_many(NULL, 1, &page));
    NULL_POOL(bufpool_populate(NULL, 0, NULL, 0));
    NULL_POOL(bufpool_populate_many(NULL, 1, &page, NULL));
    NULL_POOL(bufpool_list(NULL, BUFPOOL_STATE_FREED, 0, 1, &page, &found));
    NULL_POOL(bufpool_stats(NULL, &(bufpool_statistics)BUFPOOL_STATISTICS_INIT));
    NULL_POOL(bufpool_set_fault_callback(NULL, NULL, NULL));
    NULL_POOL(bufpool_faults(NULL, 0, 0, NULL, &found));

    NULL_POOL(bufpool_allocate(pool, NULL, 0, NULL));
    NULL_POOL(bufpool_allocate(pool, NULL, 5, &page));
    NULL_POOL(bufpool_allocate_many(pool, 3, NULL));
    NULL_POOL(bufpool_allocate_filled(pool, 3, NULL, &page));
    NULL_POOL(bufpool_free_many(pool, 3, NULL));
    NULL_POOL(bufpool_evict_many(pool, 3, NULL));
    NULL_POOL(bufpool_populate_many(pool, 3, NULL, NULL));
    NULL_POOL(bufpool_list(pool, BUFPOOL_STATE_FREED, 0, 1, NULL, &found));
    NULL_POOL(bufpool_list(pool, BUFPOOL_STATE_FREED, 0, 1, &page, NULL));
    NULL_POOL(bufpool_stats(pool, NULL));
    NULL_POOL(bufpool_faults(pool, 0, 1, NULL, &found));
    NULL_POOL(bufpool_faults(pool, 0, 0, NULL, NULL));
    NULL_POOL(bufpool_last_fault(NULL));
    NULL_POOL(bufpool_guarded_call(NULL, NULL, NULL));
    CHECK(bufpool_address(NULL, 0) == NULL);
    CHECK_IS(bufpool_locate(NULL, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_locate(bufpool_address(pool, 0), NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_page_state(pool, 0, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_release(NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_release(pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "keep");
    CHECK(!bufpool_handle_signal(SIGSEGV, NULL, NULL));
    CHECK(!bufpool_handle_signal(SIGUSR1, (siginfo_t *)&page, &page));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_last_fault(&fault), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "stray access");
}

static void numbers(bufpool_pool *pool)
{
    char data[8192] = "x";
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, data, 4097, &page), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "size is 4097");
    CHECK_HAS(last_error(), "4096");
    CHECK_IS(bufpool_allocate(pool, data, SIZE_MAX, &page), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_allocate_at(pool, 0, data, 4097), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_populate(pool, 0, data, 4097), ==, BUFPOOL_EARGUMENT);
    static const uint64_t wrong[] = {256, 257, UINT64_MAX, UINT64_MAX / 4096, (uint64_t)1 << 52};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[32];
        snprintf(text, sizeof text, "page %llu ", (unsigned long long)wrong[i]);
        int codes[] = {bufpool_free(pool, wrong[i]), bufpool_evict(pool, wrong[i]),
                       bufpool_allocate_at(pool, wrong[i], NULL, 0), bufpool_populate(pool, wrong[i], NULL, 0)};
        for (int c = 0; c < 4; c++) {
            CHECK_IS(codes[c], ==, BUFPOOL_EARGUMENT);
        }
        CHECK_HAS(last_error(), text);
        CHECK_HAS(last_error(), "0 to 255");
        CHECK(bufpool_address(pool, wrong[i]) == NULL);
        bufpool_state state;
        CHECK_IS(bufpool_page_state(pool, wrong[i], &state), ==, BUFPOOL_EARGUMENT);
    }
    CHECK_IS(bufpool_allocate_many(pool, SIZE_MAX, &page), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(bufpool_allocate_many(pool, SIZE_MAX / 4096 + 2, &page), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(bufpool_free_many(pool, SIZE_MAX / 8 + 2, &page), ==, -ENOMEM);

    CHECK_IS(bufpool_free(pool, 5), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot free page 5");
    CHECK_HAS(last_error(), "unallocated");
    CHECK_IS(bufpool_evict(pool, 5), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot evict page 5");
    CHECK_IS(bufpool_populate(pool, 5, NULL, 0), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot populate page 5");
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(bufpool_allocate_at(pool, page, NULL, 0), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it is allocated");
    CHECK_IS(bufpool_populate(pool, page, NULL, 0), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_evict(pool, page));
    CHECK_IS(bufpool_evict(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it is evicted");
    CHECK_IS(bufpool_allocate_at(pool, page, NULL, 0), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(bufpool_free(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "double free of page");
    bufpool_statistics s = stats_of(pool);
    CHECK(s.allocated == 0 && s.evicted == 0);
}

/* The sentence and its length, cut; threads do not see each other's. */
static void *other_thread(void *argument)
{
    (void)argument;
    CHECK_IS(bufpool_last_error(NULL, 0), ==, 0);
    CHECK_IS(bufpool_close(NULL), ==, BUFPOOL_EARGUMENT);
    return NULL;
}

static void sentences(bufpool_pool *pool)
{
    CHECK_IS(bufpool_free(pool, 300), ==, BUFPOOL_EARGUMENT);
    char whole[1024];
    int length = bufpool_last_error(whole, sizeof whole);
    CHECK_IS(length, ==, strlen(whole));
    char cut[6] = "#####";
    CHECK_IS(bufpool_last_error(cut, 5), ==, length);
    CHECK(memcmp(cut, whole, 4) == 0 && cut[4] == 0);
    CHECK_IS(bufpool_last_error(NULL, 0), ==, length);
    run_threads(1, other_thread, NULL, 0);
    CHECK_HAS(last_error(), "page 300");
    for (int code = BUFPOOL_ESTRAY; code <= 0; code++) {
        CHECK(bufpool_strerror(code)[0] != 0);
    }
    CHECK_STRING(bufpool_strerror(-ENOMEM), strerror(ENOMEM));
    CHECK_STRING(bufpool_strerror(BUFPOOL_ESTATE), "wrong page state");
    CHECK_STRING(bufpool_strerror(17), "unknown code");
    CHECK_STRING(bufpool_version(), BUFPOOL_VERSION);
    CHECK(bufpool_memory_name(100) == NULL && bufpool_trap_name(100) == NULL);
}

int main(void)
{
    harness_begin();
    configurations();
    bufpool_pool *pool = open_pool("anon", "auto", "abort", MIB, 4096);
    nulls(pool);
    numbers(pool);
    sentences(pool);
    CHECK_OK(bufpool_close(pool));
    return 0;
}
