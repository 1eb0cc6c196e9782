/* test_adopt_sysv.c: a System V shared memory segment, adopted. */
#include "adopt.h"

#include <sys/ipc.h>
#include <sys/shm.h>

static struct mapping map(void)
{
    struct mapping mapping = {NULL, GRANULE, -1, "adopted shared", "System V", true};
    int id = shmget(IPC_PRIVATE, PAGES * GRANULE, IPC_CREAT | 0600);
    CHECK(id >= 0);
    mapping.base = shmat(id, NULL, 0);
    CHECK_OK(shmctl(id, IPC_RMID, NULL)); /* goes with its last mapping */
    CHECK(mapping.base != (void *)-1);
    return mapping;
}

int main(void)
{
    harness_begin();
    int id = shmget(IPC_PRIVATE, GRANULE, IPC_CREAT | 0600);
    if (id < 0) {
        printf("no System V shared memory here: %s\n", strerror(errno));
        return HARNESS_SKIP;
    }
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    return check_adoption(map);
}
