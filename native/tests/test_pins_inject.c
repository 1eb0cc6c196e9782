/*
 * test_pins_inject.c: the kernel refuses to open or to close a page: each request of pins fails at its n-th time, for
 * every n. The error is the kernel's, with a sentence; the page has the pins, the rights and the data that it had before;
 * and the call, made again, succeeds.
 *
 * Linked with --wrap, as test_inject.c.
 */
#include "kernel.h"
#include "pins.h"

/* ---- The requests, and which of them fails ---- */

enum request { MPROTECT, MADVISE, DISCARD, CONTINUE, PROTECT, MOVE, REQUESTS };

static enum request failing = REQUESTS;
static int countdown; /* the request fails when this has come down to 0 */
static int failure;   /* with this -errno */

static bool fails(enum request request)
{
    if (request != failing || countdown <= 0) {
        return false;
    }
    return --countdown == 0;
}

#define WRAP(request, name, parameters, arguments) \
    int __real_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters \
    { \
        return fails(request) ? failure : __real_bp_kernel_##name arguments; \
    }

WRAP(MPROTECT, mprotect, (void *address, size_t length, int protection), (address, length, protection))
WRAP(MADVISE, madvise, (void *address, size_t length, int advice), (address, length, advice))
WRAP(DISCARD, discard, (void *address, size_t length), (address, length))
WRAP(PROTECT, uffd_protect, (int uffd, uintptr_t address, size_t length, int on), (uffd, address, length, on))

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    *done = 0;
    return fails(MOVE) ? failure : __real_bp_kernel_uffd_move(uffd, to, from, length, done);
}

/* This one fails midway, as the kernel's does: half of it is done. */
int __real_bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect);
int __wrap_bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect);
int __wrap_bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect)
{
    if (!fails(CONTINUE)) {
        return __real_bp_kernel_uffd_continue(uffd, address, length, protect);
    }
    if (length > GRANULE) {
        __real_bp_kernel_uffd_continue(uffd, address, length / 2 / GRANULE * GRANULE, protect);
    }
    return failure;
}

/* ---- The life of pages, with one refusal somewhere ---- */

#define PAGES 3 /* the one in the middle is pinned, so that it is a mapping of its own where that is how it is done */
#define GRANULES 3

struct cell {
    const char *memory;
    const char *trap;
    const char *pins;
    uint32_t sample;
};

struct life {
    bufpool_pool *pool;
    const struct cell *cell;
    unsigned reads;
    unsigned writes;
    uint64_t operations; /* that were done */
    int refusals;
};

static bool is_full(const struct life *life)
{
    return life->cell->sample == 0;
}

/* Every granule of every page is as open as the pins say; a sampled page, where it was let go, more. */
static void check_rights(struct life *life)
{
    enum request keep = failing;
    failing = REQUESTS;
    bool all = strcmp(life->cell->pins, "all") == 0;
    for (uint64_t page = 0; page < PAGES && is_full(life); page++) {
        bool mine = page == 1;
        for (int granule = 0; granule < GRANULES; granule++) {
            char *at = (char *)bufpool_address(life->pool, page) + (uint64_t)granule * granule_of(life->cell->memory);
            bool reads = !all || (mine && life->reads + life->writes > 0);
            CHECK_IS(reads_at(at + 5, NULL), ==, reads);
            CHECK_IS(writes_at(at + 6, 1, NULL), ==, mine && life->writes > 0);
            CHECK(!reads || read_byte(at) == (char)('a' + page));
        }
    }
    if (life->writes > 0) { /* what was legal before is legal still */
        write_byte((char *)bufpool_address(life->pool, 1) + 6, 2);
    }
    if (life->reads + life->writes > 0) {
        CHECK_IS(read_byte(bufpool_address(life->pool, 1)), ==, 'b');
    }
    bufpool_statistics statistics = stats_of(life->pool);
    CHECK(!is_full(life) || statistics.pins == life->reads + life->writes);
    CHECK(!is_full(life) || statistics.pin_operations == life->operations);
    failing = keep;
}

static bool is_refused(struct life *life, int code)
{
    if (code == 0) {
        return false;
    }
    CHECK_IS(code, ==, failure);
    CHECK_HAS(last_error(), "page 1 of pool \"refused\"");
    CHECK_HAS(last_error(), strerror(-failure));
    life->refusals++;
    return true;
}

