/* hosts.h: what the tests of hosts with signal handlers of their own share. */
#ifndef HOSTS_H
#define HOSTS_H

#include "harness.h"

#include <signal.h>
#include <sys/mman.h>

static const char *memory, *trap; /* the cell under test */

MAYBE_UNUSED static bufpool_pool *open_small(const char *on_fault)
{
    return open_pool(memory, trap, on_fault, 64 * GRANULE, GRANULE);
}

/* A byte of page n of a pool, not at its start. */
MAYBE_UNUSED static char *hole(const bufpool_pool *pool, uint64_t page)
{
    return (char *)bufpool_address(pool, page) + 16 * page + 5;
}

/* mask: 0 ends the list. */
MAYBE_UNUSED static void set_handler(int signo, void (*handler)(int, siginfo_t *, void *), int flags, const int *mask)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    for (; mask != NULL && *mask != 0; mask++) {
        sigaddset(&action.sa_mask, *mask);
    }
    CHECK_OK(sigaction(signo, &action, NULL));
}

MAYBE_UNUSED static bool is_blocked(int signo)
{
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    return sigismember(&set, signo);
}

/* A page that is no pool's: SIGSEGV. */
MAYBE_UNUSED static char *closed_page(void)
{
    static char *page;
    if (page == NULL) {
        page = mmap(NULL, GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(page != MAP_FAILED);
    }
    return page;
}

/* Gives this thread an alternate signal stack of size bytes, behind a page that nobody may touch. */
MAYBE_UNUSED static void *use_alternate_stack(size_t size)
{
    size_t whole = (size + GRANULE - 1) / GRANULE * GRANULE;
    char *place = mmap(NULL, whole + GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    CHECK_OK(mprotect(place, GRANULE, PROT_NONE));
    stack_t stack = {.ss_sp = place + GRANULE + whole - size, .ss_size = size};
    CHECK_OK(sigaltstack(&stack, NULL));
    return stack.ss_sp;
}

#endif
