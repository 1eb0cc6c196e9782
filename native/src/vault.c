/* vault.c: moving the frames of closed pages out of sight and back, see vault.h. */
#include "vault.h"

#include "fillers.h"
#include "space.h"

#include <errno.h>

#define PATIENCE 100 /* tries, of 100 us: as long as another thread's fork, or the end of a device's work, may last */

int bp_vault_open(struct bp_space *space)
{
    struct bp_vault *vault = &space->vault;
    uintptr_t base;
    int code = bp_stash_map(space, space->capacity, space->granule, &vault->place, &vault->mapped, &base);
    if (code < 0) {
        return code;
    }
    code = bp_kernel_uffd_register_closing(space->uffd, base, space->capacity, 0);
    if (code < 0) {
        bp_kernel_munmap(vault->place, vault->mapped);
    } else {
        vault->base = base;
    }
    return code;
}

void bp_vault_close(struct bp_vault *vault)
{
    if (vault->base != 0) {
        bp_kernel_munmap(vault->place, vault->mapped);
        vault->base = 0;
    }
}

uintptr_t bp_vault_home(const struct bp_space *space, uintptr_t address)
{
    return space->vault.base == 0 ? address : address - space->base + space->vault.base;
}

uintptr_t bp_vault_shown(const struct bp_space *space, uintptr_t home)
{
    return space->vault.base == 0 ? home : home - space->vault.base + space->base;
}

/*
 * Granule by granule: where the host has split one mapping between two of them, it does not matter. *done: bytes. back:
 * undoes a move that has ended somewhere within length. *partly: more may have been moved than *done says.
 *
 * Of small pages the kernel (seen on Linux 6.18, with much else going on) may move more than it says: 349 pages told with
 * EAGAIN, or none with EEXIST, and all 512 gone. What exists there has come from here if it can go back, that is, if
 * nothing is here. Else it is a stray's pattern.
 */
static int move(const struct bp_space *space, uintptr_t to, uintptr_t from, size_t length, bool back, size_t *done,
                bool *partly)
{
    int patience = PATIENCE;
    *partly = back;
    for (*done = 0; *done < length;) {
        size_t moved;
        size_t left = length - *done;
        size_t step = space->granule - *done % space->granule;
        int code = bp_kernel_uffd_move(space->uffd, to + *done, from + *done, step < left ? step : left, &moved);
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
            code = bp_kernel_uffd_move(space->uffd, from + *done, to + *done, BP_GRANULE, &moved);
            *partly = *partly || code != -EEXIST;
        }
        if (code < 0) {
            if ((code != -EAGAIN && code != -EINTR && code != -EBUSY) || patience-- == 0) {
                return code;
            }
            *partly = true;
            bp_kernel_sleep_ns(100000);
        }
    }
    return 0;
}

int bp_vault_try(struct bp_space *space)
{
    uintptr_t home = bp_vault_home(space, space->base);
    size_t done;
    int code = bp_kernel_uffd_copy(space->uffd, home, bp_fill_zeros, BP_GRANULE, &done);
    if (code == 0) {
        code = bp_kernel_uffd_move(space->uffd, space->base, home, BP_GRANULE, &done);
    }
    if (code == 0) {
        code = bp_kernel_uffd_move(space->uffd, home, space->base, BP_GRANULE, &done);
    }
    /* Their page tables, too, which would keep huge frames small. */
    int cleared = bp_space_restore(space, space->base, space->granule);
    int emptied = bp_space_restore(space, home, space->granule);
    return code < 0 ? code : cleared < 0 ? cleared : emptied;
}

/* All of it, or none. */
static int move_whole(const struct bp_space *space, uintptr_t to, uintptr_t from, size_t length)
{
    size_t done;
    bool partly;
    int code = move(space, to, from, length, false, &done, &partly);
    if (code < 0 && (done > 0 || partly)) {
        size_t granule_end = (done / space->granule + 1) * space->granule; /* of it more may have moved than was told */
        move(space, from, to, granule_end < length ? granule_end : length, true, &done, &partly);
    }
    return code;
}

int bp_vault_show(struct bp_space *space, uintptr_t address, size_t length, bool writable)
{
    uintptr_t home = bp_vault_home(space, address);
    int code = move_whole(space, address, home, length);
    if (code == 0 && !writable) {
        code = bp_kernel_uffd_protect(space->uffd, address, length, 1);
        if (code < 0) {
            move_whole(space, home, address, length);
        }
    }
    return code;
}

int bp_vault_hide(struct bp_space *space, uintptr_t address, size_t length, bool writable)
{
    int code = move_whole(space, bp_vault_home(space, address), address, length);
    if (code < 0 && !writable) { /* what was moved, and back again, is writable now */
        bp_kernel_uffd_protect(space->uffd, address, length, 1);
    }
    return code;
}
