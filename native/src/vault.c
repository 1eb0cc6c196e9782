/* vault.c: moving the frames of closed pages out of sight and back, see vault.h. */
#include "vault.h"

#include "fillers.h"
#include "moving.h"
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

/* Granule by granule: where the host has split one mapping between two of them, it does not matter. */
static int move_whole(const struct bp_space *space, uintptr_t to, uintptr_t from, size_t length)
{
    struct bp_moving how = {.uffd = space->uffd, .step = space->granule, .patience = PATIENCE, .waits = true};
    return bp_move_whole(&how, to, from, length);
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
