/*
 * memories.c: the measured loops on every memory, with pages of any size; as in loops.c, both sides of a pair touch the
 * same pages in the same order with the same data. The source is `batch` pages of data, used again for each batch.
 */
#include "must.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HUGE ((uint64_t)2 << 20)
#define MFD_HUGE_2M (21u << 26) /* MFD_HUGE_2MB of linux/memfd.h */

/* ---- The pool's side ---- */

/* false: this memory and this trap cannot be had here; error_text() says why. */
bool pool_on(const char *memory, const char *trap, const char *pins, uint64_t pages, uint64_t size, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * size;
    config.page_size = size;
    config.memory = memory;
    config.trap = trap;
    config.pins = pins;
    config.granule = strcmp(memory, "hugetlb") == 0 ? HUGE : 0;
    int code = bufpool_open(&config, pool);
    if (code != BUFPOOL_EUNSUPPORTED) {
        must(code);
    }
    return code == 0;
}

size_t error_text(char *buffer, int size)
{
    return bufpool_last_error(buffer, (size_t)size);
}

static bufpool_statistics statistics(const bufpool_pool *pool)
{
    bufpool_statistics found = BUFPOOL_STATISTICS_INIT;
    must(bufpool_stats(pool, &found));
    return found;
}

uint64_t pool_huge_fills(const bufpool_pool *pool)
{
    return statistics(pool).huge_fills;
}

uint64_t pool_small_fills(const bufpool_pool *pool)
{
    return statistics(pool).small_fills;
}

void pool_copy(bufpool_pool *pool, uint64_t pages, uint64_t size, const void *source, uint64_t batch, uint64_t *numbers)
{
    for (uint64_t i = 0; i < pages; i++) {
        must(bufpool_allocate(pool, (const char *)source + i % batch * size, size, &numbers[i]));
    }
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t copying; /* ns within memcpy, since it was cleared */
static bool timed;

/* Every memcpy of these sources and of the library's comes here (conftest.py links with --wrap). */
void *__real_memcpy(void *to, const void *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size);

void *__wrap_memcpy(void *to, const void *from, size_t size)
{
    if (!timed) {
        return __real_memcpy(to, from, size);
    }
    uint64_t start = clock_ns();
    __real_memcpy(to, from, size);
    copying += clock_ns() - start;
    return to;
}

/* Allocations with data, one by one. times: nanoseconds of each, and of the memcpy within it. */
void publish(bufpool_pool *pool, uint64_t pages, uint64_t size, const void *source, uint64_t *numbers, uint64_t *times)
{
    for (uint64_t i = 0; i < pages; i++) {
        copying = 0;
        timed = true;
        uint64_t start = clock_ns();
        must(bufpool_allocate(pool, (const char *)source + i * size, size, &numbers[i]));
        times[2 * i] = clock_ns() - start;
        timed = false;
        times[2 * i + 1] = copying;
    }
}

/* ---- The plain side: what an engine without bufpool maps ---- */

static int open_file(const char *memory)
{
    if (strcmp(memory, "shared") == 0) {
        return must_call(memfd_create("plain", MFD_CLOEXEC), "memfd_create");
    }
    if (strcmp(memory, "hugetlb") == 0) {
        return must_call(memfd_create("plain", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2M), "memfd_create");
    }
    return must_call(open(memory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), memory);
}

/* memory as the pool's, a path being a directory; "anon" is without huge pages, "thp" asks for them. */
void *plain_on(const char *memory, uint64_t length, int *fd)
{
    bool anonymous = strcmp(memory, "anon") == 0 || strcmp(memory, "thp") == 0;
    *fd = anonymous ? -1 : open_file(memory);
    if (*fd >= 0) {
        must_call(ftruncate(*fd, (off_t)length), "ftruncate");
    }
    int flags = (anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_NORESERVE;
    uint64_t extra = anonymous ? HUGE : 0; /* so that it can begin at a huge page's boundary */
    char *place = mmap(NULL, length + extra, PROT_READ | PROT_WRITE, flags, *fd, 0);
    if (place == MAP_FAILED) {
        must_call(-1, "mmap");
    }
    char *base = anonymous ? (char *)(((uintptr_t)place + HUGE - 1) & ~(uintptr_t)(HUGE - 1)) : place;
    if (base > place) {
        munmap(place, (size_t)(base - place));
    }
    if (base < place + extra) {
        munmap(base + length, (size_t)(place + extra - base));
    }
    if (anonymous) {
        must_call(madvise(base, length, strcmp(memory, "thp") == 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE), "madvise");
    }
    return base;
}

void plain_off(void *base, uint64_t length, int fd)
{
    munmap(base, length);
    if (fd >= 0) {
        close(fd);
    }
}

/* Where there is no frame yet, this is the first touch. */
void plain_copy(void *base, uint64_t pages, uint64_t size, const void *source, uint64_t batch)
{
    for (uint64_t i = 0; i < pages; i++) {
        memcpy((char *)base + i * size, (const char *)source + i % batch * size, size);
    }
}

/* Gives the frames of pages first ... first + pages - 1 back, page by page: of a file by punching holes. */
void plain_release(void *base, int fd, uint64_t first, uint64_t pages, uint64_t size)
{
    for (uint64_t i = first; i < first + pages; i++) {
        if (fd < 0) {
            must_call(madvise((char *)base + i * size, size, MADV_DONTNEED), "madvise");
        } else {
            must_call(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(i * size), (off_t)size),
                      "fallocate");
        }
    }
}

/* ---- Two ways to populate a page of hugetlbfs behind a trap, so that it appears whole ---- */

/* A userfaultfd that can fill the range; -1 if it cannot be had. */
int copier_open(void *base, uint64_t length)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    struct uffdio_register range = {.range = {(uintptr_t)base, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (uffd >= 0 && (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &range) < 0)) {
        close(uffd);
        return -1;
    }
    return uffd;
}

void copier_close(int uffd)
{
    close(uffd);
}

void copier_copy(int uffd, void *base, uint64_t pages, uint64_t size, const void *source, uint64_t batch)
{
    for (uint64_t i = 0; i < pages; i++) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)base + i * size, .src = (uintptr_t)source + i % batch * size, .len = size};
        must_call(ioctl(uffd, UFFDIO_COPY, &copy), "UFFDIO_COPY");
    }
}

/* base: a lasting mapping of the file that nobody else uses, which is the cheapest way to reach a page that is not yet
 * shown. */
void fallocate_copy(void *base, int fd, uint64_t pages, uint64_t size, const void *source, uint64_t batch)
{
    for (uint64_t i = 0; i < pages; i++) {
        must_call(fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)(i * size), (off_t)size), "fallocate");
        memcpy((char *)base + i * size, (const char *)source + i % batch * size, size);
    }
}
