/*
 * Memory thp when the kernel refuses: moves that fail, or stop midway, at every place; frames that are not huge;
 * mappings that cannot be made anew. The content is right or the call fails, every hole traps, and afterwards all is
 * as ever.
 *
 * Linked with --wrap, so that the library's calls of bp_kernel_NAME arrive at __wrap_bp_kernel_NAME here.
 */
#include "harness.h"
#include "kernel.h"

#define HUGE_PAGE (2 * MIB)
#define PAGES 6
#define STEP (SANITIZED ? 3 : 1) /* which of the places are tried */

enum request { MOVE, HALF_MOVE, IS_HUGE, MAP, REGISTER, PROTECT, COPY, DISCARD, REQUESTS };

static enum request failing = REQUESTS;
static int countdown;                  /* the request fails when this has come down to 0 */
static int failure;                    /* with this -errno */
static enum request absent = REQUESTS; /* this one fails always, as on a kernel that has it not */
static uintptr_t stray;                /* where a frame comes from nowhere before the next copy */
static unsigned char *data;

static bool fails(enum request request)
{
    if (request == absent) {
        return true;
    }
    if (request != failing || countdown < 0) {
        return false;
    }
    countdown -= countdown > 0;
    bool now = countdown == 0;
    countdown = now ? -1 : countdown;
    return now;
}

#define WRAP(request, name, parameters, arguments) \
    int __real_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters \
    { \
        return fails(request) ? failure : __real_bp_kernel_##name arguments; \
    }

WRAP(IS_HUGE, is_huge, (int pagemap, uintptr_t address, size_t length), (pagemap, address, length))
WRAP(REGISTER, uffd_register, (int uffd, uintptr_t address, size_t length), (uffd, address, length))
WRAP(PROTECT, mprotect, (void *address, size_t length, int protection), (address, length, protection))
WRAP(DISCARD, discard, (void *address, size_t length), (address, length))
WRAP(MAP, mmap_file, (void *hint, size_t length, int protection, int flags, int fd, uint64_t offset, void **address),
     (hint, length, protection, flags, fd, offset, address))

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    *done = 0;
    if (fails(HALF_MOVE)) { /* as where something lies in the middle: the huge page is split */
        int code = -EBUSY;  /* while the kernel itself holds the page, as its own daemons do for a moment */
        for (int patience = 0; code == -EBUSY && *done == 0 && patience < 30000; patience++) {
            code = __real_bp_kernel_uffd_move(uffd, to, from, length / 2, done);
            if (code == -EBUSY) {
                sleep_ms(1);
            }
        }
        CHECK_OK(code);
        return -EAGAIN;
    }
    return fails(MOVE) ? failure : __real_bp_kernel_uffd_move(uffd, to, from, length, done);
}

int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    if (stray != 0) { /* somebody's frame, amid what is to be filled */
        size_t there;
        CHECK_OK(__real_bp_kernel_uffd_copy(uffd, stray, data, GRANULE, &there));
        stray = 0;
    }
    if (!fails(COPY)) {
        return __real_bp_kernel_uffd_copy(uffd, to, from, length, done);
    }
    __real_bp_kernel_uffd_copy(uffd, to, from, length / 2, done);
    countdown = 0; /* the remainder, tried again, gives the reason */
    failing = *done > 0 ? COPY : REQUESTS;
    return *done > 0 ? -EAGAIN : failure;
}

/* ---- The life of a pool ---- */

static int refusals;

/* An error has to be that of the refusal, or the library's word for it. */
static bool refused(int code)
{
    if (code == 0) {
        return false;
    }
    CHECK(code == failure || code == BUFPOOL_EUNSUPPORTED || (code == BUFPOOL_EEXHAUSTED && failure == -ENOMEM));
    CHECK(last_error()[0] != 0);
    refusals++;
    return true;
}

static bool is_zero(const unsigned char *at, size_t size)
{
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

static void check_page(const bufpool_pool *pool, uint64_t page, size_t size)
{
    unsigned char *at = bufpool_address(pool, page);
    CHECK(memcmp(at, data, size) == 0);
    CHECK(is_zero(at + size, HUGE_PAGE - size));
    memset(at, 0xEE, HUGE_PAGE); /* whoever gets this frame next must not see it */
}

static void check_holes(bufpool_pool *pool, uint64_t allocated)
{
    enum request keep = failing;
    failing = REQUESTS;
    CHECK_IS(stats_of(pool).allocated, ==, allocated);
    for (uint64_t page = 0; page < PAGES; page++) {
        for (uint64_t offset = page; offset < HUGE_PAGE; offset += HUGE_PAGE / 4) {
            CHECK_IS(traps_at((char *)bufpool_address(pool, page) + offset, NULL), ==,
                     state_of(pool, page) != BUFPOOL_STATE_ALLOCATED);
        }
    }
    failing = keep;
}

/* Fills a page, again if the first time was refused. */
static void fill(bufpool_pool *pool, uint64_t page, size_t size, uint64_t allocated)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        bool evicted = state_of(pool, page) == BUFPOOL_STATE_EVICTED;
        const void *from = size == 0 ? NULL : data;
        int code = evicted ? bufpool_populate(pool, page, from, size) : bufpool_allocate_at(pool, page, from, size);
        if (!refused(code)) {
            check_page(pool, page, size);
            check_holes(pool, allocated + 1);
            return;
        }
        CHECK_IS(attempt, ==, 0);
        check_holes(pool, allocated);
    }
}

