/* io_uring has a frame amid a run, as a fixed buffer: the kernel moves those before it, and refuses that one. They are copied,
 * all of them: pages that leave trap, and nothing is lost. */
#include "publish.h"

#include <linux/io_uring.h>

static int ring;

/* false: refused here. */
static bool hold(void *frame)
{
    struct iovec buffer = {frame, at.page_size};
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) != 0) {
        printf("no fixed buffers of io_uring here: %s\n", strerror(errno));
        return false;
    }
    return true;
}

static void let_go(void)
{
    CHECK_OK((int)syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
}

static bool check_held(bufpool_pool *pool)
{
    uint64_t pages[FRAMES] = {0, 1, 2, 3, 4, 5};
    void *frames[FRAMES];
    CHECK_OK(bufpool_stage(pool, FRAMES, frames));
    for (uint64_t i = 0; i < FRAMES; i++) {
        stamp(frames[i], i << 20);
    }
    if (!hold(frames[3])) {
        return false;
    }
    CHECK_OK(bufpool_publish(pool, FRAMES, frames, pages));
    let_go();
    for (uint64_t i = 0; i < FRAMES; i++) {
        check_page(pool, i, i << 20);
    }
    CHECK(hold(bufpool_address(pool, 3)));
    CHECK_OK(bufpool_withdraw(pool, FRAMES, pages, frames));
    for (uint64_t i = 0; i < FRAMES; i++) {
        check_gone(pool, i);
        CHECK(is_stamped(frames[i], i << 20));
    }
    CHECK_OK(bufpool_publish(pool, FRAMES, frames, pages));
    let_go();
    CHECK(hold(bufpool_address(pool, 4)));
    CHECK_OK(bufpool_replace(pool, 4, 8));
    check_gone(pool, 4);
    check_page(pool, 8, 4 << 20);
    let_go();
    CHECK(publishing_stats(pool).frames_copied > 0);
    CHECK_IS(publishing_stats(pool).staged, ==, 0);
    return true;
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("anon", "uffd", NULL, 0) != 0) {
        printf("anon/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    struct io_uring_params parameters = {0};
    ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
    if (ring < 0) {
        printf("io_uring is refused here: %s\n", strerror(errno));
        return HARNESS_SKIP;
    }
    for (uint64_t granules = 1; granules <= 3; granules++) {
        at = (struct publishing){.memory = "anon", .trap = "uffd", .pages = 12, .page_size = granules * GRANULE};
        bufpool_pool *pool = open_publishing();
        bool held = check_held(pool);
        CHECK_OK(bufpool_close(pool));
        if (!held) {
            break;
        }
    }
    return 0;
}
