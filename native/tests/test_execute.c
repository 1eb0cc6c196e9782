/* A jump into the pool: kind "execute", the address exact, the caller named, and death whatever on_fault says. */
#include "harness.h"

#include <sys/mman.h>

static const char *memory, *trap, *on_fault;

/* Calls the first byte of page 0 (allocated) or 1 (a hole). */
static void jump(void *argument)
{
    bufpool_pool *pool = open_pool(memory, trap, on_fault, 8 * GRANULE, GRANULE);
    unsigned char code[16];
    memset(code, 0xc3, sizeof code); /* would return at once, were it allowed */
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, code, sizeof code, &page));
    char *at = (char *)bufpool_address(pool, *(uint64_t *)argument) + 8;
    fprintf(stderr, "at %p\n", (void *)at);
    ((void (*)(void))(uintptr_t)at)();
    fprintf(stderr, "it returned\n");
}

static void jump_guarded(void *argument)
{
    bufpool_pool *pool = open_pool(memory, trap, on_fault, 8 * GRANULE, GRANULE);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    void (*function)(void *) = (void (*)(void *))(uintptr_t)((char *)bufpool_address(pool, *(uint64_t *)argument) + 8);
    CHECK_IS(bufpool_guarded_call(function, NULL, &fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.access, ==, BUFPOOL_EXECUTE);
    CHECK_IS(fault.address, ==, (uintptr_t)function);
    CHECK_IS(fault.pc, ==, (uintptr_t)function);
    CHECK_IS(fault.offset, ==, 8);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"abort", "resume", "raise"};
    for (int policy = 0; policy < 3; policy++) {
        on_fault = policies[policy];
        for (uint64_t page = 0; page < 2; page++) {
            struct child child = run_child(jump, &page);
            CHECK_CHILD(WIFSIGNALED(child.status), child);
            CHECK_CHILD(WTERMSIG(child.status) == SIGBUS || WTERMSIG(child.status) == SIGSEGV, child);
            CHECK_CHILD(strstr(child.text, "it returned") == NULL, child);
            CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
            CHECK_HAS(child.text,
                      page == 0 ? "stray execute of an allocated page" : "stray execute of an unallocated page");
            CHECK_HAS(child.text, "offset 8 of 4096");
            CHECK_HAS(child.text, "never executable");
            CHECK_HAS(child.text, "test_execute+0x"); /* who jumped */
            char part[64];
            snprintf(part, sizeof part, "EXECUTE at address %.*s, pc %.*s\n", (int)strcspn(child.text + 3, "\n"),
                     child.text + 3, (int)strcspn(child.text + 3, "\n"), child.text + 3);
            CHECK_HAS(child.text, part);
            child = run_child(jump_guarded, &page);
            CHECK_PASSED(child);
        }
    }
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
