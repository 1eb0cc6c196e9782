/* Frames in pools that watch clean pages, let freed numbers rest, or keep freed frames: what they keep, or watch, is neither
 * published over nor left behind. */
#include "publish.h"

static void life(const char *memory, const char *trap, struct publishing mode)
{
    mode.memory = memory;
    mode.trap = trap;
    mode.pages = 12;
    mode.page_size = mode.page_size == 0 ? GRANULE : mode.page_size;
    at = mode;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = memory;
    config.trap = trap;
    config.pins = at.pins;
    config.audit = at.audit;
    config.free_lag = at.free_lag;
    config.quarantine = at.quarantine;
    config.page_size = config.capacity = at.page_size;
    bufpool_pool *pool;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED || code == BUFPOOL_EARGUMENT) {
        printf("without this: %s\n", last_error());
        return;
    }
    CHECK_OK(code);
    CHECK_OK(bufpool_close(pool));
    publish_life();
}

/* What was clean in the pool is not watched in the frame, nor is the page when it comes back changed. */
static void clean_pages_leave(const char *memory, const char *trap, const char *audit)
{
    at = (struct publishing){.memory = memory, .trap = trap, .pages = 12, .page_size = GRANULE, .audit = audit};
    bufpool_pool *pool = open_publishing();
    uint64_t pages[] = {0, 1, 2, 3};
    void *frames[4];
    bufpool_changed changed[4];
    size_t found = 4;
    CHECK_OK(bufpool_stage(pool, 4, frames));
    for (int i = 0; i < 4; i++) {
        stamp(frames[i], 1);
    }
    CHECK_OK(bufpool_publish(pool, 4, frames, pages));
    CHECK_OK(bufpool_mark_clean(pool, 4, pages));
    CHECK_IS(publishing_stats(pool).clean, ==, 4);
    CHECK_OK(bufpool_withdraw(pool, 3, pages, frames));
    CHECK_IS(publishing_stats(pool).clean, ==, 1);
    for (int i = 0; i < 3; i++) {
        stamp(frames[i], 2);
    }
    CHECK_OK(bufpool_publish(pool, 3, frames, pages));
    CHECK_OK(bufpool_replace(pool, 3, 5));
    CHECK_IS(publishing_stats(pool).clean, ==, 0);
    stamp(bufpool_address(pool, 5), 3);
    CHECK_OK(bufpool_audit(pool, 0, 12, changed, &found));
    CHECK_IS(found, ==, 0);
    CHECK_OK(bufpool_mark_clean(pool, 1, pages));
    write_byte(bufpool_address(pool, 0), 77);
    found = 4;
    CHECK_OK(bufpool_audit(pool, 0, 12, changed, &found));
    CHECK_IS(found, ==, 1);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    static const char *const audits[] = {"track", "checksum"};
    for (int i = 0; i < 2; i++) {
        life(memory, trap, (struct publishing){.audit = audits[i]});
        bufpool_config config = BUFPOOL_CONFIG_INIT;
        config.memory = memory;
        config.trap = trap;
        config.audit = audits[i];
        config.capacity = MIB;
        bufpool_pool *pool;
        if (bufpool_open(&config, &pool) == 0) {
            CHECK_OK(bufpool_close(pool));
            clean_pages_leave(memory, trap, audits[i]);
        }
    }
    life(memory, trap, (struct publishing){.quarantine = 4 * GRANULE});
    life(memory, trap, (struct publishing){.free_lag = 4});
    life(memory, trap, (struct publishing){.pins = "count", .audit = "checksum", .quarantine = 2 * GRANULE});
    life(memory, trap, (struct publishing){.quarantine = 6 * GRANULE, .page_size = 2 * GRANULE});
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
