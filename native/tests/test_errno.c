/* bufpool_handle_signal() keeps errno, whatever it comes to: the host's handler (BUFPOOL_HOST_HANDLER) need not. */
#include "monitor.h"

#include <signal.h>
#include <sys/mman.h>

#define MARK 4242

static volatile sig_atomic_t calls, changed, ours;
static char *opened; /* by the handler, for what is not ours */

static void on_signal(int signo, siginfo_t *info, void *context)
{
    int before = errno;
    errno = MARK;
    calls++;
    ours = bufpool_handle_signal(signo, info, context);
    changed += errno != MARK;
    if (!ours && opened != NULL) {
        mprotect(opened, GRANULE, PROT_READ);
    }
    errno = before;
}

static void cell(const char *memory, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16 * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "resume";
    config.flags = BUFPOOL_HOST_HANDLER;
    bufpool_pool *pool;
    uint64_t page;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    calls = 0;
    CHECK_IS((unsigned char)read_byte((char *)bufpool_address(pool, 5) + 7), ==, BUFPOOL_POISON);
    CHECK_IS(calls, ==, 1);
    CHECK(ours);
    opened = mmap(NULL, GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(opened != MAP_FAILED);
    CHECK_IS(read_byte(opened), ==, 0);
    CHECK_IS(calls, ==, 2);
    CHECK(!ours);
    munmap(opened, GRANULE);
    opened = NULL;
    CHECK_OK(bufpool_close(pool));
    CHECK_IS((unsigned char)read_byte((char *)bufpool_address(pool, 6)), ==, BUFPOOL_POISON);
    CHECK_IS(calls, ==, 3);
    CHECK_IS(changed, ==, 0);
}

/* On locked memory the kernel refuses the first way of taking the poison away. */
static void calls_with_strays(unsigned flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16 * GRANULE;
    config.on_fault = "resume";
    config.flags = BUFPOOL_HOST_HANDLER | BUFPOOL_MONITOR | flags;
    bufpool_pool *pool;
    int code = bufpool_open(&config, &pool);
    if (code < 0) {
        printf("no monitored pool with flags 0x%x: %s\n", flags, last_error());
        return;
    }
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    calls = 0;
    CHECK_IS(write(ends[1], bufpool_address(pool, 3), 10), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    CHECK_IS(calls, >, 0);
    CHECK_IS(changed, ==, 0);
    CHECK_OK(bufpool_close(pool));
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    harness_begin();
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    CHECK_OK(sigaction(SIGBUS, &action, NULL));
    CHECK_OK(sigaction(SIGSEGV, &action, NULL));
    int code = for_each_cell(cell, false);
    calls_with_strays(0);
    calls_with_strays(BUFPOOL_LOCK);
    return code;
}
