/*
 * uring.c: requests by io_uring, see uring.h.
 *
 * The rings are set up without any of the flags that bind one to a thread, since the next batch may be another thread's.
 * Their memory does not go to forked children, and their descriptors are kept clear of the host's. Every request that the
 * kernel has taken is waited for, whatever else fails: the memory of one is not ours before.
 */
#include "uring.h"

#include "error.h"
#include "kernel.h"
#include "thread.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#ifdef BP_HAVE_URING

#include <liburing.h>

#define RINGS 32                    /* batches at the same time; those beyond go without */
#define RETRY_NS INT64_C(100000000) /* after a lack of memory or of descriptors */

enum { EMPTY = 0, IDLE = 1, BUSY = 2, USES = 3 };

/* use: bp_process() of the owner << 2 | EMPTY, IDLE or BUSY. The rest is of whoever has made it BUSY. */
struct bp_uring {
    _Alignas(64) _Atomic uint64_t use;
    bool broken;
    int fd; /* kept clear; -1: none yet, or no more */
    struct io_uring ring;
};

static struct bp_uring rings[RINGS];
static _Atomic int refused;        /* -errno, for good, and */
static _Atomic int64_t not_before; /* when what was wanting may be there again, ns */

static uint64_t use_of(int what)
{
    return (uint64_t)(uint32_t)bp_process() << 2 | (uint64_t)what;
}

/* ---- One ring ---- */

/* A filter may let io_uring_setup pass and refuse io_uring_enter. */
static int try_nothing(struct io_uring *ring)
{
    struct io_uring_cqe *done;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    int code;
    do {
        code = io_uring_submit_and_wait(ring, 1);
    } while (code == -EINTR);
    if (code < 0) {
        return code;
    }
    do {
        code = io_uring_wait_cqe(ring, &done);
    } while (code == -EINTR);
    if (code == 0) {
        io_uring_cqe_seen(ring, done);
    }
    return code;
}

static void shut(struct bp_uring *it)
{
    if (!bp_kernel_is_kept(it->fd)) {
        it->ring.ring_fd = -1; /* the host has closed it: the number is somebody else's */
    }
    it->fd = -1;
    io_uring_queue_exit(&it->ring);
}

static int set_up(struct bp_uring *it)
{
    it->fd = -1;
    it->broken = false;
    int code = io_uring_queue_init(BP_URING_BATCH, &it->ring, 0);
    if (code < 0) {
        return code;
    }
    it->fd = bp_kernel_keep_clear(it->ring.ring_fd);
    it->ring.ring_fd = it->ring.enter_ring_fd = it->fd;
    code = it->fd;
    code = code < 0 ? code : io_uring_ring_dontfork(&it->ring);
    code = code < 0 ? code : try_nothing(&it->ring);
    if (code < 0) {
        shut(it);
    }
    return code;
}

static void remember(int code)
{
    if (code == -EPERM || code == -EACCES || code == -ENOSYS || code == -EINVAL || code == -EOPNOTSUPP) {
        atomic_store(&refused, code);
    } else { /* no memory, no descriptors */
        atomic_store(&not_before, bp_kernel_monotonic_ns() + RETRY_NS);
    }
}

/* ---- The row ---- */

/* A forked child has none of the parent's memory of it, but the descriptor. */
static void forget_inherited(struct bp_uring *it, uint64_t use)
{
    if ((use & USES) != EMPTY) {
        bp_kernel_close_kept(it->fd);
    }
}

/* Is there a ring in it, of this process, once the thread has it? */
static bool ready(struct bp_uring *it, uint64_t before)
{
    if (before == use_of(IDLE)) {
        if (bp_kernel_is_kept(it->fd)) {
            return true;
        }
        shut(it);
    } else {
        forget_inherited(it, before);
    }
    if (bp_kernel_monotonic_ns() < atomic_load(&not_before)) {
        return false;
    }
    int code = set_up(it);
    if (code < 0) {
        remember(code);
    }
    return code == 0;
}

struct bp_uring *bp_uring_take(void)
{
    if (atomic_load_explicit(&refused, memory_order_relaxed) < 0) {
        return NULL;
    }
    bool tried = false; /* to set one up: another one may be there already */
    for (struct bp_uring *it = rings; it < rings + RINGS; it++) {
        uint64_t use = atomic_load(&it->use);
        if (tried && use != use_of(IDLE)) {
            continue;
        }
        if (use != use_of(BUSY) && atomic_compare_exchange_strong(&it->use, &use, use_of(BUSY))) {
            if (ready(it, use)) {
                return it;
            }
            atomic_store(&it->use, use_of(EMPTY));
            tried = true;
        }
    }
    return NULL;
}

