/* on_fault "raise": each fault is owed to its thread, in order, once; what ended threads are owed is not lost. */
#include "harness.h"

static bufpool_pool *pool;
static const char *memory, *trap;

#define STRAYS 300 /* more than a chunk of the queue, more than the ring of past faults */

static char *place(uint64_t i)
{
    return (char *)bufpool_address(pool, i % 512) + 3 + i;
}

static void in_order(void)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_check(&fault));
    for (uint64_t i = 0; i < STRAYS; i++) {
        if (i % 2 == 0) {
            CHECK_IS((unsigned char)read_byte(place(i)), ==, BUFPOOL_POISON);
        } else {
            write_byte(place(i), 1);
        }
    }
    uint64_t before = 0;
    for (uint64_t i = 0; i < STRAYS; i++) {
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.size, ==, sizeof fault);
        CHECK_IS(fault.address, ==, (uintptr_t)place(i));
        CHECK_IS(fault.access, ==, i % 2 == 0 ? BUFPOOL_READ : BUFPOOL_WRITE);
        CHECK_IS(fault.page, ==, i % 512);
        CHECK_IS(fault.offset, ==, 3 + i);
        CHECK_IS(fault.thread_id, ==, gettid());
        CHECK_IS(fault.sequence, >, before);
        before = fault.sequence;
        CHECK_HAS(last_error(), "stray");
        bufpool_fault last = BUFPOOL_FAULT_INIT;
        CHECK_OK(bufpool_last_fault(&last));
        CHECK_IS(last.sequence, ==, fault.sequence);
    }
    CHECK_OK(bufpool_check(&fault));
    CHECK_IS(stats_of(pool).faults, ==, STRAYS);

    static bufpool_fault ring[STRAYS];
    ring[0].size = sizeof ring[0];
    for (int i = 0; i < STRAYS; i++) {
        ring[i].size = sizeof ring[i];
    }
    size_t found;
    CHECK_OK(bufpool_faults(pool, 0, STRAYS, ring, &found));
    CHECK_IS(found, ==, 256); /* the latest */
    for (size_t i = 0; i < found; i++) {
        CHECK_IS(ring[i].address, ==, (uintptr_t)place(STRAYS - 256 + i));
    }
    CHECK_OK(bufpool_faults(pool, ring[250].sequence, STRAYS, ring, &found));
    CHECK_IS(found, ==, 5);
    CHECK_OK(bufpool_faults(pool, 0, 2, ring, &found));
    CHECK_IS(found, ==, 2);

    read_byte(place(1));
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    struct {
        size_t size;
        uint64_t sequence;
        uint64_t untouched;
    } old = {16, 0, 77}; /* a caller with an older, shorter struct */
    read_byte(place(2));
    CHECK_IS(bufpool_check((bufpool_fault *)&old), ==, BUFPOOL_ESTRAY);
    CHECK(old.size == 16 && old.sequence > 0 && old.untouched == 77);
}

/* Each worker gets its own and only its own. */
static void *worker(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    for (uint64_t i = 0; i < 50; i++) {
        read_byte(place(self * 50 + i));
        if (i % 10 == 9) {
            for (uint64_t back = i - 9; back <= i; back++) {
                CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
                CHECK_IS(fault.address, ==, (uintptr_t)place(self * 50 + back));
                CHECK_IS(fault.thread_id, ==, gettid());
            }
            CHECK_OK(bufpool_check(&fault));
        }
    }
    return NULL;
}

/* Strays and ends without asking. */
static void *leaver(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    read_byte(place(self));
    read_byte(place(self + 8));
    return NULL;
}

static void threads(void)
{
    uint64_t numbers[8];
    for (uint64_t i = 0; i < 8; i++) {
        numbers[i] = i;
    }
    run_threads(8, worker, numbers, sizeof *numbers);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_check(&fault));
    CHECK_OK(bufpool_check_ended(NULL, &fault));

    run_threads(8, leaver, numbers, sizeof *numbers);
    CHECK_OK(bufpool_check(&fault)); /* not ours */
    bufpool_pool *other = open_pool(memory, trap, "raise", MIB, GRANULE);
    CHECK_OK(bufpool_check_ended(other, &fault));
    int seen[16] = {0};
    for (int i = 0; i < 16; i++) {
        CHECK_IS(bufpool_check_ended(i % 2 ? pool : NULL, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.page, <, 16);
        CHECK_IS(seen[fault.page]++, ==, 0);
    }
    CHECK_OK(bufpool_check_ended(NULL, &fault));
    CHECK_OK(bufpool_close(other));
}

/* The library's own calls end with the fault, and do not owe it again. */
static void own_calls(void)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    uint64_t page;
    for (size_t size = 1; size <= GRANULE; size += size == 1 ? 99 : 1999) {
        CHECK_IS(bufpool_allocate(pool, bufpool_address(pool, 40), size, &page), ==, BUFPOOL_ESTRAY);
        CHECK_OK(bufpool_last_fault(&fault));
        CHECK_IS(fault.page, ==, 40);
        CHECK_IS(fault.access, ==, BUFPOOL_READ);
        CHECK_HAS(last_error(), "stray read");
        CHECK_OK(bufpool_check(&fault));
    }
    CHECK_IS(stats_of(pool).allocated, ==, 0);
}

static void flushes(void *argument)
{
    (void)argument;
    pool = open_pool(memory, trap, "raise", 2 * MIB, GRANULE);
    uint64_t number = 100;
    for (int i = 0; i < 3; i++) {
        read_byte(place((uint64_t)i));
    }
    run_threads(1, leaver, &number, 0);
    bufpool_pool *other = open_pool(memory, trap, "raise", 2 * MIB, GRANULE);
    CHECK_IS(bufpool_flush(other), ==, 0);
    CHECK_IS(bufpool_flush(pool), ==, 5);
    CHECK_IS(bufpool_flush(NULL), ==, 0);
    CHECK_OK(bufpool_check(NULL));
}

/* bufpool_close() writes what ended threads are owed; what a living thread is owed stays owed. */
static void closes(void *argument)
{
    (void)argument;
    pool = open_pool(memory, trap, "raise", 2 * MIB, GRANULE);
    uint64_t number = 100;
    run_threads(1, leaver, &number, 0);
    read_byte(place(7));
    CHECK_OK(bufpool_close(pool));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_check_ended(NULL, &fault));
    CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.page, ==, 7);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    pool = open_pool(memory, trap, "raise", 2 * MIB, GRANULE);
    in_order();
    threads();
    own_calls();
    CHECK_OK(bufpool_close(pool));
    struct child child = run_child(flushes, NULL);
    CHECK_PASSED(child);
    CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 5, child);
    child = run_child(closes, NULL);
    CHECK_PASSED(child);
    CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 2, child);
    CHECK_HAS(child.text, "page 100 of pool");
    CHECK_HAS(child.text, "page 108 of pool");
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
