/*
 * moving.h: moving frames from one range of addresses to another, all of them or none (UFFDIO_MOVE, Linux 6.8).
 *
 * Of small pages the kernel (seen on Linux 6.18, with much else going on) may move more than it says: 349 pages told with
 * EAGAIN, or none with EEXIST, and all 512 gone. What exists there has come from here if it can go back, that is, if
 * nothing is here. Else it is a stray's pattern, or somebody's. So a destination is never emptied before that was tried:
 * it may have the only copy.
 *
 * A frame that has been moved can be somebody's a moment later (a device that a stray address was given to), so that it
 * cannot go back: then its content goes back, by a copy, and the frame is that somebody's alone.
 *
 * Both ranges are the caller's, whole granules. Async-signal-safe.
 */
#ifndef BP_MOVING_H
#define BP_MOVING_H

#include "kernel.h"
#include "memory.h"

#include <errno.h>
#include <stdbool.h>

/* How it is to be tried. */
struct bp_moving {
    int uffd;
    size_t step;  /* bytes that one request may ask for: it ends where the host has split a mapping */
    int patience; /* tries, of 100 us, at what may pass: another thread's fork, the end of a device's work */
    bool waits;   /* is EBUSY such a thing? After a fork it lasts until the page is written to */
};

static inline bool bp_move_passes(const struct bp_moving *how, int code)
{
    return code == -EAGAIN || code == -EINTR || (code == -EBUSY && how->waits);
}

/* *done: bytes. *partly: more may have been moved than *done says. */
static inline int bp_move_there(const struct bp_moving *how, uintptr_t to, uintptr_t from, size_t length, size_t *done,
                                bool *partly)
{
    int patience = how->patience;
    *partly = false;
    for (*done = 0; *done < length;) {
        size_t moved;
        size_t left = length - *done;
        size_t step = how->step - *done % how->step;
        int code = bp_kernel_uffd_move(how->uffd, to + *done, from + *done, step < left ? step : left, &moved);
        *done += moved;
        if (code == 0 || moved > 0) {
            *partly = *partly || code < 0;
            continue;
        }
        if (code == -EEXIST) { /* to be moved once more, and told */
            code = bp_kernel_uffd_move(how->uffd, from + *done, to + *done, BP_GRANULE, &moved);
            *partly = *partly || code != -EEXIST;
        }
        if (code < 0) {
            if (!bp_move_passes(how, code) || patience-- == 0) {
                return code;
            }
            *partly = true;
            bp_kernel_sleep_ns(100000);
        }
    }
    return 0;
}

/* One granule, that does not go back, is copied. -EEXIST: it is here, and what is there is somebody else's. */
static inline int bp_move_copy_back(const struct bp_moving *how, uintptr_t to, uintptr_t from)
{
    size_t copied;
    int code = bp_kernel_uffd_copy(how->uffd, to, (const void *)from, BP_GRANULE, &copied);
    for (int patience = 100; (code == -EAGAIN || code == -EINTR || code == -ENOMEM) && patience > 0; patience--) {
        bp_kernel_sleep_ns(100000);
        code = bp_kernel_uffd_copy(how->uffd, to, (const void *)from, BP_GRANULE, &copied);
    }
    return code == 0 ? bp_kernel_discard((void *)from, BP_GRANULE) : code;
}

/* Undoes what has ended somewhere within length. `to` is where it came from. What a request has refused is asked for by the
 * granule, which no split mapping is the reason for then. */
static inline void bp_move_back(const struct bp_moving *how, uintptr_t to, uintptr_t from, size_t length)
{
    int patience = how->patience;
    bool alone = false;
    for (size_t done = 0; done < length;) {
        size_t moved;
        size_t left = length - done;
        size_t step = alone ? BP_GRANULE : how->step - done % how->step;
        int code = bp_kernel_uffd_move(how->uffd, to + done, from + done, step < left ? step : left, &moved);
        done += moved;
        if (code == 0 || moved > 0) {
            alone = false;
            continue;
        }
        if (!alone) {
            alone = true;
            continue;
        }
        if ((bp_move_passes(how, code) || code == -EBUSY) && patience-- > 0) {
            bp_kernel_sleep_ns(100000);
            continue;
        }
        if (code != -ENOENT) {
            bp_move_copy_back(how, to + done, from + done);
        }
        done += BP_GRANULE;
        alone = false;
    }
}

/* All of it, or none: 0, or why not. */
static inline int bp_move_whole(const struct bp_moving *how, uintptr_t to, uintptr_t from, size_t length)
{
    size_t done;
    bool partly;
    int code = bp_move_there(how, to, from, length, &done, &partly);
    if (code < 0 && (done > 0 || partly)) {
        size_t step_end = (done / how->step + 1) * how->step; /* of it more may have been moved than was told */
        bp_move_back(how, from, to, step_end < length ? step_end : length);
    }
    return code;
}

#endif