void bp_uring_give(struct bp_uring *it)
{
    if (it->broken) {
        shut(it);
    }
    atomic_store(&it->use, use_of(it->broken ? EMPTY : IDLE));
}

void bp_uring_rest(void)
{
    for (struct bp_uring *it = rings; it < rings + RINGS; it++) {
        uint64_t use = atomic_load(&it->use);
        bool inherited = (use & USES) != EMPTY && use >> 2 != use_of(EMPTY) >> 2;
        if ((inherited || use == use_of(IDLE)) && atomic_compare_exchange_strong(&it->use, &use, use_of(BUSY))) {
            if (inherited) {
                forget_inherited(it, use);
            } else {
                shut(it);
            }
            atomic_store(&it->use, use_of(EMPTY));
        }
    }
}

/* ---- A batch ---- */

static size_t reap(struct io_uring *ring, struct bp_request *requests)
{
    struct io_uring_cqe *done[BP_URING_BATCH];
    unsigned count = io_uring_peek_batch_cqe(ring, done, BP_URING_BATCH);
    for (unsigned i = 0; i < count; i++) {
        requests[io_uring_cqe_get_data64(done[i])].result = done[i]->res;
    }
    io_uring_cq_advance(ring, count);
    return count;
}

/* What the kernel has taken is over. The results come through memory that is mapped, so that they are there even when
 * nobody can be asked any more. */
static void drain(struct io_uring *ring, struct bp_request *requests, size_t taken, size_t reaped)
{
    while (reaped < taken) {
        struct io_uring_cqe *done;
        int code = io_uring_wait_cqe_nr(ring, &done, (unsigned)(taken - reaped));
        reaped += reap(ring, requests);
        if (code < 0 && code != -EINTR && reaped < taken) {
            bp_kernel_sleep_ns(100000);
        }
    }
}

void bp_uring_run(struct bp_uring *it, int fd, bool write, struct bp_request *requests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct io_uring_sqe *entry = io_uring_get_sqe(&it->ring);
        if (write) {
            io_uring_prep_writev(entry, fd, requests[i].parts, (unsigned)requests[i].count, requests[i].offset);
        } else {
            io_uring_prep_readv(entry, fd, requests[i].parts, (unsigned)requests[i].count, requests[i].offset);
        }
        io_uring_sqe_set_data64(entry, i);
        requests[i].result = -EAGAIN;
    }
    size_t reaped = 0;
    while (reaped < count) {
        int code = io_uring_submit_and_wait(&it->ring, (unsigned)(count - reaped));
        reaped += reap(&it->ring, requests);
        if (code < 0 &&
            code != -EINTR) { /* no memory for a request, a filter that came later, a descriptor that went */
            drain(&it->ring, requests, count - io_uring_sq_ready(&it->ring), reaped);
            it->broken = true; /* entries that were not taken are left in it */
            if (code == -EPERM || code == -EACCES || code == -ENOSYS) {
                remember(code);
            }
            return;
        }
    }
}

/* ---- Whether there are any ---- */

int bp_uring_probe(void)
{
    struct bp_uring ring;
    int code = set_up(&ring);
    if (code == 0) {
        shut(&ring);
        return 0;
    }
    return bp_error(BUFPOOL_EUNSUPPORTED, "io_uring cannot be had here: it is refused (%s)%s", strerror(-code),
                    code == -EPERM || code == -EACCES
                        ? ": by a seccomp filter, as containers have one, or kernel.io_uring_disabled"
                    : code == -ENOSYS ? ": this kernel, or a seccomp filter, has none"
                    : code == -ENOMEM ? ": raise RLIMIT_MEMLOCK (ulimit -l)"
                    : code == -EMFILE ? ": raise RLIMIT_NOFILE (ulimit -n)"
                                      : "");
}

#else

struct bp_uring *bp_uring_take(void)
{
    return NULL;
}

void bp_uring_run(struct bp_uring *ring, int fd, bool write, struct bp_request *requests, size_t count)
{
    (void)ring, (void)fd, (void)write;
    for (size_t i = 0; i < count; i++) {
        requests[i].result = -EAGAIN;
    }
}

void bp_uring_give(struct bp_uring *ring)
{
    (void)ring;
}

void bp_uring_rest(void)
{
}

int bp_uring_probe(void)
{
    return bp_error(BUFPOOL_EUNSUPPORTED,
                    "io_uring cannot be had here: this build has none (liburing was not found; Debian: liburing-dev)");
}

#endif

int bufpool_probe_uring(void)
{
    return bp_uring_probe();
}
