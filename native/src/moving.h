/*
 * moving.h: moving frames from one range of addresses to another, all of them or none (UFFDIO_MOVE, Linux 6.8).
 *
 * Of small pages the kernel (seen on Linux 6.18, with much else going on) may move more than it says: 349 pages told with
 * EAGAIN, or none with EEXIST, and all 512 gone. What exists there has come from here if it can go back, that is, if
 * nothing is here. Else it is a stray's pattern, or somebody's. So a destination is never emptied before that was tried:
 * it may have the only copy.
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

/* *done: bytes. back: undoes a move that has ended somewhere within length. *partly: more may have been moved than *done
 * says. */
static inline int bp_move(const struct bp_moving *how, uintptr_t to, uintptr_t from, size_t length, bool back,
                          size_t *done, bool *partly)
{
    int patience = how->patience;
    *partly = back;
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
        if (back && (code == -EEXIST || code == -ENOENT)) {
            *done += BP_GRANULE;
            continue;
        }
        if (code == -EEXIST) { /* to be moved once more, and told */
            code = bp_kernel_uffd_move(how->uffd, from + *done, to + *done, BP_GRANULE, &moved);
            *partly = *partly || code != -EEXIST;
        }
        if (code < 0) {
            bool passes = code == -EAGAIN || code == -EINTR || (code == -EBUSY && (how->waits || back));
            if (!passes || patience-- == 0) {
                return code;
            }
            *partly = true;
            bp_kernel_sleep_ns(100000);
        }
    }
    return 0;
}

/* All of it, or none: 0, or why not. */
static inline int bp_move_whole(const struct bp_moving *how, uintptr_t to, uintptr_t from, size_t length)
{
    size_t done;
    bool partly;
    int code = bp_move(how, to, from, length, false, &done, &partly);
    if (code < 0 && (done > 0 || partly)) {
        size_t step_end = (done / how->step + 1) * how->step; /* of it more may have been moved than was told */
        bp_move(how, from, to, step_end < length ? step_end : length, true, &done, &partly);
    }
    return code;
}

#endif
