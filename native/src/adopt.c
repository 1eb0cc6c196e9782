/* adopt.c: making a pool of memory that the program has mapped itself. */
#include "config.h"
#include "error.h"
#include "mapping.h"
#include "registry.h"

#include <errno.h>
#include <string.h>

static int check_range(const void *base, uint64_t length)
{
    uintptr_t address = (uintptr_t)base;
    if (address == 0 || address % BP_GRANULE != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "base is %p: it has to be the address of a page, a multiple of %d", base,
                        BP_GRANULE);
    }
    if (length == 0 || length % BP_GRANULE != 0 || address + length < address) {
        return bp_error(BUFPOOL_EARGUMENT, "length is %llu bytes: it has to be whole pages, a multiple of %d",
                        (unsigned long long)length, BP_GRANULE);
    }
    return 0;
}

static int check_granule(const void *base, uint64_t length, uint64_t granule)
{
    if (((uintptr_t)base | length) % granule != 0) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "base is %p and length %llu bytes: both have to be multiples of %llu, the size of the mapping's "
            "pages",
            base, (unsigned long long)length, (unsigned long long)granule);
    }
    return 0;
}

/* Is the descriptor, if there is one, of the file that is mapped? */
static int check_file(int fd, const struct bp_mapping *mapping)
{
    uint64_t id[2];
    if (fd < 0) {
        return 0;
    }
    int code = bp_kernel_identify(fd, id);
    if (code < 0) {
        return bp_error(code, "descriptor %d cannot be looked at: %s", fd, strerror(-code));
    }
    if (id[0] != mapping->id[0] || id[1] != mapping->id[1]) {
        return bp_error(BUFPOOL_EARGUMENT, "descriptor %d is not the memory that is mapped there, which is %s%s", fd,
                        mapping->backing, mapping->shared ? ", of another file" : ": pass -1");
    }
    return 0;
}

int bufpool_adopt(void *base, uint64_t length, int fd, const bufpool_config *given, bufpool_pool **pool)
{
    struct bp_mapping mapping;
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass where the pool is to be stored");
    }
    int code = check_range(base, length);
    if (code == 0) {
        bp_registry_lock();
        code = bp_registry_check_vacant((uintptr_t)base, length);
        bp_registry_unlock();
    }
    code = code < 0 ? code : bp_mapping_look((uintptr_t)base, length, &mapping);
    code = code < 0 ? code : check_granule(base, length, mapping.granule);
    code = code < 0 ? code : check_file(fd, &mapping);
    if (code < 0) {
        return code;
    }
    struct bp_adoption adoption = {(uintptr_t)base, length, mapping.granule,
                                   bp_memory_adopted(mapping.hugetlb, mapping.shared), mapping.backing};
    struct bp_config config;
    code = bp_config_check_adoption(given, &adoption, &config);
    return code < 0 ? code : bp_pool_open(&config, pool);
}
