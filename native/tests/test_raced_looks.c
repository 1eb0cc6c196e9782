/*
 * A fault upon a page that is allocated by now: has the page lost its frame, or does the host protect it? One look of the kernel
 * could be a moment in which others have freed the page, to allocate it again. So what is seen once is no verdict; what
 * stays is.
 *
 * Linked with --wrap=bp_kernel_readable and --wrap=bp_kernel_uffd_poison: the page is free for as long as one look takes.
 */
#include "kernel.h"
#include "monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

static bufpool_pool *freed; /* whose page 3 is freed for a moment */
static int moments;         /* how many more times */
static int looks;

int __real_bp_kernel_readable(const void *address);
int __wrap_bp_kernel_readable(const void *address);
int __wrap_bp_kernel_readable(const void *address)
{
    looks++;
    if (freed == NULL || moments == 0) {
        return __real_bp_kernel_readable(address);
    }
    moments--;
    return 0; /* as in a moment in which it was free */
}

int __real_bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length);
int __wrap_bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length);
int __wrap_bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length)
{
    if (freed == NULL) {
        return __real_bp_kernel_uffd_poison(uffd, address, length);
    }
    bufpool_pool *pool = freed;
    freed = NULL;
    CHECK_OK(bufpool_free(pool, 3));
    int code = __real_bp_kernel_uffd_poison(uffd, address, length);
    CHECK_OK(bufpool_allocate_at(pool, 3, "again", 5));
    freed = pool;
    return code;
}

/* As if a read of page 3 had raised the signal: the library's answer. */
static bool signalled(const bufpool_pool *pool, int signo)
{
    siginfo_t info;
    ucontext_t context;
    memset(&info, 0, sizeof info);
    memset(&context, 0, sizeof context);
    info.si_signo = signo;
    info.si_code = signo == SIGBUS ? BUS_ADRERR : SEGV_ACCERR;
    info.si_addr = (char *)bufpool_address(pool, 3) + 17;
    looks = 0;
    return bufpool_handle_signal(signo, &info, &context);
}

/* The one fault, of page 3, was raced and nothing worse. */
static void check_raced(bufpool_pool *pool)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    size_t found = 0;
    CHECK_OK(bufpool_faults(pool, 0, 1, &fault, &found));
    CHECK_IS(found, ==, 1);
    CHECK_IS(fault.page, ==, 3);
    CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_RACED);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "resume", MIB, GRANULE);
    CHECK_OK(bufpool_allocate_at(pool, 3, "page", 4));
    freed = pool;
    moments = 3;
    CHECK(signalled(pool, signal_of(trap)));
    freed = NULL;
    CHECK_IS(looks, ==, 4);
    CHECK_IS(*(char *)bufpool_address(pool, 3), ==, 'p');
    check_raced(pool);
    if (signal_of(trap) == SIGSEGV) { /* what the host protects stays so */
        pool = open_pool(memory, trap, "resume", MIB, GRANULE);
        CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
        CHECK_OK(mprotect(bufpool_address(pool, 3), GRANULE, PROT_NONE));
        CHECK(!signalled(pool, SIGSEGV));
        CHECK_IS(looks, >, 4);
        CHECK_IS(stats_of(pool).faults, ==, 0);
        CHECK_OK(mprotect(bufpool_address(pool, 3), GRANULE, PROT_READ | PROT_WRITE));
        CHECK_OK(bufpool_close(pool));
    }
}

static void test_monitored(void)
{
    bufpool_pool *pool = open_monitored("shared", "resume", MIB, GRANULE);
    CHECK_OK(bufpool_allocate_at(pool, 3, "page", 4));
    freed = pool;
    moments = 3;
    CHECK(signalled(pool, SIGBUS));
    freed = NULL;
    CHECK_IS(looks, ==, 4);
    CHECK_STRING(bufpool_address(pool, 3), "again");
    CHECK_IS(atomic_load(&pool->space.poisoned), ==, 0);
    check_raced(pool);

    /* A frame that is gone stays away. */
    pool = open_monitored("shared", "resume", MIB, GRANULE);
    CHECK_OK(bufpool_allocate_at(pool, 3, "page", 4));
    CHECK_OK(fallocate(pool->space.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * GRANULE, GRANULE));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    looks = 0;
    CHECK(traps_at((char *)bufpool_address(pool, 3) + 17, &fault));
    CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_LOST);
    CHECK_IS(looks, >, 4);
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_allocate_at(pool, 3, "new", 3));
    CHECK_STRING(bufpool_address(pool, 3), "new");
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(cell, false);
    if (can_monitor()) {
        test_monitored();
    }
    return code;
}
