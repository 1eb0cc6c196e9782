/* pthread_cancel() of a thread that is about to close a pool: the pool is closed whole, its monitor ended, and the thread is
 * cancelled after it. */
#include "harness.h"

#include <stdatomic.h>

static bufpool_pool *pool;
static atomic_bool asked, cancelled;
static int code, state;

static void *closer(void *argument)
{
    (void)argument;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    atomic_store(&asked, true);
    while (!atomic_load(&cancelled)) {
        sched_yield();
    }
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    code = bufpool_close(pool);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    pthread_testcancel();
    return NULL;
}

static void closing(const char *memory, const char *trap, const char *on_fault)
{
    uint64_t page;
    int descriptors = count_fds();
    pool = open_pool(memory, trap, on_fault, 16 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate(pool, "content", 8, &page));
    const char *address = bufpool_address(pool, page);
    pthread_t thread;
    void *result;
    code = state = -1;
    atomic_store(&asked, false);
    atomic_store(&cancelled, false);
    CHECK_OK(pthread_create(&thread, NULL, closer, NULL));
    while (!atomic_load(&asked)) {
        sched_yield();
    }
    CHECK_OK(pthread_cancel(thread));
    atomic_store(&cancelled, true);
    CHECK_OK(pthread_join(thread, &result));
    CHECK(result == PTHREAD_CANCELED);
    CHECK_IS(code, ==, 0);
    CHECK_IS(state, ==, PTHREAD_CANCEL_ENABLE);
    CHECK_IS(count_fds(), ==, descriptors);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(address, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
}

static void cell(const char *memory, const char *trap)
{
    closing(memory, trap, "resume");
    /* The first makes the process's record of frozen threads, which stays. */
    CHECK_OK(bufpool_close(open_pool(memory, trap, "freeze", 16 * GRANULE, GRANULE)));
    closing(memory, trap, "freeze");
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
