/*
 * test_pins_forgotten.c: the kernel unmaps a page that its pins have open, as it does to reclaim memory, just before the
 * library itself reads or writes there: the page is shown again, and the library goes on.
 *
 * Linked with --wrap: a page is unmapped as soon as it is open, and what is given back is looked at.
 */
#include "kernel.h"
#include "pins.h"

#include <sys/mman.h>

#define GRANULES 3
#define SIZE ((size_t)GRANULES * GRANULE)

static uintptr_t victim; /* a granule that is unmapped when it has been opened, */
static int unmappings;   /* so many times more */
static unsigned char given_back[SIZE];

static int unmap(int code, uintptr_t address, size_t length)
{
    if (code == 0 && unmappings > 0 && address <= victim && victim < address + length) {
        unmappings--;
        CHECK_OK(madvise((void *)victim, GRANULE, MADV_DONTNEED)); /* the file keeps it */
    }
    return code;
}

int __real_bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect);
int __wrap_bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect);
int __wrap_bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect)
{
    return unmap(__real_bp_kernel_uffd_continue(uffd, address, length, protect), address, length);
}

int __real_bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on);
int __wrap_bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on);
int __wrap_bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on)
{
    return unmap(__real_bp_kernel_uffd_protect(uffd, address, length, on), address, length);
}

int __real_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    if (length == SIZE) {
        CHECK_IS(pread(fd, given_back, SIZE, (off_t)offset), ==, SIZE);
    }
    return __real_bp_kernel_punch(fd, offset, length);
}

static bool is_all(const void *data, unsigned char byte)
{
    const unsigned char *at = data;
    return at[0] == byte && memcmp(at, at + 1, SIZE - 1) == 0;
}

static void check_scrubbed(bufpool_pool *pool, uint64_t page, int (*take)(bufpool_pool *, uint64_t))
{
    victim = (uintptr_t)bufpool_address(pool, page) + GRANULE;
    unmappings = 3;
    CHECK_OK(take(pool, page));
    CHECK_IS(unmappings, ==, 0);
    CHECK(is_all(given_back, BUFPOOL_SCRUBBED));
}

static void check_mode(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = pins_config(memory, trap, pins);
    config.page_size = SIZE;
    config.capacity = 4 * SIZE;
    config.flags = BUFPOOL_SCRUB;
    bufpool_pool *pool = open_config(&config);
    unsigned char data[SIZE];
    memset(data, BUFPOOL_FRESH, SIZE);
    for (uint64_t page = 0; page < 4; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, data, SIZE));
    }
    check_scrubbed(pool, 0, bufpool_free);
    check_scrubbed(pool, 1, bufpool_evict);

    /* What its pins allow to be read, the library reads, too: to say what it holds, and to copy from there. */
    char *at = bufpool_address(pool, 2);
    CHECK_OK(bufpool_pin(pool, 2, false));
    CHECK_OK(madvise(at, SIZE, MADV_DONTNEED));
    CHECK_STRING(bufpool_pattern(at, SIZE), "fresh");
    CHECK_OK(madvise(at, SIZE, MADV_DONTNEED));
    CHECK_OK(bufpool_allocate_at(pool, 0, at + 7, 100));
    CHECK_OK(bufpool_pin(pool, 0, false));
    CHECK(memcmp(bufpool_address(pool, 0), data, 100) == 0);
    CHECK_OK(bufpool_unpin(pool, 0));

    /* But what is closed stays so. */
    CHECK_OK(bufpool_unpin(pool, 2));
    if (strcmp(pins, "all") == 0) {
        CHECK_STRING(bufpool_pattern(at, SIZE), "");
    }
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    if (strcmp(trap, "uffd") != 0) { /* no other is told of a page that is unmapped */
        return;
    }
    check_mode(memory, trap, "all");
    if (strcmp(memory, "anon") != 0) { /* which has no file then, and loses what is unmapped */
        check_mode(memory, trap, "write");
    }
}

int main(void)
{
    harness_begin();
    return for_each_cell(test_cell, false);
}
