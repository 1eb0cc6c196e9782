/* Fill patterns on every cell: what is allocated or populated without data is BUFPOOL_FRESH, frames are scrubbed before they
 * go, and bufpool_pattern() names what it meets; guests do as the pool's opener says. */
#include "zone.h"

#include <sys/uio.h>

static bool is_all(const void *address, int byte, size_t size)
{
    const unsigned char *bytes = address;
    return bytes[0] == byte && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static void fresh(const char *memory, const char *trap)
{
    size_t size = granule_of(memory);
    bufpool_config config = zone_config(memory, trap, 8);
    config.fill = "pattern";
    bufpool_pool *pool = zone_open(&config);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &pages[0]));
    char *first = bufpool_address(pool, pages[0]);
    CHECK(is_all(first, BUFPOOL_FRESH, size));
    CHECK_STRING(bufpool_pattern(first, size), "fresh");
    CHECK_OK(bufpool_allocate_at(pool, 7, "data", 4));
    char *seventh = bufpool_address(pool, 7);
    CHECK(memcmp(seventh, "data", 4) == 0 && is_all(seventh + 4, 0, size - 4)); /* after data come zeros */
    CHECK_STRING(bufpool_pattern(seventh, size), "");
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    CHECK_IS(pages[2], ==, pages[0] + 2);
    for (int i = 0; i < 3; i++) {
        CHECK(is_all(bufpool_address(pool, pages[i]), BUFPOOL_FRESH, size));
    }
    write_byte((char *)bufpool_address(pool, pages[1]) + size - 1, 1);
    CHECK_STRING(bufpool_pattern(bufpool_address(pool, pages[1]), size), "");
    CHECK_STRING(bufpool_pattern(bufpool_address(pool, pages[1]), size - 1), "fresh");
    CHECK_STRING(bufpool_pattern(first, 0), "");
    CHECK_OK(bufpool_evict_many(pool, 3, pages));
    CHECK_OK(bufpool_populate_many(pool, 3, pages, NULL));
    CHECK(is_all(bufpool_address(pool, pages[1]), BUFPOOL_FRESH, size));
    CHECK_OK(bufpool_free(pool, 7));
    if (strcmp(trap, "none") != 0) {
        CHECK_STRING(bufpool_pattern(seventh, size), ""); /* not readable */
        CHECK_IS(stats_of(pool).faults, ==, 0);
        read_byte(seventh);
        CHECK_STRING(bufpool_pattern(seventh, GRANULE), "poison");
    }
    CHECK_OK(bufpool_close(pool));
}

/* What somebody else holds of a frame that is freed: a pipe, which is given pages themselves, not copies. */
static void scrub(const char *memory, const char *trap)
{
    bufpool_config config = zone_config(memory, trap, 4);
    config.flags = BUFPOOL_SCRUB;
    for (int evicted = 0; evicted < 2; evicted++) {
        bufpool_pool *pool = zone_open(&config);
        uint64_t pages[2];
        int ends[2];
        char held[16];
        CHECK_OK(bufpool_allocate_many(pool, 2, pages));
        char *page = bufpool_address(pool, pages[1]);
        memset(page, 'x', granule_of(memory));
        CHECK_OK(pipe2(ends, O_CLOEXEC));
        struct iovec part = {page + granule_of(memory) - sizeof held, sizeof held};
        CHECK_IS(vmsplice(ends[1], &part, 1, 0), ==, sizeof held);
        CHECK_OK(evicted ? bufpool_evict_many(pool, 2, pages) : bufpool_free_many(pool, 2, pages));
        CHECK_IS(read(ends[0], held, sizeof held), ==, sizeof held);
        CHECK(is_all(held, BUFPOOL_SCRUBBED, sizeof held));
        CHECK_STRING(bufpool_pattern(held, sizeof held), "scrubbed");
        close(ends[0]);
        close(ends[1]);
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &pages[0])); /* of frames that were kept, too */
        CHECK(is_all(bufpool_address(pool, pages[0]), 0, granule_of(memory)));
        CHECK_OK(bufpool_close(pool));
    }
}

static void cell(const char *memory, const char *trap)
{
    fresh(memory, trap);
    scrub(memory, trap);
}

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static void guest(void *argument)
{
    (void)argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    uint64_t page;
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK(is_all(bufpool_address(pool, page), BUFPOOL_FRESH, GRANULE));
    CHECK_OK(bufpool_close(pool));
}

static void processes(void)
{
    if (bufpool_probe("shared", "uffd", NULL, 0) != 0) {
        printf("skipped several processes: %s\n", last_error());
        return;
    }
    bufpool_config config = zone_config("shared", "uffd", 4);
    config.fill = "pattern";
    config.flags = BUFPOOL_SCRUB;
    bufpool_pool *pool = zone_open(&config);
    CHECK_OK(bufpool_share(pool, &handle));
    passes(guest, NULL);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

static void refused(void)
{
    bufpool_config config = zone_config("anon", "auto", 4);
    bufpool_pool *pool = NULL;
    config.fill = "ones";
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "unknown fill \"ones\": valid are \"zeros\", \"pattern\"");
    config.fill = "pattern";
    config.flags = BUFPOOL_LAZY_ZERO;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "LAZY_ZERO");
    config.fill = "zeros";
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_close(pool));
    CHECK_STRING(bufpool_pattern((void *)8, 1), "");
}

static int all(void)
{
    refused();
    processes();
    return zone_all();
}

int main(void)
{
    zone_cell = cell;
    zone_untrapped = true;
    return with_huge_pages(ZONE_PAGES, all);
}
