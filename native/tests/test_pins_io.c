/*
 * test_pins_io.c: pins and input that is in flight: what is caught, and what is not ("What pins do not catch" in the README).
 *
 * Caught is what looks at the page when it copies: a system call of the moment, O_DIRECT and the registration of a buffer at
 * their begin, a read of io_uring that waits for its data. Not caught is what holds the frame, and not the address.
 */
#include "pins.h"
#include "plain_ring.h"

static const char *of_memory;
static const char *by_trap;
static const char *of_pins;

static bufpool_pool *open_filled(const char *pins, const char *audit)
{
    bufpool_config config = pins_config(of_memory, by_trap, pins);
    config.audit = audit;
    bufpool_pool *pool = NULL;
    int code = bufpool_open(&config, &pool);
    CHECK(code == 0 || (audit != NULL && code == BUFPOOL_EUNSUPPORTED));
    if (code == 0) {
        char old[GRANULE];
        memset(old, 'o', sizeof old);
        CHECK_OK(bufpool_allocate_at(pool, 0, old, sizeof old));
    }
    return pool;
}

/* What a page holds, that may be closed. */
static char content(bufpool_pool *pool, uint64_t page)
{
    CHECK_OK(bufpool_pin(pool, page, false));
    char *at = bufpool_address(pool, page);
    char byte = read_byte(at);
    CHECK_IS(read_byte(at + GRANULE - 1), ==, byte); /* all of it, or nothing */
    CHECK_OK(bufpool_unpin_for(pool, page, false));
    return byte;
}

/* A file of one page, opened with O_DIRECT; -1: refused here. */
static int open_direct(void)
{
    char path[] = "/var/tmp/bufpool-direct-XXXXXX";
    int plain = mkstemp(path);
    CHECK(plain >= 0);
    char data[GRANULE];
    memset(data, 'n', sizeof data);
    CHECK_IS(write(plain, data, sizeof data), ==, (ssize_t)sizeof data);
    CHECK_OK(fsync(plain));
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    unlink(path);
    close(plain);
    return fd;
}

static struct io_uring_sqe read_into(int fd, char *at, unsigned char opcode)
{
    return (struct io_uring_sqe){.opcode = opcode, .fd = fd, .addr = (uintptr_t)at, .len = GRANULE};
}

static void test_direct(int file)
{
    bufpool_pool *pool = open_filled(of_pins, NULL);
    char *at = bufpool_address(pool, 0);
    CHECK_IS(pread(file, at, GRANULE, 0), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    CHECK_OK(bufpool_pin(pool, 0, false));
    CHECK_IS(pread(file, at, GRANULE, 0), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(content(pool, 0), ==, 'o');
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_IS(pread(file, at, GRANULE, 0), ==, GRANULE);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(content(pool, 0), ==, 'n');
    CHECK_OK(bufpool_close(pool));
}

/* Unpinned while the device may be at it: where the kernel has the frame by then, the data arrives all the same. */
static void test_direct_in_flight(struct ring *ring, int file)
{
    int caught = 0;
    for (int i = 0; i < 20; i++) {
        bufpool_pool *pool = open_filled(of_pins, NULL);
        char *at = bufpool_address(pool, 0);
        CHECK_OK(bufpool_pin(pool, 0, true));
        ring_submit(ring, read_into(file, at, IORING_OP_READ));
        CHECK_OK(bufpool_unpin(pool, 0));
        int result = ring_result(ring);
        CHECK(result == GRANULE || result == -EFAULT);
        CHECK_IS(content(pool, 0), ==, result == GRANULE ? 'n' : 'o');
        CHECK_OPEN(pool, 0, strcmp(of_pins, "write") == 0, false, result == GRANULE ? 'n' : 'o');
        CHECK_OK(bufpool_close(pool));
        caught += result < 0;
    }
    printf("O_DIRECT, unpinned in flight: %d of 20 caught\n", caught);
}

/* Data that comes when the page is closed again. */
static void test_waiting(struct ring *ring)
{
    bufpool_pool *pool = open_filled(of_pins, NULL);
    char *at = bufpool_address(pool, 0);
    int ends[2];
    char data[GRANULE];
    memset(data, 'n', sizeof data);
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    CHECK_OK(bufpool_pin(pool, 0, true));
    ring_submit(ring, read_into(ends[0], at, IORING_OP_READ));
    CHECK(!ring_is_done(ring));
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(write(ends[1], data, sizeof data), ==, GRANULE);
    CHECK_IS(ring_result(ring), ==, -EFAULT);
    CHECK_IS(content(pool, 0), ==, 'o');
    close(ends[0]);
    close(ends[1]);
    CHECK_OK(bufpool_close(pool));
}

static int register_page(struct ring *ring, char *at)
{
    struct iovec buffer = {at, GRANULE};
    return (int)syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &buffer, 1);
}

static void unregister(struct ring *ring)
{
    CHECK_OK(syscall(SYS_io_uring_register, ring->fd, IORING_UNREGISTER_BUFFERS, NULL, 0));
}

static void read_fixed(struct ring *ring, char *at)
{
    int ends[2];
    char data[GRANULE];
    memset(data, 'n', sizeof data);
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    CHECK_IS(write(ends[1], data, sizeof data), ==, GRANULE);
    ring_submit(ring, read_into(ends[0], at, IORING_OP_READ_FIXED));
    CHECK_IS(ring_result(ring), ==, GRANULE);
    close(ends[0]);
    close(ends[1]);
}

/* The kernel looks at a fixed buffer when it is registered, and never again. */
static void test_fixed(struct ring *ring)
{
    bufpool_pool *pool = open_filled(of_pins, NULL);
    char *at = bufpool_address(pool, 0);
    CHECK_IS(register_page(ring, at), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OK(register_page(ring, at));
    CHECK_OK(bufpool_unpin(pool, 0));
    read_fixed(ring, at); /* not caught */
    CHECK_IS(content(pool, 0), ==, 'n');
    CHECK_OPEN(pool, 0, strcmp(of_pins, "write") == 0, false, 'n');
    /* The frame goes with the page, and is no other's while the kernel holds it: a late write hits nobody. */
    char old[GRANULE];
    memset(old, 'o', sizeof old);
    CHECK_OK(bufpool_free(pool, 0));
    for (uint64_t page = 0; page < 8; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, old, sizeof old));
    }
    read_fixed(ring, at);
    for (uint64_t page = 0; page < 8; page++) {
        CHECK_IS(content(pool, page), ==, 'o');
    }
    unregister(ring);
    CHECK_OK(bufpool_close(pool));
}

