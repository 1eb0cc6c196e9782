/* free_lag is refused with what contradicts it, by a sentence that says what and why; and what is more than the pool is all. */
#include "lag.h"

static void refused(const bufpool_config *config, const char *why)
{
    bufpool_pool *pool = NULL;
    CHECK_IS(bufpool_open(config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK(pool == NULL);
    CHECK_HAS(last_error(), "free_lag is 4 pages");
    CHECK_HAS(last_error(), why);
}

static void attached_and_adopted(void)
{
    bufpool_config config = lag_config("anon", "auto", 4, 4);
    bufpool_pool *pool = NULL;
    bufpool_pool *other = NULL;
    void *base = mmap(NULL, 4 * GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    CHECK_IS(bufpool_adopt(base, 4 * GRANULE, -1, &config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "memory that is adopted");
    config.memory = "shared";
    config.free_lag = 0;
    int code = bufpool_open(&config, &pool);
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    code = code < 0 ? code : bufpool_share(pool, &handle);
    if (code == 0) {
        config.free_lag = 4;
        CHECK_IS(bufpool_attach(&config, &handle, &other), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "attach with free_lag 0");
        CHECK_OK(bufpool_handle_close(&handle));
    } else {
        printf("no pool can be shared here: %s\n", last_error());
    }
}

int main(void)
{
    static const struct {
        const char *memory, *pins, *audit, *why;
        uint32_t sample, flags;
        uint64_t quarantine;
    } cases[] = {
        {"shared", NULL, NULL, "other processes", 0, 0, 0},
        {"anon", "count", NULL, "pins", 0, 0, 0},
        {"anon", "write", NULL, "pins", 0, 0, 0},
        {"anon", NULL, "checksum", "audit", 0, 0, 0},
        {"anon", NULL, NULL, "sample", 10, 0, 0},
        {"anon", NULL, NULL, "quarantine", 0, 0, GRANULE},
        {"anon", NULL, NULL, "LAZY_ZERO", 0, BUFPOOL_LAZY_ZERO, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bufpool_config config = lag_config(cases[i].memory, "auto", 4, 4);
        config.pins = cases[i].pins;
        config.audit = cases[i].audit;
        config.sample = cases[i].sample;
        config.flags = cases[i].flags;
        config.quarantine = cases[i].quarantine;
        refused(&config, cases[i].why);
    }
    attached_and_adopted();
    bufpool_config config = lag_config("anon", "none", 4, UINT64_MAX);
    bufpool_pool *pool = zone_open(&config);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_free_many(pool, 4, pages));
    check_clean(pool, 4);
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_settle(pool), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_settle(NULL), ==, BUFPOOL_EARGUMENT);
    return 0;
}
