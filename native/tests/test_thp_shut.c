/*
 * To arm a huge granule again after a stray access shuts it for a moment. An access of another thread that falls into
 * that moment, and is looked at only when the page has been allocated, is run again and meets the page. A page that the
 * host itself protects is the host's affair as ever.
 *
 * Linked with --wrap=bp_kernel_mprotect: the call that ends the moment waits here until the access has been made.
 */
#include "harness.h"
#include "kernel.h"

#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define HUGE_PAGE (2 * MIB)

static bufpool_pool *pool;
static atomic_bool hold, shut, met, allocated; /* in this order */
static atomic_int passed;                      /* faults that the library said are not its own */
static sigjmp_buf out;

static void wait_for(atomic_bool *flag)
{
    while (!atomic_load(flag)) {
        sleep_ms(1);
    }
}

int __real_bp_kernel_mprotect(void *address, size_t length, int protection);
int __wrap_bp_kernel_mprotect(void *address, size_t length, int protection);
int __wrap_bp_kernel_mprotect(void *address, size_t length, int protection)
{
    if (atomic_exchange(&hold, false)) {
        atomic_store(&shut, true);
        wait_for(&met);
    }
    return __real_bp_kernel_mprotect(address, length, protection);
}

/* The host's handler. */
static void handler(int signo, siginfo_t *info, void *context)
{
    if (atomic_load(&shut) && !atomic_load(&allocated)) {
        atomic_store(&met, true);
        wait_for(&allocated);
    }
    if (!bufpool_handle_signal(signo, info, context)) {
        atomic_fetch_add(&passed, 1);
        siglongjmp(out, 1);
    }
}

static void *stray_in_that_moment(void *result)
{
    wait_for(&shut);
    *(char *)result = read_byte((char *)bufpool_address(pool, 3) + 5);
    return NULL;
}

/* The write is passed on to the host, once. */
static void check_passed(char *at)
{
    int before = atomic_load(&passed);
    if (sigsetjmp(out, 1) == 0) {
        write_byte(at, 1);
        CHECK(!"a write went through");
    }
    CHECK_IS(atomic_load(&passed), ==, before + 1);
}

static void protected_by_the_host(char *at)
{
    CHECK_OK(mprotect(at, HUGE_PAGE, PROT_NONE));
    check_passed(at + 5);
    check_passed(at + 5);
    CHECK_OK(mprotect(at, HUGE_PAGE, PROT_READ));
    check_passed(at + 5);
    CHECK_OK(mprotect(at, HUGE_PAGE, PROT_READ | PROT_WRITE));
    CHECK_STRING(at, "allocated");
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, and this test counts on when\n");
        return HARNESS_SKIP;
    }
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    CHECK_OK(sigaction(SIGBUS, &action, NULL));
    CHECK_OK(sigaction(SIGSEGV, &action, NULL));
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = "thp";
    config.page_size = 0;
    config.capacity = 8 * HUGE_PAGE;
    config.on_fault = "raise";
    config.flags = BUFPOOL_HOST_HANDLER;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED) {
        printf("thp cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    CHECK_OK(code);
    write_byte(bufpool_address(pool, 3), 1);
    char met_byte = 0;
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, stray_in_that_moment, &met_byte));
    atomic_store(&hold, true);
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY); /* arms page 3 again */
    CHECK(atomic_load(&met));
    CHECK_OK(bufpool_allocate_at(pool, 3, "allocated", 9));
    atomic_store(&allocated, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS(met_byte, ==, "allocated"[5]);
    CHECK_IS(atomic_load(&passed), ==, 0);
    protected_by_the_host(bufpool_address(pool, 3));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_OK(bufpool_close(pool));
    return 0;
}
