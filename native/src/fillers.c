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

static int map_again(int fd, char *place, size_t size)
{
    int code = 0;
    for (size_t at = 0; code == 0 && at < size; at += BP_FILL_SIZE) {
        void *same;
        size_t step = size - at < BP_FILL_SIZE ? size - at : BP_FILL_SIZE;
        code = bp_kernel_mmap(place + at, step, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, &same);
    }
    return code;
}

int bp_fill_prepare_bytes(unsigned char byte, size_t size, const char **bytes)
{
    static struct {
        const char *bytes;
        size_t size;
    } made[2];
    size_t which = byte == BUFPOOL_FRESH ? 0 : 1;
    size = size < BP_FILL_SIZE ? BP_FILL_SIZE : size;
    if (made[which].size < size) { /* a smaller one stays: other pools fill from it */
        char granule[BP_GRANULE];
        memset(granule, byte, sizeof granule);
        void *place = NULL;
        int fd = bp_kernel_memfd("bufpool-pattern", BP_FILL_SIZE, 0);
        int code = fd < 0 ? fd : 0;
        for (size_t at = 0; code == 0 && at < BP_FILL_SIZE; at += sizeof granule) {
            code = bp_kernel_pwrite(fd, granule, sizeof granule, at);
        }
        if (code == 0) {
            code = bp_kernel_mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &place);
        }
        code = code < 0 ? code : map_again(fd, place, size);
        if (fd >= 0) {
            bp_kernel_close(fd);
        }
        if (code < 0) {
            if (place != NULL) {
                bp_kernel_munmap(place, size);
            }
            return bp_error(code, "cannot map %zu bytes of a memfd (memfd_create) for a fill pattern: %s", size,
                            strerror(-code));
        }
        made[which].bytes = place;
        made[which].size = size;
    }
    *bytes = made[which].bytes;
    return 0;
}
