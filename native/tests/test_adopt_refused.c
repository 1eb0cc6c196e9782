/* test_adopt_refused.c: what cannot be adopted is refused with the reason, and stays as it was. */
#include "adopt.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

static void *map_pages(int protection, int flags, int fd)
{
    void *place = mmap(NULL, PAGES * GRANULE, protection, flags, fd, 0);
    CHECK(place != MAP_FAILED);
    return place;
}

static void *map_private(void)
{
    return map_pages(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void check_refused_with(void *base, uint64_t length, int fd, const bufpool_config *config, int code,
                               const char *reason)
{
    bufpool_pool *pool = NULL;
    CHECK_IS(bufpool_adopt(base, length, fd, config, &pool), ==, code);
    CHECK(pool == NULL);
    CHECK_HAS(last_error(), reason);
}

static void check_refused(void *base, uint64_t length, int fd, int code, const char *reason)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    check_refused_with(base, length, fd, &config, code, reason);
}

static void check_arguments(void)
{
    char *base = map_private();
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    CHECK_IS(bufpool_adopt(base, GRANULE, -1, &config, NULL), ==, BUFPOOL_EARGUMENT);
    check_refused_with(base, GRANULE, -1, NULL, BUFPOOL_EARGUMENT, "config is NULL");
    check_refused(NULL, GRANULE, -1, BUFPOOL_EARGUMENT, "base is");
    check_refused(base + 8, GRANULE, -1, BUFPOOL_EARGUMENT, "a multiple of 4096");
    check_refused(base, 0, -1, BUFPOOL_EARGUMENT, "length is 0 bytes");
    check_refused(base, GRANULE + 1, -1, BUFPOOL_EARGUMENT, "whole pages");
    check_refused(base, UINT64_MAX - GRANULE + 1, -1, BUFPOOL_EARGUMENT, "whole pages");
    config.page_size = 3 * GRANULE;
    check_refused_with(base, PAGES * GRANULE, -1, &config, BUFPOOL_EARGUMENT, "a whole number of pages of 12288");
    config.page_size = 0;
    config.trap = "guard";
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EARGUMENT, "\"uffd\" or \"mprotect\"");
    config.trap = "none";
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EARGUMENT, "\"uffd\" or \"mprotect\"");
    config.trap = "auto";
    config.flags = BUFPOOL_RED_ZONES;
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EARGUMENT, "flags is 0x200");
    config.flags = BUFPOOL_PIN_KEYS;
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EARGUMENT, "PIN_KEYS do not go");
    config.flags = 0;
    config.numa = "local";
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EARGUMENT, "numa is \"local\"");
    config.numa = NULL;
    config.sample = 10;
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EUNSUPPORTED, "sample is 10");
    config.sample = 0;
    config.audit = "checksum";
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EUNSUPPORTED, "audit is \"checksum\"");
    config.audit = NULL;
    config.pins = "some";
    check_refused_with(base, GRANULE, -1, &config, BUFPOOL_EARGUMENT, "unknown pins");
    base[0] = 1;
    CHECK_OK(munmap(base, PAGES * GRANULE));
}

