/* lazy.c: large tables of which only what is touched takes memory, see lazy.h. */
#include "lazy.h"

#include "kernel.h"

#include <sys/mman.h>

static int map(size_t size, int flags, int fd, uint64_t offset, void **place)
{
    /* Unlocked while inaccessible: under mlockall(MCL_FUTURE) a writable mapping would be filled whole. */
    int code = bp_kernel_mmap_file(NULL, size, PROT_NONE, flags | MAP_NORESERVE, fd, offset, place);
    if (code < 0) {
        return code;
    }
    munlock(*place, size);
    code = bp_kernel_mprotect(*place, size, PROT_READ | PROT_WRITE);
    if (code < 0) {
        bp_kernel_munmap(*place, size);
        return code;
    }
    bp_kernel_madvise(*place, size, MADV_NOHUGEPAGE); /* "only where touched" means 4 KiB, not 2 MiB */
    return 0;
}

int bp_lazy_map(size_t size, void **place)
{
    return map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, place);
}

int bp_lazy_once(_Atomic(void *) *own, size_t size, void **place)
{
    void *known = atomic_load(own);
    if (known == NULL) {
        int code = bp_lazy_map(size, place);
        if (code < 0 || atomic_compare_exchange_strong(own, &known, *place)) {
            return code;
        }
        bp_kernel_munmap(*place, size); /* another thread was first */
    }
    *place = known;
    return 0;
}

int bp_lazy_map_file(int fd, uint64_t offset, size_t size, void **place)
{
    int code = map(size, MAP_SHARED, fd, offset, place);
    if (code == 0) { /* a dump reads, and so takes memory for, what was never touched of a file: see postmortem.c */
        bp_kernel_madvise(*place, size, MADV_DONTDUMP);
    }
    return code;
}
