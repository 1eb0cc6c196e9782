/* Trap "auto": the first that works, in order; why those before it do not; and never a pool without a trap. */
#include "cells.h"
#include "refuse.h"

#include <sys/mman.h>

static int try_auto(const char *memory, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = is_huge_memory(memory) ? 2 * HUGE_PAGE : 64 * GRANULE;
    config.page_size = 0;
    config.memory = memory;
    *pool = NULL;
    return bufpool_open(&config, pool);
}

/* Works, by that trap; its note has each of the parts, which are NULL-terminated. */
static void expect(const char *memory, const char *trap, const char *const *parts)
{
    bufpool_pool *pool;
    CHECK_OK(try_auto(memory, &pool));
    bufpool_statistics statistics = stats_of(pool);
    CHECK_STRING(statistics.trap, trap);
    CHECK_IS(parts[0] == NULL, ==, statistics.trap_note[0] == 0);
    for (; *parts != NULL; parts++) {
        CHECK_HAS(statistics.trap_note, *parts);
    }
    uint64_t pages[2];
    CHECK(traps_at(bufpool_address(pool, 1), NULL));
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    CHECK(!traps_at(bufpool_address(pool, pages[1]), NULL));
    CHECK_OK(bufpool_free_many(pool, 2, pages));
    CHECK(traps_at(bufpool_address(pool, pages[0]), NULL));
    CHECK(traps_at(bufpool_address(pool, pages[1]), NULL));
    CHECK_OK(bufpool_close(pool));
    char found[16] = "";
    CHECK_OK(bufpool_probe(memory, "auto", found, sizeof found));
    CHECK_STRING(found, trap);
}

static void expect_error(const char *memory, int code, const char *first, const char *second)
{
    bufpool_pool *pool;
    int fds = count_fds();
    CHECK_IS(try_auto(memory, &pool), ==, code);
    CHECK(pool == NULL);
    CHECK_HAS(last_error(), first);
    CHECK_HAS(last_error(), second);
    CHECK_IS(count_fds(), <=, fds + 1); /* the file of the scratch pattern, once */
    CHECK_IS(bufpool_probe(memory, "auto", NULL, 0), ==, code);
}

#define NOTE(...) ((const char *const[]){__VA_ARGS__ NULL})

static bool has_huge_pages;
static bool has_uffd;
static bool has_guard;

static void on_huge(const char *trap, const char *reason)
{
    if (!has_huge_pages) {
        return;
    }
    expect("hugetlb", trap, reason == NULL ? NOTE() : NOTE("uffd: ", reason, ));
    if (huge_directory[0] != 0 && bufpool_probe(huge_directory, "noautofill", NULL, 0) != 0) {
        expect(huge_directory, trap,
               reason == NULL ? NOTE("noautofill: the mount has not the option", )
                              : NOTE("noautofill: the mount has not the option", "uffd: ", ));
    }
}

static void plain(void *argument)
{
    (void)argument;
    expect("anon", "uffd", NOTE());
    expect("shared", "uffd", NOTE());
    expect("thp", "uffd", NOTE());
    on_huge("uffd", NULL);
}

static void no_uffd(void *argument)
{
    (void)argument;
    REFUSE(REFUSE_USERFAULTFD);
    const char *next = has_guard ? "guard" : "mprotect";
    expect("anon", next, NOTE("uffd: userfaultfd is refused (EPERM)", "seccomp", ));
    expect("shared", next, NOTE("uffd: userfaultfd is refused (EPERM)", ));
    expect_error("thp", BUFPOOL_EUNSUPPORTED, "no trap works for memory \"thp\"", "userfaultfd is refused (EPERM)");
    on_huge("mprotect", "userfaultfd is refused (EPERM)");
}

/* As a container's default profile. */
static void container(void *argument)
{
    REFUSE(REFUSE_USERFAULTFD, REFUSE_PROCESS_MADVISE, REFUSE_MBIND);
    no_uffd(argument);
}

static void no_process_madvise(void *argument)
{
    REFUSE(REFUSE_PROCESS_MADVISE);
    plain(argument); /* many are freed one by one then */
}

static void kernel_without(void *argument)
{
    (void)argument;
    REFUSE({SYS_userfaultfd, ANY_ARGUMENT, 0, ENOSYS}, {SYS_ioctl, 1, NEW_USERFAULTFD, ENOTTY}, REFUSE_GUARD);
    expect("anon", "mprotect",
           NOTE("uffd: this kernel has no userfaultfd (ENOSYS)", "guard: guard regions", "Linux 6.15", ));
    expect("shared", "mprotect", NOTE("uffd: ", "guard: ", ));
    expect_error("thp", BUFPOOL_EUNSUPPORTED, "no trap works for memory \"thp\"", "CONFIG_USERFAULTFD");
    on_huge("mprotect", "CONFIG_USERFAULTFD");
}

