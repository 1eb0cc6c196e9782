/* test_huge_adopt.c: huge pages of the program's own, adopted: a memfd, shared anonymous, System V, and private. */
#include "adopt.h"

#include <sys/ipc.h>
#include <sys/shm.h>

#define NEEDED (3 * PAGES) /* children copy private ones */

static struct mapping map_memfd(void)
{
    int fd = memfd_create("buffers", MFD_CLOEXEC | MFD_HUGETLB);
    CHECK(fd >= 0);
    CHECK_OK(ftruncate(fd, PAGES * HUGE_PAGE));
    return map_memory(HUGE_PAGE, MAP_SHARED, fd, "adopted hugetlb", "memfd");
}

static struct mapping map_anonymous(void)
{
    return map_memory(HUGE_PAGE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, "adopted hugetlb", "shared anonymous");
}

static struct mapping map_private(void)
{
    return map_memory(HUGE_PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, "adopted hugetlb", "private anonymous");
}

static struct mapping map_sysv(void)
{
    struct mapping mapping = {NULL, HUGE_PAGE, -1, "adopted hugetlb", "System V", true};
    int id = shmget(IPC_PRIVATE, PAGES * HUGE_PAGE, IPC_CREAT | SHM_HUGETLB | 0600);
    CHECK(id >= 0);
    mapping.base = shmat(id, NULL, 0);
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    CHECK(mapping.base != (void *)-1);
    return mapping;
}

static int run(void)
{
    if (read_setting(FREE_HUGEPAGES) < NEEDED) {
        printf("%d huge pages of 2 MiB are needed, and setting them aside takes root\n", NEEDED);
        return HARNESS_SKIP;
    }
    check_adoption(map_memfd);
    check_adoption(map_anonymous);
    check_adoption(map_private);
    int id = shmget(IPC_PRIVATE, HUGE_PAGE, IPC_CREAT | SHM_HUGETLB | 0600);
    if (id < 0) {
        printf("skipped System V: %s\n", strerror(errno));
        return 0;
    }
    CHECK_OK(shmctl(id, IPC_RMID, NULL));
    return check_adoption(map_sysv);
}

int main(void)
{
    return with_huge_pages(NEEDED, run);
}
