/* An outside program in C: opens a pool, uses a page, frees it, and catches a stray access to it. */
#include <bufpool/bufpool.h>
#include <stdio.h>
#include <string.h>

static void write_byte(void *address)
{
    *(volatile char *)address = 1;
}

static int fail(const char *what)
{
    char sentence[512] = "";
    bufpool_last_error(sentence, sizeof(sentence));
    fprintf(stderr, "consumer: %s: %s\n", what, sentence);
    return 1;
}

int main(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    bufpool_pool *pool = NULL;
    uint64_t page = 0;
    char *byte = NULL;

    if (strcmp(bufpool_version(), BUFPOOL_VERSION) != 0)
        return fail("the library is not the header's version");
    config.capacity = UINT64_C(64) << 20;
    config.name = "consumer";
    if (bufpool_open(&config, &pool))
        return fail("bufpool_open");
    if (bufpool_allocate(pool, "hello", 5, &page))
        return fail("bufpool_allocate");
    byte = (char *)bufpool_address(pool, page) + 123;
    if (memcmp(byte - 123, "hello", 6) != 0)
        return fail("the page does not hold what it was given");
    if (bufpool_guarded_call(write_byte, byte, &fault) || *byte != 1)
        return fail("a legal write was stopped");
    if (bufpool_free(pool, page))
        return fail("bufpool_free");
    if (bufpool_guarded_call(write_byte, byte, &fault) != BUFPOOL_ESTRAY)
        return fail("a stray write was not caught");
    if (fault.address != (uint64_t)(uintptr_t)byte || fault.page != page || fault.offset != 123 ||
        fault.access != BUFPOOL_WRITE || fault.state != BUFPOOL_STATE_FREED)
        return fail("the fault names something else");
    return bufpool_close(pool) ? fail("bufpool_close") : 0;
}