static void no_memfd(void *argument)
{
    (void)argument;
    REFUSE(REFUSE_MEMFD);
    if (has_uffd) {
        expect("anon", "uffd", NOTE()); /* which needs no file */
    }
    expect_error("shared", -EPERM, "memfd_create", "seccomp");
    if (has_huge_pages) {
        expect_error("hugetlb", -EPERM, "memfd_create", "Operation not permitted");
    }
}

static void nothing(void *argument)
{
    (void)argument;
    REFUSE(REFUSE_USERFAULTFD, REFUSE_MEMFD);
    static const char *const memories[] = {"anon", "shared", "thp", "hugetlb", huge_directory};
    for (size_t i = 0; i < 4u + (huge_directory[0] != 0); i++) {
        bufpool_pool *pool;
        int code = try_auto(memories[i], &pool);
        CHECK(code == -EPERM || code == BUFPOOL_EUNSUPPORTED);
        CHECK(pool == NULL);
        CHECK(strstr(last_error(), "memfd_create") != NULL || strstr(last_error(), "userfaultfd") != NULL);
        CHECK_HAS(last_error(), code == -EPERM ? "Operation not permitted" : "no trap works");
    }
    expect_error("anon", -EPERM, "memfd_create", "seccomp");
    /* Without a trap only for who asks for that. */
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    config.trap = "none";
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_close(pool));
}

/* Huge pages by mprotect with no mapping left to split: an error that says so, and everything as it was. */
static void no_mapping(void *argument)
{
    uint64_t limit = *(uint64_t *)argument;
    bufpool_pool *pool = open_pool("hugetlb", "mprotect", "abort", 8 * HUGE_PAGE, HUGE_PAGE);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    *(char *)bufpool_address(pool, 1) = 11;
    char *filler = mmap(NULL, 2 * limit * GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(filler != MAP_FAILED);
    uint64_t at = 1;
    while (at < 2 * limit && mprotect(filler + at * GRANULE, GRANULE, PROT_READ) == 0) {
        at += 2;
    }
    CHECK_IS(at, <, 2 * limit);
    CHECK_IS(bufpool_evict(pool, 1), ==, -ENOMEM);
    CHECK_HAS(last_error(), "vm.max_map_count");
    CHECK_IS(state_of(pool, 1), ==, BUFPOOL_STATE_ALLOCATED);
    CHECK_IS(*(char *)bufpool_address(pool, 1), ==, 11);
    CHECK_IS(bufpool_allocate_at(pool, 6, "x", 2), ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "vm.max_map_count");
    CHECK_IS(state_of(pool, 6), ==, BUFPOOL_STATE_UNALLOCATED);
    CHECK(traps_at(bufpool_address(pool, 6), NULL));
    CHECK_OK(munmap(filler, 2 * limit * GRANULE));
    CHECK_OK(bufpool_evict(pool, 1));
    CHECK(traps_at(bufpool_address(pool, 1), NULL));
    CHECK_OK(bufpool_allocate_at(pool, 6, "x", 2));
    CHECK_STRING(bufpool_address(pool, 6), "x");
    CHECK_OK(bufpool_close(pool));
}

static int body(void)
{
    has_huge_pages = read_setting(FREE_HUGEPAGES) >= 6;
    has_uffd = bufpool_probe("anon", "uffd", NULL, 0) == 0;
    has_guard = bufpool_probe("anon", "guard", NULL, 0) == 0;
    if (expected_auto() != NULL) {
        CHECK_STRING(expected_auto(), has_uffd ? "uffd" : has_guard ? "guard" : "mprotect");
    }
    if (has_uffd) {
        passes(plain, NULL);
        passes(no_process_madvise, NULL);
    } else {
        printf("skipped userfaultfd: %s\n", last_error());
    }
    passes(no_uffd, NULL);
    passes(container, NULL);
    passes(kernel_without, NULL);
    passes(no_memfd, NULL);
    passes(nothing, NULL);
    uint64_t limit = (uint64_t)read_setting("/proc/sys/vm/max_map_count");
    if (SANITIZED || !has_huge_pages || limit > 300000) {
        printf("skipped the limit of mappings on huge pages: it takes huge pages and vm.max_map_count <= 300000\n");
    } else {
        passes(no_mapping, &limit);
    }
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
