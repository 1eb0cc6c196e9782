/*
 * Frames on memory of the program's own that was adopted: they come and go by copying. Where the program has locked a part of
 * it, the kernel takes some of the frames and refuses the others: nothing is lost then.
 */
#include "publish.h"

#include <sys/mman.h>

#define PAGES 12
#define LOCKED 3 /* granules of the middle */

static void *base;
static int kind;
static const char *const kinds[] = {"private anonymous", "shared anonymous", "memfd"};

/* NULL: this machine has no such cell. */
static bufpool_pool *adopt_all(uint64_t granules, const char *trap, const char *pins)
{
    at = (struct publishing){
        .memory = "adopted", .trap = trap, .pins = pins, .pages = PAGES, .page_size = granules * GRANULE};
    size_t size = at.pages * at.page_size;
    int fd = kind == 2 ? memfd_create("buffers", MFD_CLOEXEC) : -1;
    CHECK(kind != 2 || (fd >= 0 && ftruncate(fd, (off_t)size) == 0));
    int flags = kind == 2 ? MAP_SHARED : MAP_ANONYMOUS | (kind == 1 ? MAP_SHARED : MAP_PRIVATE);
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(base != MAP_FAILED);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.page_size = at.page_size;
    config.trap = trap;
    config.pins = pins;
    bufpool_pool *pool = NULL;
    int code = bufpool_adopt(base, size, fd, &config, &pool);
    if (fd >= 0) {
        close(fd);
    }
    if (code == BUFPOOL_EUNSUPPORTED || code == BUFPOOL_EARGUMENT) {
        printf("skipped %s/%s, pins %s: %s\n", kinds[kind], trap, pins == NULL ? "off" : pins, last_error());
        CHECK_OK(munmap(base, size));
        return NULL;
    }
    CHECK_OK(code);
    printf("%s/%s, pins %s, %d granules a page\n", kinds[kind], trap, pins == NULL ? "off" : pins, (int)granules);
    return pool;
}

static void give_back(bufpool_pool *pool)
{
    CHECK_OK(bufpool_close(pool));
    memset(base, 1, at.pages * at.page_size);
    CHECK_OK(munmap(base, at.pages * at.page_size));
}

static void free_all(bufpool_pool *pool)
{
    for (uint64_t page = 0; page < at.pages; page++) {
        CHECK_OK(bufpool_free(pool, page));
    }
}

static void fill_all(bufpool_pool *pool)
{
    for (uint64_t page = 0; page < at.pages; page++) {
        CHECK_OK(bufpool_pin(pool, page, true));
        stamp(bufpool_address(pool, page), page << 20);
        CHECK_OK(bufpool_unpin(pool, page));
    }
}

static void check_all(bufpool_pool *pool)
{
    for (uint64_t page = 0; page < at.pages; page++) {
        check_page(pool, page, page << 20);
    }
}

/* The sanitizers make calls of mlock() do nothing. */
static bool lock_middle(bool lock)
{
    void *from = (char *)base + at.pages / 2 * at.page_size - GRANULE;
    size_t length = (size_t)LOCKED * GRANULE;
    long code = lock ? syscall(SYS_mlock2, from, length, MLOCK_ONFAULT) : syscall(SYS_munlock, from, length);
    if (code != 0) {
        printf("nothing can be locked here: %s\n", strerror(errno));
    }
    return code == 0;
}

/* Pages of which a part is locked, or neighbours are, leave together or not at all. */
static void check_locked(bufpool_pool *pool)
{
    uint64_t pages[] = {2, 3, 4, 5, 6, 7, 8, 9};
    void *frames[8];
    fill_all(pool);
    if (!lock_middle(true)) {
        return;
    }
    int code = bufpool_withdraw(pool, 8, pages, frames);
    size_t done = code == 0 ? 8 : bufpool_last_done();
    printf("withdrawn: %d, %d of 8 done\n", code, (int)done);
    CHECK_IS(code, ==, kind == 0 ? 0 : -EINVAL); /* MADV_REMOVE takes nothing that is locked */
    for (size_t i = 0; i < done; i++) {
        CHECK(is_stamped(frames[i], pages[i] << 20));
        check_gone(pool, pages[i]);
    }
    CHECK_OK(bufpool_publish(pool, done, frames, pages));
    check_all(pool);

    CHECK_OK(bufpool_free(pool, 0));
    code = bufpool_replace(pool, 5, 0);
    CHECK_HAS(code < 0 ? last_error() : "both are as they were", "both are as they were");
    check_page(pool, code < 0 ? 5 : 0, (uint64_t)5 << 20);
    if (code < 0) {
        CHECK(traps_at((char *)bufpool_address(pool, 0) + at.page_size - 1, NULL));
    } else {
        check_gone(pool, 5);
    }
    CHECK(lock_middle(false));
    if (code < 0) {
        CHECK_OK(bufpool_replace(pool, 5, 0));
    }
    CHECK_OK(bufpool_replace(pool, 0, 5));
    CHECK_OK(bufpool_withdraw(pool, 8, pages, frames));
    for (int i = 0; i < 8; i++) {
        CHECK(is_stamped(frames[i], pages[i] << 20));
    }
    CHECK_OK(bufpool_publish(pool, 8, frames, pages));
    CHECK_OK(bufpool_populate(pool, 0, NULL, 0));
}

static int lives(uint64_t granules, const char *trap, const char *pins)
{
    bufpool_pool *pool = adopt_all(granules, trap, pins);
    if (pool == NULL) {
        return 0;
    }
    check_locked(pool);
    free_all(pool);
    check_refused(pool);
    for (int round = 0; round < 3; round++) {
        check_round(pool);
    }
    check_forked(pool, NULL);
    check_forked(pool, bare_fork);
    CHECK_IS(publishing_stats(pool).frames_moved, ==, 0);
    void *left;
    CHECK_OK(bufpool_stage(pool, 1, &left));
    give_back(pool);
    return 1;
}

int main(void)
{
    harness_begin();
    static const char *const traps[] = {"uffd", "mprotect"};
    static const char *const pins[] = {NULL, "count", "write", "all"};
    int run = 0;
    for (kind = 0; kind < 3; kind++) {
        for (int trap = 0; trap < 2; trap++) {
            for (int i = 0; i < 4; i++) {
                run += lives(1, traps[trap], pins[i]) + lives(2, traps[trap], pins[i]);
            }
        }
    }
    if (run == 0) {
        printf("no memory can be adopted here (reasons above)\n");
    }
    return run == 0 ? HARNESS_SKIP : 0;
}
