/* Handles made to order, to hurt who attaches: files whose length changes between the looks at it, tables of huge pages, and
 * a lease that whoever opens the file would wait for. */
#include "forged.h"
#include "harness.h"
#include "kernel.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif
#define HUGE_PAGE (UINT64_C(2) << 20)

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;
static struct bp_constants genuine;

static int make(uint64_t length, unsigned flags)
{
    int fd = memfd_create("made", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    CHECK(fd >= 0);
    CHECK_OK(ftruncate(fd, (off_t)length));
    return fd;
}

static void seal(int fd)
{
    CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
}

static void write_header(int fd, struct bp_constants *constants)
{
    constants->checksum = checksum(constants);
    void *place = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); /* no huge page knows write(2) */
    CHECK(place != MAP_FAILED);
    memcpy(place, constants, sizeof *constants);
    CHECK_OK(munmap(place, HUGE_PAGE));
}

static void refused(bufpool_handle given, int code, const char *words)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    int fds = count_fds();
    config.on_fault = "resume";
    CHECK_IS(bufpool_attach(&config, &given, &pool), ==, code);
    CHECK_HAS(last_error(), words);
    CHECK(pool == NULL);
    CHECK_IS(count_fds(), ==, fds);
}

/* ---- Sealed when it is too short, between the look at its length and that at its seals ---- */

static uint64_t late_id[2];
static int late = -1;

int __real_bp_kernel_file_size(int fd, uint64_t *length, uint64_t *frames);
int __wrap_bp_kernel_file_size(int fd, uint64_t *length, uint64_t *frames);

int __wrap_bp_kernel_file_size(int fd, uint64_t *length, uint64_t *frames)
{
    uint64_t id[2];
    int code = __real_bp_kernel_file_size(fd, length, frames);
    if (late >= 0 && bp_kernel_identify(fd, id) == 0 && id[0] == late_id[0] && id[1] == late_id[1]) {
        CHECK_OK(ftruncate(late, 4096));
        seal(late);
        late = -1;
    }
    return code;
}

static void be_late(int fd)
{
    CHECK_OK(bp_kernel_identify(fd, late_id));
    late = fd;
}

static void tables_sealed_late(void)
{
    int tables = make(genuine.file_size, 0);
    CHECK_IS(pwrite(tables, &genuine, sizeof genuine, 0), ==, sizeof genuine);
    be_late(tables);
    refused((bufpool_handle){sizeof handle, handle.memory, tables}, BUFPOOL_EARGUMENT, "sealed");
    close(tables);
}

static void memory_sealed_late(void)
{
    struct bp_constants constants = genuine;
    int memory = make(genuine.capacity, 0);
    int tables = make(genuine.file_size, 0);
    seal(tables);
    CHECK_OK(bp_kernel_identify(memory, constants.file));
    constants.checksum = checksum(&constants);
    CHECK_IS(pwrite(tables, &constants, sizeof constants, 0), ==, sizeof constants);
    be_late(memory);
    refused((bufpool_handle){sizeof handle, memory, tables}, BUFPOOL_EARGUMENT, "sealed");
    close(memory);
    close(tables);
}

/* ---- Tables of huge pages ---- */

/* Tables of so many pages are whole huge pages. */
static void huge_tables(void)
{
    struct bp_constants constants = genuine;
    uint64_t rest = bp_tables_provenance(&genuine) -
                    bp_pages_size(genuine.capacity / genuine.page_size, genuine.rest) / 4096 * 4096;
    uint64_t pages = (HUGE_PAGE - rest) / 17 * 8;
    while (constants.capacity = pages * GRANULE, bp_tables_provenance(&constants) < HUGE_PAGE) {
        pages += 64;
    }
    CHECK_IS(bp_tables_provenance(&constants), ==, HUGE_PAGE);
    constants.file_size = HUGE_PAGE;
    int memory = make(constants.capacity, 0);
    seal(memory);
    int tables = memfd_create("made", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (tables < 0 || ftruncate(tables, (off_t)HUGE_PAGE) != 0 || fallocate(tables, 0, 0, (off_t)HUGE_PAGE) != 0) {
        printf("no huge page to make tables of\n");
        return;
    }
    seal(tables);
    CHECK_OK(bp_kernel_identify(memory, constants.file));
    write_header(tables, &constants);
    refused((bufpool_handle){sizeof handle, memory, tables}, BUFPOOL_EARGUMENT, "huge pages");
    close(memory);
    close(tables);
}

/* ---- A lease ---- */

static void lease(void)
{
    int made = make(genuine.file_size, 0);
    CHECK_IS(pwrite(made, &genuine, sizeof genuine, 0), ==, sizeof genuine);
    seal(made);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", made);
    int tables = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(tables >= 0);
    close(made);
    signal(SIGIO, SIG_IGN);
    if (fcntl(tables, F_SETLEASE, F_RDLCK) != 0) {
        printf("no lease on a memfd: %s\n", strerror(errno));
    } else {
        refused((bufpool_handle){sizeof handle, handle.memory, tables}, -EAGAIN, "cannot reserve the page states");
    }
    close(tables);
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    bufpool_pool *pool = open_pool_fork("shared", "uffd", "resume", 2 * MIB, GRANULE, "exclude");
    CHECK_OK(bufpool_share(pool, &handle));
    CHECK_IS(pread(handle.tables, &genuine, sizeof genuine, 0), ==, sizeof genuine);
    tables_sealed_late();
    memory_sealed_late();
    huge_tables();
    lease();
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
    return 0;
}