/* A pin for writing that was refused has left nothing behind by which one for reading lets writes through. */
static void check_reading(struct life *life)
{
    enum request keep = failing;
    failing = REQUESTS;
    CHECK_OK(bufpool_pin(life->pool, 1, false));
    life->reads++;
    life->operations++;
    check_rights(life);
    CHECK_OK(bufpool_unpin_for(life->pool, 1, false));
    life->reads--;
    life->operations++;
    check_rights(life);
    failing = keep;
}

static void step(struct life *life, bool pin, bool write)
{
    for (int tries = 0; tries < 2; tries++) {
        int code = pin ? bufpool_pin(life->pool, 1, write) : bufpool_unpin_for(life->pool, 1, write);
        if (!is_refused(life, code)) {
            *(write ? &life->writes : &life->reads) += pin ? 1u : -1u;
            life->operations++;
            break;
        }
        CHECK_IS(tries, ==, 0);
        check_rights(life);
        if (pin && write && life->reads == 0) {
            check_reading(life);
        }
    }
    check_rights(life);
}

static int live(const struct cell *cell)
{
    enum request keep = failing;
    failing = REQUESTS;
    bufpool_config config = pins_config(cell->memory, cell->trap, cell->pins);
    config.page_size *= GRANULES;
    config.capacity = 4 * config.page_size;
    config.sample = cell->sample;
    config.name = "refused";
    struct life life = {.pool = open_config(&config), .cell = cell};
    char *data = malloc(config.page_size);
    CHECK(data != NULL);
    for (uint64_t page = 0; page < PAGES; page++) {
        memset(data, (int)('a' + page), config.page_size);
        CHECK_OK(bufpool_allocate_at(life.pool, page, data, config.page_size));
    }
    free(data);
    failing = keep;
    static const struct {
        bool pin;
        bool write;
    } steps[] = {{true, false}, {true, true},  {false, true}, {true, true}, {false, false}, {false, true},
                 {true, true},  {false, true}, {true, false}, {true, true}, {false, true},  {false, false}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        step(&life, steps[i].pin, steps[i].write);
    }
    failing = REQUESTS;
    CHECK_IS(stats_of(life.pool).pins, ==, 0);
    CHECK_OK(bufpool_free(life.pool, 1));
    CHECK(!reads_at(bufpool_address(life.pool, 1), NULL));
    CHECK_OK(bufpool_allocate_at(life.pool, 1, "b", 1));
    CHECK_OK(bufpool_close(life.pool));
    failing = keep;
    return life.refusals;
}

static void refuse_each(const struct cell *cell)
{
    static const int codes[REQUESTS][2] = {[MPROTECT] = {-ENOMEM},         [MADVISE] = {-ENOMEM, -EINVAL},
                                           [DISCARD] = {-ENOMEM, -EINVAL}, [CONTINUE] = {-ENOMEM, -EAGAIN},
                                           [PROTECT] = {-ENOMEM, -EAGAIN}, [MOVE] = {-ENOMEM, -ENOENT}};
    int refusals = 0;
    for (int request = 0; request < REQUESTS; request++) {
        for (int c = 0; c < 2 && codes[request][c] != 0; c++) {
            failure = codes[request][c];
            int n = 0;
            do { /* until a life makes fewer than n such requests */
                failing = (enum request)request;
                countdown = ++n;
                refusals += live(cell);
                CHECK_IS(n, <, 100); /* it ends */
            } while (countdown == 0);
            failing = REQUESTS;
        }
    }
    printf("%s/%s, pins %s, sample %u: %d refusals\n", cell->memory, cell->trap, cell->pins, cell->sample, refusals);
    CHECK_IS(refusals, >, 0);
}

static void test_cell(const char *memory, const char *trap)
{
    if (can_close(memory, trap)) {
        refuse_each(&(struct cell){memory, trap, "write", 0});
        refuse_each(&(struct cell){memory, trap, "all", 0});
    }
    refuse_each(&(struct cell){memory, trap, "off", 1});
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(test_cell, false);
    for_each_trap("thp", test_cell, false);
    return code;
}
