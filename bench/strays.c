/* strays.c: stray accesses that are reported, beside a bare handler that jumps back; and pools that record provenance. */
#include "must.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

bufpool_pool *pool_recording(uint64_t pages, const char *provenance)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * PAGE;
    config.provenance = provenance;
    bufpool_pool *pool;
    must(bufpool_open(&config, &pool));
    return pool;
}

/* With a page that was freed, for pool_strays(). */
bufpool_pool *pool_straying(const char *provenance)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 1024 * PAGE;
    config.on_fault = "resume";
    config.provenance = provenance;
    bufpool_pool *pool;
    must(bufpool_open(&config, &pool));
    must(bufpool_allocate_at(pool, 1, NULL, 0));
    must(bufpool_free(pool, 1));
    return pool;
}

struct strays {
    bufpool_pool *pool;
    uint64_t count;
};

/* In a thread of its own: the stack that is walked is a C program's, not that of the interpreter around the bench. */
static void in_thread(void *(*function)(void *), bufpool_pool *pool, uint64_t count)
{
    struct strays strays = {pool, count};
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, &strays) != 0 || pthread_join(thread, NULL) != 0) {
        abort();
    }
}

static void *stray(void *argument)
{
    const struct strays *strays = argument;
    const volatile char *address = bufpool_address(strays->pool, 1);
    for (uint64_t i = 0; i < strays->count; i++) {
        (void)*address;
        must(bufpool_check(NULL));
    }
    return NULL;
}

/* Strays, each armed again by the next call; what is written to stderr goes nowhere. */
void pool_strays(bufpool_pool *pool, uint64_t count)
{
    int nowhere = must_call(open("/dev/null", O_WRONLY), "/dev/null");
    int error = must_call(dup(STDERR_FILENO), "dup");
    must_call(dup2(nowhere, STDERR_FILENO), "dup2");
    in_thread(stray, pool, count);
    must_call(dup2(error, STDERR_FILENO), "dup2");
    close(error);
    close(nowhere);
}

static sigjmp_buf place;

static void jump(int signo)
{
    (void)signo;
    siglongjmp(place, 1);
}

static void *jump_back(void *argument)
{
    const struct strays *strays = argument;
    char *page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        abort();
    }
    for (uint64_t i = 0; i < strays->count; i++) {
        struct sigaction action = {.sa_handler = jump};
        struct sigaction before;
        must_call(sigaction(SIGSEGV, &action, &before), "sigaction");
        if (sigsetjmp(place, 1) == 0) {
            (void)*(volatile char *)page;
        }
        must_call(sigaction(SIGSEGV, &before, NULL), "sigaction");
    }
    munmap(page, PAGE);
    return NULL;
}

/* The least that a program can do about a fault: a handler of its own for the one access, and back. */
void plain_strays(uint64_t count)
{
    in_thread(jump_back, NULL, count);
}
