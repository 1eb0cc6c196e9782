/* thp.c: the nursery of huge frames, see thp.h. */
#include "thp.h"

#include "fillers.h"
#include "probe.h"
#include "space.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static bool is_huge(const struct bp_space *space, uintptr_t granule)
{
    return bp_kernel_is_huge(space->thp.pagemap, granule, space->granule) == 1;
}

/* Writes one granule into a fresh slot, if its first touch brings a huge page, of zeros. */
static int write_slot(const struct bp_space *space, uintptr_t slot, const void *data)
{
    char *frame = (char *)slot;
    /* The kernel clears a huge page towards the byte that was touched. Towards the first one it runs downwards through
     * memory, which took more than twice as long. */
    ((volatile char *)frame)[space->granule - 1] = 0;
    if (!is_huge(space, slot)) {
        return -ENOENT;
    }
    return data == NULL || bp_probe_copy(frame, data, space->granule) ? 0 : -EFAULT;
}

/* Empties a slot, its page table too, which would keep the slot's next frame small. false: it cannot be used again. */
static bool renew_slot(struct bp_space *space, uintptr_t slot)
{
    size_t length = space->granule;
    uintptr_t place;
    if (bp_space_map(space, slot, length, &place) < 0) {
        bp_kernel_discard((void *)slot, length);
    }
    bp_kernel_madvise((void *)slot, length, MADV_HUGEPAGE);
    return bp_kernel_mprotect((void *)slot, length, PROT_READ | PROT_WRITE) == 0;
}

static int fill_fresh(struct bp_space *space, uintptr_t granule, const void *data)
{
    int index = space->thp.nursery == 0 ? -1 : bp_slot_claim(space->thp.empty, 1);
    /* More threads than slots: a slot is held for as long as one copy takes. Bounded, as its thread may be stopped. */
    for (int patience = 0; space->thp.nursery != 0 && index < 0 && patience < 10000; patience++) {
        bp_kernel_sleep_ns(100000);
        index = bp_slot_claim(space->thp.empty, 1);
    }
    if (index < 0) {
        return -ENOENT;
    }
    uintptr_t slot = space->thp.nursery + (uintptr_t)index * space->granule;
    size_t moved = 0;
    int code = write_slot(space, slot, data);
    if (code == 0) {
        code = bp_kernel_uffd_move(space->uffd, granule, slot, space->granule, &moved);
        if (code == 0) {
            bp_way_took(&space->ways, BUFPOOL_WAY_HUGE_MOVE, 1);
        } else {
            bp_way_lost(&space->ways, code);
            code = moved > 0 || code == -EAGAIN ? -EAGAIN : -ENOENT;
        }
    }
    if (code == 0 || renew_slot(space, slot)) {
        bp_slot_release(space->thp.empty, index);
    }
    return code;
}

int bp_thp_populate(struct bp_space *space, uintptr_t granule, const void *data)
{
    bool look = atomic_load_explicit(&space->thp.doubtful, memory_order_relaxed);
    int code = bp_stash_take(space, granule, data != NULL ? data : bp_fill_zeros, false);
    if (code == -ENOENT) {
        look = true; /* a fresh frame costs far more than a look at it */
        code = fill_fresh(space, granule, data);
    }
    if (code == -EAGAIN) { /* half of it came over: a frame was split, or somebody had filled part of the hole */
        atomic_store(&space->thp.doubtful, true);
        bp_thp_zap(space, granule);
        code = -ENOENT;
    }
    if (code == 0 && look && !is_huge(space, granule)) {
        bp_thp_count_small(space);
    } else if (code == 0) {
        atomic_fetch_add_explicit(&space->huge_fills, 1, memory_order_relaxed);
    }
    return code;
}

void bp_thp_count_small(struct bp_space *space)
{
    atomic_store(&space->thp.doubtful, true);
    atomic_fetch_add_explicit(&space->small_fills, 1, memory_order_relaxed);
}

int bp_thp_zap(struct bp_space *space, uintptr_t granule)
{
    if (is_huge(space, granule)) {
        if (bp_stash_put(space, granule)) {
            return 0;
        }
    } else {
        if (!atomic_load(&space->thp.doubtful)) { /* it was taken for huge until now */
            bp_thp_count_small(space);
            atomic_fetch_sub_explicit(&space->huge_fills, 1, memory_order_relaxed);
        }
        bool restored = bp_space_restore(space, granule, space->granule) == 0;
        uintptr_t shown = bp_vault_shown(space, granule);
        if (restored && (shown == granule || bp_space_restore(space, shown, space->granule) == 0)) {
            bp_way_took(&space->ways, BUFPOOL_WAY_DROP, 1);
            return 0;
        }
    }
    atomic_store(&space->thp.doubtful, true);
    bp_way_took(&space->ways, BUFPOOL_WAY_DROP, 1);
    return bp_kernel_discard((void *)granule, space->granule);
}