/* An audit by checksum sees afterwards what came through a fixed buffer; the kernel's account of writes does not. */
static void test_audited(struct ring *ring, const char *audit)
{
    bufpool_pool *pool = open_filled("count", audit);
    if (pool == NULL) {
        return;
    }
    char *at = bufpool_address(pool, 0);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OK(register_page(ring, at));
    CHECK_OK(bufpool_unpin(pool, 0));
    read_fixed(ring, at);
    bufpool_changed changed = {.size = sizeof changed};
    size_t found;
    CHECK_OK(bufpool_audit(pool, 0, 1, &changed, &found));
    CHECK_IS(found, ==, strcmp(audit, "checksum") == 0);
    unregister(ring);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    of_memory = memory;
    by_trap = trap;
    int file = open_direct();
    struct ring ring;
    bool rings = ring_open(&ring);
    printf("%s%s%s%s", file < 0 ? "O_DIRECT is refused in /var/tmp: not tried\n" : "",
           rings ? "" : "io_uring is refused here (", rings ? "" : strerror(errno), rings ? "" : "): not tried\n");
    static const char *const modes[] = {"write", "all"};
    for (int i = 0; i < 2 && can_close(memory, trap); i++) {
        of_pins = modes[i];
        if (file >= 0) {
            test_direct(file);
        }
        if (file >= 0 && rings) {
            test_direct_in_flight(&ring, file);
        }
        if (rings) {
            test_waiting(&ring);
            test_fixed(&ring);
        }
    }
    if (rings) {
        test_audited(&ring, "checksum");
        test_audited(&ring, "track");
        close(ring.fd);
    }
    if (file >= 0) {
        close(file);
    }
}

/* A frame that is moved when it is closed cannot be closed while the kernel holds it: the pin stays. */
static void test_held(const char *memory, const char *trap)
{
    of_memory = memory;
    by_trap = trap;
    struct ring ring;
    if (!can_close(memory, trap) || !ring_open(&ring)) {
        return;
    }
    bufpool_pool *pool = open_filled("all", NULL);
    char *at = bufpool_address(pool, 0);
    CHECK_IS(register_page(&ring, at), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OK(register_page(&ring, at));
    CHECK_IS(bufpool_unpin(pool, 0), ==, -EBUSY);
    CHECK_HAS(last_error(), "cannot unpin page 0");
    CHECK_IS(stats_of(pool).pins, ==, 1);
    CHECK_OPEN(pool, 0, true, true, 'o');
    read_fixed(&ring, at);
    CHECK_IS(read_byte(at), ==, 'n');
    unregister(&ring);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_OPEN(pool, 0, false, false, 'n');
    CHECK_OK(bufpool_close(pool));
    close(ring.fd);
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(test_cell, false);
    for_each_trap("thp", test_held, false);
    return code;
}
