/*
 * publish.h: stage, publish, withdraw, unstage and replace, in one cell: what appears is the frame's content, whole; what
 * leaves traps, and is in the frame; what is refused changes nothing.
 */
#ifndef PUBLISH_H
#define PUBLISH_H

#include "harness.h"

#define FRAMES 6

static struct publishing {
    const char *memory, *trap, *pins;
    uint32_t flags;
    uint64_t pages, page_size;
    const char *audit;
    uint64_t quarantine, free_lag;
    bool forks;
} at;

static bufpool_pool *open_publishing(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = at.memory;
    config.trap = at.trap;
    config.pins = at.pins;
    config.flags = at.flags;
    config.audit = at.audit;
    config.quarantine = at.quarantine;
    config.free_lag = at.free_lag;
    config.page_size = at.page_size;
    config.capacity = at.pages * at.page_size;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static void stamp(void *frame, uint64_t value)
{
    uint64_t *words = frame;
    for (size_t i = 0; i < at.page_size / 8; i++) {
        words[i] = value + i;
    }
}

static bool is_stamped(const void *place, uint64_t value)
{
    const uint64_t *words = place;
    for (size_t i = 0; i < at.page_size / 8; i++) {
        if (words[i] != value + i) {
            return false;
        }
    }
    return true;
}

static void check_page(bufpool_pool *pool, uint64_t page, uint64_t value)
{
    bufpool_state state;
    CHECK_OK(bufpool_page_state(pool, page, &state));
    CHECK_IS(state, ==, BUFPOOL_STATE_ALLOCATED);
    bool closed = at.pins != NULL && strcmp(at.pins, "all") == 0;
    char byte;
    if (closed) { /* as every page that nobody has pinned */
        CHECK_IS(bufpool_guarded_copy(&byte, bufpool_address(pool, page), 1, NULL), ==, BUFPOOL_ESTRAY);
    }
    if (at.pins != NULL && strcmp(at.pins, "count") != 0) {
        CHECK_IS(bufpool_guarded_copy(bufpool_address(pool, page), "x", 1, NULL), ==, BUFPOOL_ESTRAY);
    }
    CHECK_OK(bufpool_pin(pool, page, false));
    CHECK(is_stamped(bufpool_address(pool, page), value));
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_OK(bufpool_pin(pool, page, true));
    write_byte(bufpool_address(pool, page), read_byte(bufpool_address(pool, page)));
    CHECK_OK(bufpool_unpin(pool, page));
}

static void check_gone(bufpool_pool *pool, uint64_t page)
{
    bufpool_state state;
    CHECK_OK(bufpool_page_state(pool, page, &state));
    CHECK_IS(state, ==, BUFPOOL_STATE_EVICTED);
    for (uint64_t offset = 0; strcmp(at.trap, "none") != 0 && offset < at.page_size; offset += at.page_size / 2 - 1) {
        char byte = 1;
        char *touched = (char *)bufpool_address(pool, page) + offset;
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(bufpool_guarded_copy(&byte, touched, 1, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_EVICTED);
        CHECK_IS(bufpool_guarded_copy(touched, &byte, 1, NULL), ==, BUFPOOL_ESTRAY);
    }
}

static bufpool_statistics publishing_stats(bufpool_pool *pool)
{
    bufpool_statistics s = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(bufpool_stats(pool, &s));
    return s;
}

/* What is wrong is refused whole, with the value in the sentence. */
MAYBE_UNUSED static void check_refused(bufpool_pool *pool)
{
    void *frames[3];
    uint64_t pages[3] = {0, 1, 2};
    char text[32];
    CHECK_OK(bufpool_stage(pool, 2, frames));
    stamp(frames[0], 1);
    bufpool_statistics before = publishing_stats(pool);
    void *wrong[][2] = {{frames[0], (char *)frames[1] + 8},
                        {frames[0], &before},
                        {frames[0], NULL},
                        {frames[0], bufpool_address(pool, 0)},
                        {frames[0], frames[0]}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_IS(bufpool_publish(pool, 2, wrong[i], pages), ==, BUFPOOL_EARGUMENT);
        snprintf(text, sizeof text, "%#llx", (unsigned long long)(uintptr_t)wrong[i][1]);
        CHECK_HAS(last_error(), text);
        CHECK_HAS(last_error(), i == 4 ? "twice" : "no staged frame");
        CHECK_IS(bufpool_unstage(pool, 2, wrong[i]), ==, BUFPOOL_EARGUMENT);
    }
    uint64_t beyond[] = {0, at.pages};
    uint64_t twice[] = {0, 0};
    CHECK_IS(bufpool_publish(pool, 2, frames, beyond), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_publish(pool, 2, frames, twice), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_withdraw(pool, 1, pages, frames + 2), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_replace(pool, 0, 1), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_publish(pool, 1, NULL, pages), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_publish(pool, 1, frames, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_withdraw(pool, 1, pages, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_withdraw(pool, 1, NULL, frames), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_stage(pool, 1, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_unstage(pool, 1, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_OK(bufpool_stage(pool, 0, NULL));
    CHECK_OK(bufpool_publish(pool, 0, NULL, NULL));
    CHECK_OK(bufpool_withdraw(pool, 0, NULL, NULL));
    CHECK_OK(bufpool_unstage(pool, 0, NULL));
    bufpool_statistics after = publishing_stats(pool);
    CHECK_IS(after.allocated, ==, before.allocated);
    CHECK_IS(after.staged, ==, before.staged);
    CHECK(is_stamped(frames[0], 1));

    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(bufpool_publish(pool, 1, frames, &page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot publish page");
    CHECK_IS(bufpool_replace(pool, page, page), ==, BUFPOOL_ESTATE);
    uint64_t both[] = {page, page};
    CHECK_IS(bufpool_withdraw(pool, 2, both, frames + 1), ==, BUFPOOL_ESTATE);
    if (at.pins != NULL) {
        CHECK_OK(bufpool_pin(pool, page, false));
        CHECK_IS(bufpool_withdraw(pool, 1, &page, frames + 2), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), "pinned");
        CHECK_IS(bufpool_replace(pool, page, page + 1), ==, BUFPOOL_ESTATE);
        CHECK_OK(bufpool_unpin(pool, page));
    }
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(bufpool_unstage(pool, 2, frames));
    CHECK_IS(bufpool_unstage(pool, 1, frames), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(publishing_stats(pool).staged, ==, 0);
}

/* A batch there and back: neighbours and scattered pages, free and evicted ones, in one call. */
MAYBE_UNUSED static void check_round(bufpool_pool *pool)
{
    uint64_t pages[FRAMES] = {2, 3, 4, at.pages - 1, 7, 6};
    void *frames[FRAMES];
    bufpool_statistics before = publishing_stats(pool);
    CHECK_OK(bufpool_allocate_at(pool, 7, NULL, 0));
    CHECK_OK(bufpool_evict(pool, 7));
    CHECK_OK(bufpool_stage(pool, FRAMES, frames));
    for (uint64_t i = 0; i < FRAMES; i++) {
        CHECK_IS((uintptr_t)frames[i] % publishing_stats(pool).granule, ==, 0);
        stamp(frames[i], pages[i] << 32);
    }
    CHECK_IS(publishing_stats(pool).staged, ==, FRAMES);
    CHECK_OK(bufpool_publish(pool, FRAMES, frames, pages));
    for (int i = 0; i < FRAMES; i++) {
        check_page(pool, pages[i], pages[i] << 32);
    }
    CHECK_IS(bufpool_unstage(pool, 1, frames), ==, BUFPOOL_EARGUMENT);
    bufpool_statistics s = publishing_stats(pool);
    CHECK_IS(s.staged, ==, 0);
    CHECK_IS(s.allocated, ==, FRAMES);
    CHECK_IS(s.evicted, ==, 0);
    CHECK_IS(s.populates, ==, before.populates + 1);
    CHECK_IS(s.allocations, ==, before.allocations + FRAMES);
    CHECK_IS(s.frames_moved + s.frames_copied, ==, before.frames_moved + before.frames_copied + FRAMES);
    CHECK_IS(s.ways[BUFPOOL_WAY_FRAME_MOVE], ==, s.frames_moved * (at.page_size / s.granule));
    CHECK_IS(s.ways[BUFPOOL_WAY_FRAME_COPY], ==, s.frames_copied * (at.page_size / s.granule));

    CHECK_OK(bufpool_withdraw(pool, FRAMES, pages, frames));
    for (int i = 0; i < FRAMES; i++) {
        check_gone(pool, pages[i]);
        CHECK(is_stamped(frames[i], pages[i] << 32));
    }
    s = publishing_stats(pool);
    CHECK_IS(s.staged, ==, FRAMES);
    CHECK_IS(s.evicted, ==, FRAMES);
    CHECK_IS(s.evictions, ==, before.evictions + FRAMES + 1);

    /* They go to other pages: what was withdrawn is not there any more. */
    uint64_t others[FRAMES] = {5, 4, 3, 2, 1, 0};
    stamp(frames[2], 77);
    CHECK_OK(bufpool_publish(pool, FRAMES, frames, others));
    for (int i = 0; i < FRAMES; i++) {
        check_page(pool, others[i], i == 2 ? 77 : pages[i] << 32);
    }
    check_gone(pool, 7);

    /* A page by another, evicted or free. */
    CHECK_OK(bufpool_replace(pool, 3, 7));
    check_gone(pool, 3);
    check_page(pool, 7, 77);
    CHECK_OK(bufpool_replace(pool, 7, 8));
    check_gone(pool, 7);
    check_page(pool, 8, 77);
    CHECK_OK(bufpool_populate(pool, 3, NULL, 0));
    CHECK_OK(bufpool_pin(pool, 3, false));
    CHECK_IS(*(const uint64_t *)bufpool_address(pool, 3), ==, 0);
    CHECK_OK(bufpool_unpin(pool, 3));
    for (uint64_t page = 0; page < at.pages; page++) {
        bufpool_state state;
        CHECK_OK(bufpool_page_state(pool, page, &state));
        if (state == BUFPOOL_STATE_ALLOCATED || state == BUFPOOL_STATE_EVICTED) {
            CHECK_OK(bufpool_free(pool, page));
        }
    }
    s = publishing_stats(pool);
    CHECK_IS(s.allocated, ==, 0);
    CHECK_IS(s.evicted, ==, 0);
    CHECK_IS(s.staged, ==, 0);
}

/* ---- A fork between stage and publish ---- */

struct publishing_family {
    bufpool_pool *pool;
    void *frames[4];
    uint64_t pages[4];
};

/* In the child: the frames are the parent's; its own come and go, if it has the pool. */
static void publish_in_child(void *argument)
{
    struct publishing_family *family = argument;
    uint64_t free_pages[] = {5, 6, 8};
    void *own[4];
    void *one;
    int code = bufpool_stage(family->pool, 1, &one);
    if (code == BUFPOOL_EUNSUPPORTED) { /* not inherited */
        CHECK_IS(bufpool_publish(family->pool, 3, family->frames, free_pages), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_IS(bufpool_withdraw(family->pool, 1, family->pages, own), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_IS(bufpool_unstage(family->pool, 3, family->frames), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_IS(bufpool_replace(family->pool, 1, 5), ==, BUFPOOL_EUNSUPPORTED);
        return;
    }
    CHECK_OK(code);
    CHECK_IS(bufpool_publish(family->pool, 3, family->frames, free_pages), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "a forked child has not got its parent's");
    CHECK_IS(bufpool_unstage(family->pool, 3, family->frames), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(publishing_stats(family->pool).staged, ==, 1);
    CHECK_OK(bufpool_withdraw(family->pool, 4, family->pages, own));
    for (int i = 0; i < 4; i++) {
        check_gone(family->pool, family->pages[i]);
        CHECK(is_stamped(own[i], family->pages[i] << 32));
    }
    CHECK_OK(bufpool_publish(family->pool, 4, own, family->pages)); /* where the parent has them, too */
    stamp(one, 5);
    CHECK_OK(bufpool_publish(family->pool, 1, &one, free_pages));
    CHECK_OK(bufpool_replace(family->pool, 5, 6));
    check_page(family->pool, 6, 5);
    check_gone(family->pool, 5);
    CHECK_OK(bufpool_free(family->pool, 5));
    CHECK_OK(bufpool_free(family->pool, 6));
    CHECK_OK(bufpool_stage(family->pool, 2, own));
    CHECK_OK(bufpool_close(family->pool));
    CHECK_IS(bufpool_publish(family->pool, 2, own, free_pages), ==, BUFPOOL_ECLOSED);
}

static pid_t publish_fork(void)
{
    return fork();
}

/* make: a fork, or one past the handlers. */
MAYBE_UNUSED static void check_forked(bufpool_pool *pool, pid_t (*make)(void))
{
    struct publishing_family family = {pool, {NULL}, {1, 2, 3, 9}};
    CHECK_OK(bufpool_stage(pool, 4, family.frames));
    for (int i = 0; i < 4; i++) {
        stamp(family.frames[i], family.pages[i] << 32);
    }
    CHECK_OK(bufpool_publish(pool, 4, family.frames, family.pages));
    CHECK_OK(bufpool_stage(pool, 3, family.frames));
    for (uint64_t i = 0; i < 3; i++) {
        stamp(family.frames[i], i << 40);
    }
    struct child child = run_child_of(make == NULL ? publish_fork : make, publish_in_child, &family);
    CHECK_PASSED(child);
    for (int i = 0; i < 4; i++) {
        check_page(pool, family.pages[i], family.pages[i] << 32);
    }
    uint64_t others[] = {5, 6, 10};
    CHECK_IS(publishing_stats(pool).staged, ==, 3);
    CHECK_OK(bufpool_publish(pool, 3, family.frames, others));
    for (uint64_t i = 0; i < 3; i++) {
        check_page(pool, others[i], i << 40);
    }
    CHECK_OK(bufpool_replace(pool, 9, 8));
    check_page(pool, 8, (uint64_t)9 << 32);
    CHECK_OK(bufpool_replace(pool, 8, 9));
    CHECK_OK(bufpool_free(pool, 8));
    CHECK_OK(bufpool_withdraw(pool, 4, family.pages, family.frames));
    for (int i = 0; i < 4; i++) {
        check_gone(pool, family.pages[i]);
        CHECK(is_stamped(family.frames[i], family.pages[i] << 32));
    }
    CHECK_OK(bufpool_unstage(pool, 4, family.frames));
    CHECK_OK(bufpool_free_many(pool, 4, family.pages));
    CHECK_OK(bufpool_free_many(pool, 3, others));
    CHECK_IS(publishing_stats(pool).staged, ==, 0);
}

/* Of what `at` says. */
MAYBE_UNUSED static void publish_life(void)
{
    bufpool_pool *pool = open_publishing();
    check_refused(pool);
    for (int round = 0; round < 3; round++) {
        check_round(pool);
    }
    if (at.forks) {
        check_forked(pool, NULL);
        check_forked(pool, bare_fork);
        check_round(pool);
    }
    void *left;
    CHECK_OK(bufpool_stage(pool, 1, &left));
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_unstage(pool, 1, &left), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_stage(pool, 1, &left), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_replace(pool, 0, 1), ==, BUFPOOL_ECLOSED);
}

MAYBE_UNUSED static void publish_in(const char *memory, const char *trap, const char *pins, uint64_t page_size,
                                    uint32_t flags)
{
    bool forks = at.forks;
    at = (struct publishing){.memory = memory,
                             .trap = trap,
                             .pins = pins,
                             .flags = flags,
                             .pages = 12,
                             .page_size = page_size,
                             .forks = forks};
    publish_life();
}

/* With all kinds of pins that the cell has. */
MAYBE_UNUSED static void publish_with_pins(const char *memory, const char *trap, uint64_t page_size)
{
    static const char *const pins[] = {NULL, "count", "write", "all"};
    for (int i = 0; i < 4; i++) {
        bufpool_config config = BUFPOOL_CONFIG_INIT;
        config.memory = memory;
        config.trap = trap;
        config.pins = pins[i];
        config.page_size = page_size;
        config.capacity = page_size;
        bufpool_pool *pool;
        int code = bufpool_open(&config, &pool);
        if (code == BUFPOOL_EUNSUPPORTED || code == BUFPOOL_EARGUMENT) {
            printf("without pins %s: %s\n", pins[i], last_error());
            continue;
        }
        CHECK_OK(code);
        CHECK_OK(bufpool_close(pool));
        publish_in(memory, trap, pins[i], page_size, 0);
    }
}

#endif