/* ---- Opening ---- */

static const char *why_not_huge(char *buffer, size_t size)
{
    char text[64] = "";
    int fd = bp_kernel_open_read("/sys/kernel/mm/transparent_hugepage/enabled");
    if (fd == -ENOENT) {
        return "this kernel has none (CONFIG_TRANSPARENT_HUGEPAGE)";
    }
    ssize_t got = fd < 0 ? fd : bp_kernel_read(fd, text, sizeof text - 1);
    if (fd >= 0) {
        bp_kernel_close(fd);
    }
    text[got > 0 ? strcspn(text, "\n") : 0] = 0;
    if (strstr(text, "[never]") != NULL) {
        snprintf(buffer, size, "/sys/kernel/mm/transparent_hugepage/enabled is \"%s\": it has to be madvise or always",
                 text);
        return buffer;
    }
    return "none could be made (memory in pieces, PR_SET_THP_DISABLE) or moved (UFFDIO_MOVE takes Linux 6.8)";
}

/* One granule there and away again, on the first page of the pool. */
static void try_out(struct bp_space *space)
{
    char buffer[160];
    uintptr_t granule = bp_vault_home(space, space->base);
    int code = fill_fresh(space, granule, NULL);
    bool huge = code == 0 && is_huge(space, granule);
    if (huge && bp_stash_put(space, granule)) { /* and by way of the stash? */
        code = bp_stash_take(space, granule, bp_fill_zeros, true);
        atomic_store(&space->thp.doubtful, code < 0 || !is_huge(space, granule));
    }
    for (int way = 0; way < BUFPOOL_WAYS; way++) { /* of pages only */
        atomic_store(&space->ways.granules[way], 0);
    }
    if ((code == 0 || code == -EAGAIN) && bp_space_restore(space, granule, space->granule) < 0) {
        bp_kernel_discard((void *)granule, space->granule);
    }
    if (!huge) {
        bp_space_note(space, "small pages take the place of huge ones at open: %s",
                      why_not_huge(buffer, sizeof buffer));
    }
}

static void stage(struct bp_space *space)
{
    struct bp_thp *thp = &space->thp;
    size_t length = BP_NURSERY_SLOTS * space->granule;
    uintptr_t base;
    thp->pagemap = bp_kernel_open_pagemap();
    if (thp->pagemap < 0) {
        bp_space_note(space, "no huge pages: /proc/self/pagemap cannot be opened: %s", strerror(-thp->pagemap));
        thp->pagemap = -1;
        return;
    }
    if (bp_stash_map(space, length, space->granule, &thp->place, &thp->mapped, &base) < 0) {
        bp_thp_close(space);
        bp_space_note(space, "no huge pages: no addresses for a nursery of %zu bytes", length);
        return;
    }
    thp->nursery = base;
    bp_kernel_madvise((void *)base, length, MADV_HUGEPAGE);
    if (bp_kernel_mprotect((void *)base, length, PROT_READ | PROT_WRITE) < 0) {
        bp_thp_close(space);
        bp_space_note(space, "no huge pages: the nursery cannot be made writable");
        return;
    }
    atomic_store(&thp->empty[0], (UINT64_C(1) << BP_NURSERY_SLOTS) - 1);
    bp_stash_open(space, BP_STASH_HUGE);
}

void bp_thp_open(struct bp_space *space)
{
    stage(space);
    if (space->thp.nursery != 0) {
        try_out(space);
    }
}

void bp_thp_open_again(struct bp_space *space)
{
    stage(space);
}

void bp_thp_forget(struct bp_thp *thp)
{
    thp->nursery = 0;
    atomic_store(&thp->empty[0], 0);
    if (thp->pagemap >= 0) { /* it shows the parent's frames */
        bp_kernel_close_kept(thp->pagemap);
        thp->pagemap = -1;
    }
}

void bp_thp_close(struct bp_space *space)
{
    struct bp_thp *thp = &space->thp;
    if (thp->nursery != 0) {
        bp_kernel_munmap(thp->place, thp->mapped);
        thp->nursery = 0;
    }
    if (thp->pagemap >= 0) {
        bp_kernel_close_kept(thp->pagemap);
        thp->pagemap = -1;
    }
}