static void check_ranges(void)
{
    char *base = map_private();
    char *other =
        mmap(base + 4 * GRANULE, GRANULE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(other == base + 4 * GRANULE);
    check_refused(base, PAGES * GRANULE, -1, BUFPOOL_EARGUMENT, "memory of another kind");
    CHECK_OK(munmap(other, GRANULE));
    check_refused(base, PAGES * GRANULE, -1, BUFPOOL_EARGUMENT, "nothing is mapped at");
    CHECK_OK(mprotect(base, GRANULE, PROT_READ));
    check_refused(base, 4 * GRANULE, -1, BUFPOOL_EARGUMENT, "readable and writable");
    CHECK_OK(mprotect(base, GRANULE, PROT_READ | PROT_WRITE | PROT_EXEC));
    check_refused(base, 4 * GRANULE, -1, BUFPOOL_EARGUMENT, "not executable");
    CHECK_OK(munmap(base, PAGES * GRANULE));
    check_refused(base, 4 * GRANULE, -1, BUFPOOL_EARGUMENT, "nothing is mapped at");
    uintptr_t stack = (uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)(GRANULE - 1);
    check_refused((void *)stack, GRANULE, -1, BUFPOOL_EUNSUPPORTED, "a stack");
}

static void check_files(void)
{
    char name[] = "adopt-refused-XXXXXX";
    char elsewhere[] = "/tmp/adopt-refused-XXXXXX";
    int fd = mkstemp(name);
    const char *path = name;
    if (fd < 0) {
        fd = mkstemp(elsewhere);
        path = elsewhere;
    }
    CHECK(fd >= 0);
    CHECK_OK(unlink(path));
    CHECK_OK(ftruncate(fd, PAGES * GRANULE));
    char *private = map_pages(PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    check_refused(private, PAGES * GRANULE, -1, BUFPOOL_EUNSUPPORTED, "a private mapping of a file");
    CHECK_OK(munmap(private, PAGES * GRANULE));
    char *shared = map_pages(PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    int code = bufpool_adopt(shared, PAGES * GRANULE, fd, &config, &pool);
    if (code == 0) { /* where these tests run on a tmpfs */
        CHECK_STRING(stats_of(pool).backing, "file on tmpfs");
        CHECK_OK(bufpool_close(pool));
    } else {
        CHECK_IS(code, ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "it is of a file on");
    }
    CHECK_OK(munmap(shared, PAGES * GRANULE));
    /* The wrong descriptor. */
    int memfd = memfd_create("buffers", MFD_CLOEXEC);
    CHECK(memfd >= 0);
    CHECK_OK(ftruncate(memfd, PAGES * GRANULE));
    shared = map_pages(PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
    check_refused(shared, PAGES * GRANULE, fd, BUFPOOL_EARGUMENT, "of another file");
    close(fd);
    check_refused(shared, PAGES * GRANULE, 1000000, -EBADF, "descriptor 1000000");
    private = map_private();
    check_refused(private, PAGES * GRANULE, memfd, BUFPOOL_EARGUMENT, "private anonymous: pass -1");
    /* A file that is too short for its mapping. */
    CHECK_OK(ftruncate(memfd, 4 * GRANULE));
    check_refused(shared, PAGES * GRANULE, memfd, BUFPOOL_EEXHAUSTED, "shorter");
    shared[0] = 1;
    close(memfd);
    CHECK_OK(munmap(private, PAGES * GRANULE));
    CHECK_OK(munmap(shared, PAGES * GRANULE));
}

static void check_locked(void)
{
    char *base = map_private();
    if (syscall(SYS_mlock, base, GRANULE) == 0) { /* a sanitizer's mlock() locks nothing */
        check_refused(base, PAGES * GRANULE, -1, BUFPOOL_EUNSUPPORTED, "locked in memory");
    }
    CHECK_OK(munmap(base, PAGES * GRANULE));
}

static void check_mergeable(void)
{
    char *base = map_private();
    if (madvise(base, GRANULE, MADV_MERGEABLE) == 0) { /* the kernel has it */
        check_refused(base, PAGES * GRANULE, -1, BUFPOOL_EUNSUPPORTED, "MADV_UNMERGEABLE");
        CHECK_OK(madvise(base, GRANULE, MADV_UNMERGEABLE));
    }
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    CHECK_OK(bufpool_adopt(base, PAGES * GRANULE, -1, &config, &pool));
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(munmap(base, PAGES * GRANULE));
}

static void check_taken(void)
{
    struct mapping mapping = map_memory(GRANULE, MAP_PRIVATE | MAP_ANONYMOUS, -1, "adopted anon", "private anonymous");
    bufpool_pool *pool = adopt(&mapping, "auto", "all");
    check_refused(mapping.base + GRANULE, GRANULE, -1, BUFPOOL_EARGUMENT, "is, at least in part, that of pool");
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    CHECK_IS(bufpool_share(pool, &handle), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "adopt it");
    CHECK_OK(bufpool_close(pool));
    bufpool_location location = BUFPOOL_LOCATION_INIT;
    CHECK_IS(bufpool_locate(mapping.base, &location), ==, BUFPOOL_EARGUMENT);
    pool = adopt(&mapping, "auto", "off"); /* once it has been given back */
    CHECK_OK(bufpool_close(pool));
    bufpool_config config = adopt_config(&mapping, "auto", "off");
    CHECK_OK(bufpool_adopt(mapping.base + 3 * GRANULE, 2 * GRANULE, -1, &config, &pool));
    CHECK_OK(bufpool_close(pool));
    pool = adopt(&mapping, "auto", "off"); /* with that in the midst */
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(munmap(mapping.base, PAGES * GRANULE));
    pool = open_pool("anon", "auto", "abort", MIB, GRANULE);
    char *base = bufpool_address(pool, 0);
    check_refused(base, MIB, -1, BUFPOOL_EARGUMENT, "that of pool");
    CHECK_OK(bufpool_close(pool));
    check_refused(base, MIB, -1, BUFPOOL_EARGUMENT, "which is closed");
}

static void check_registered(void)
{
    char *base = map_private();
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1); /* UFFD_USER_MODE_ONLY */
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)base, PAGES * GRANULE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0 && ioctl(uffd, UFFDIO_REGISTER, &range) == 0) {
        check_refused(base, PAGES * GRANULE, -1, BUFPOOL_EARGUMENT, "a userfaultfd of somebody else");
    }
    if (uffd >= 0) {
        close(uffd);
    }
    CHECK_OK(munmap(base, PAGES * GRANULE));
}

int main(void)
{
    harness_begin();
    check_arguments();
    check_ranges();
    check_files();
    check_locked();
    check_mergeable();
    check_taken();
    check_registered();
    return 0;
}
