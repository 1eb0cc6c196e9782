/* test_adopt_shared.c: shared anonymous memory and a memfd of the program's own, adopted. */
#include "adopt.h"

static struct mapping map_anonymous(void)
{
    return map_memory(GRANULE, MAP_SHARED | MAP_ANONYMOUS, -1, "adopted shared", "shared anonymous");
}

static struct mapping map_memfd(void)
{
    int fd = memfd_create("buffers", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_OK(ftruncate(fd, PAGES * GRANULE));
    return map_memory(GRANULE, MAP_SHARED, fd, "adopted shared", "memfd");
}

int main(void)
{
    harness_begin();
    check_adoption(map_anonymous);
    return check_adoption(map_memfd);
}
