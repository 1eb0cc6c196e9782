/* fillers.c: making the sources, see fillers.h. */
#include "fillers.h"

#include "error.h"
#include "kernel.h"
#include "memory.h"

#include <bufpool/bufpool.h>
#include <string.h>
#include <sys/mman.h>

const void *bp_fill_zeros;
const void *bp_fill_poison;
int bp_fill_file = -1;

int bp_fill_prepare(void)
{
    static char poison[BP_GRANULE] __attribute__((aligned(BP_GRANULE)));
    if (bp_fill_zeros == NULL) {
        /* Never written, so all of it is the kernel's one page of zeros. */
        void *zeros;
        int code =
            bp_kernel_mmap(NULL, BP_FILL_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &zeros);
        if (code < 0) {
            return bp_error(code, "cannot map %zu bytes for a source of zeros: %s", BP_FILL_SIZE, strerror(-code));
        }
        memset(poison, BUFPOOL_POISON, sizeof poison);
        bp_fill_poison = poison;
        bp_fill_zeros = zeros;
    }
    return 0;
}

int bp_fill_prepare_file(void)
{
    if (bp_fill_file >= 0) {
        return 0;
    }
    int fd = bp_kernel_memfd("bufpool-poison", BP_FILL_SIZE, 0);
    int code = fd < 0 ? fd : 0;
    for (size_t at = 0; code == 0 && at < BP_FILL_SIZE; at += BP_GRANULE) {
        code = bp_kernel_pwrite(fd, bp_fill_poison, BP_GRANULE, at);
    }
    if (code < 0) {
        if (fd >= 0) {
            bp_kernel_close(fd);
        }
        return bp_error(code, "cannot create a memfd (memfd_create) of %zu bytes for the scratch pattern: %s",
                        BP_FILL_SIZE, strerror(-code));
    }
    bp_fill_file = fd;
    return 0;
}
