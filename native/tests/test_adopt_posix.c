/* test_adopt_posix.c: POSIX shared memory (shm_open), a file on the tmpfs at /dev/shm, adopted. */
#include "adopt.h"

static struct mapping map(void)
{
    char name[64];
    snprintf(name, sizeof name, "/bufpool-adopt-%d", (int)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK_OK(shm_unlink(name));
    CHECK_OK(ftruncate(fd, PAGES * GRANULE));
    return map_memory(GRANULE, MAP_SHARED, fd, "adopted shared", "file on tmpfs");
}

int main(void)
{
    harness_begin();
    if (access("/dev/shm", W_OK) != 0) {
        printf("no POSIX shared memory here: /dev/shm cannot be written to: %s\n", strerror(errno));
        return HARNESS_SKIP;
    }
    return check_adoption(map);
}