static void live(bufpool_pool *pool)
{
    fill(pool, 0, HUGE_PAGE, 0);
    fill(pool, 1, 0, 1);
    if (refused(bufpool_evict(pool, 0))) {
        CHECK_OK(bufpool_evict(pool, 0));
    }
    check_holes(pool, 1);
    fill(pool, 0, HUGE_PAGE, 1); /* by a kept frame */
    if (refused(bufpool_free(pool, 1))) {
        CHECK_OK(bufpool_free(pool, 1));
    }
    check_holes(pool, 1);
    fill(pool, 1, 5000, 1);
    fill(pool, 2, 0, 2);
    enum request keep = failing; /* a diverted granule that cannot be had ends the process: not meant here */
    failing = REQUESTS;
    write_byte(bufpool_address(pool, 3), 1);
    failing = keep;
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    fill(pool, 3, 0, 3); /* armed, then filled */
    uint64_t all[] = {0, 1, 2, 3};
    if (refused(bufpool_free_many(pool, 4, all))) {
        size_t done = bufpool_last_done();
        check_holes(pool, 4 - done);
        CHECK_OK(bufpool_free_many(pool, 4 - done, all + done));
    }
    check_holes(pool, 0);
}

/* What a refusal left behind must not hinder anything later. */
static void live_on(bufpool_pool *pool)
{
    failing = REQUESTS;
    for (uint64_t page = 0; page < PAGES; page++) {
        fill(pool, page, page % 2 ? HUGE_PAGE : 0, page);
    }
    uint64_t huge = stats_of(pool).huge_fills;
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_free(pool, page));
        CHECK_OK(bufpool_allocate_at(pool, page, data, HUGE_PAGE));
    }
    CHECK_IS(stats_of(pool).huge_fills, ==, huge + PAGES); /* huge pages again */
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_free(pool, page));
    }
    check_holes(pool, 0);
}

static void life(void)
{
    bufpool_pool *pool = NULL;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = "thp";
    config.page_size = 0;
    config.capacity = PAGES * HUGE_PAGE;
    config.on_fault = "raise";
    int fds = count_fds();
    refusals = 0;
    config.trap = "uffd";
    if (!refused(bufpool_open(&config, &pool))) {
        live(pool);
        bool huge = stats_of(pool).backing[0] == 't' && stats_of(pool).memory_note[0] == 0;
        enum request keep = failing;
        int left = countdown;
        if (huge) {
            live_on(pool);
        }
        failing = keep;
        countdown = left;
        CHECK_OK(bufpool_close(pool));
    }
    CHECK_IS(count_fds(), ==, fds);
}

static void refuse_each(enum request request, int code)
{
    failure = code;
    int n = 1 - STEP;
    bool more = true;
    while (more) { /* until a life makes fewer than n such requests */
        failing = request;
        countdown = n += STEP;
        life();
        more = countdown <= 0;
        CHECK_IS(n, <, 300); /* it ends */
    }
    CHECK_IS(n, >, 1); /* there was such a request */
    failing = REQUESTS;
    life();
    CHECK_IS(refusals, ==, 0);
}

/* Small pages take the place of huge ones, and filling these fails as well. */
static void refuse_ever(enum request request)
{
    absent = request;
    refuse_each(COPY, -ENOMEM);
    refuse_each(MAP, -ENOMEM);
    refuse_each(REGISTER, -ENOMEM);
    refuse_each(PROTECT, -ENOMEM);
    absent = REQUESTS;
}

/* The huge page is filled anew from its beginning, and its neighbours are not touched. */
static void fill_past(void)
{
    bufpool_pool *pool = open_pool("thp", "uffd", "abort", PAGES * HUGE_PAGE, 0);
    failure = -ENOENT;
    CHECK_OK(bufpool_allocate_at(pool, 1, data, HUGE_PAGE));
    for (uint64_t page = 0; page < 3; page += 2) {
        absent = MOVE;
        stray = (uintptr_t)bufpool_address(pool, page) + 100 * GRANULE;
        CHECK_OK(bufpool_allocate_at(pool, page, data, HUGE_PAGE));
        CHECK_IS(stray, ==, 0);
        absent = REQUESTS;
        check_page(pool, page, HUGE_PAGE);
    }
    check_page(pool, 1, HUGE_PAGE);
    CHECK_OK(bufpool_free_many(pool, 3, (uint64_t[]){0, 1, 2}));
    check_holes(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("thp", "uffd", NULL, 0) != 0) {
        printf("thp/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    bufpool_pool *pool = open_pool("thp", "uffd", "abort", HUGE_PAGE, 0);
    bool huge = stats_of(pool).memory_note[0] == 0;
    if (!huge) {
        printf("huge pages cannot be had here: %s\n", stats_of(pool).memory_note);
        return HARNESS_SKIP;
    }
    CHECK_OK(bufpool_close(pool));
    data = malloc(HUGE_PAGE);
    for (size_t i = 0; i < HUGE_PAGE; i++) {
        data[i] = (unsigned char)(1 + (i * 7 + i / 4096) % 251);
    }
    refuse_each(MOVE, -EBUSY);
    refuse_each(MOVE, -ENOENT);
    refuse_each(HALF_MOVE, -EAGAIN);
    refuse_each(IS_HUGE, 0);
    refuse_each(MAP, -ENOMEM);
    refuse_each(REGISTER, -ENOMEM);
    refuse_each(PROTECT, -ENOMEM);
    refuse_ever(MOVE);
    refuse_ever(IS_HUGE);
    fill_past();
    free(data);
    return 0;
}
