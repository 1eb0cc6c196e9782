/*
 * mapping_ops.c: each way to give a page its frame or to take it away, as raw system calls without bufpool: the physical
 * floor of the cost model. A round brings PAGES pages into the state that an operation begins with, which is not timed,
 * and then applies the operation to all of them, so many pages a call. Everything is warm: the page tables exist, the
 * data (2 MiB) has just been read. Pages are of 4 KiB (MADV_NOHUGEPAGE) but in the operation on whole huge pages. What
 * fails ends the round, and the caller is told the errno. Kernel interfaces that the C library's headers may be too old
 * for are declared here.
 */
#include "must.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define PAGES ((size_t)512)
#define LENGTH (PAGES * PAGE)
#define HUGE ((size_t)2 << 20)
#define HUGE_PAGES ((size_t)8)
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103
#define SIGBUS_MODE (1 << 7)
#define MINOR_SHMEM (1 << 10)

struct move_request {
    uint64_t to, from, length, mode;
    int64_t moved;
};
#define REQUEST_MOVE _IOWR(UFFDIO, 0x05, struct move_request)

struct continue_request {
    uint64_t start, length, mode;
    int64_t mapped;
};
#define REQUEST_CONTINUE _IOWR(UFFDIO, 0x07, struct continue_request)

struct floor {
    char *source;         /* resident, filled with data */
    char *plain;          /* MADV_NOHUGEPAGE, not armed */
    char *between;        /* likewise, with a page before and one behind it in the same mapping */
    char *window, *stage; /* armed: missing pages */
    char *marked;         /* armed: write protection */
    char *shown, *alias;  /* one memfd; the first is armed: missing pages, and those in the file but not mapped */
    char *file;           /* another memfd, not armed */
    char *huge[2];        /* armed; whole huge pages go to and fro */
    size_t full;          /* which of the two has them */
    int uffd, shown_fd, file_fd;
    int self;                      /* a descriptor of this process */
    struct iovec scattered[PAGES]; /* the pages of plain, out of order */
};

/* ---- System calls on count pages from page `first`; each returns 0, or -1 and errno ---- */

static int zap(char *base, size_t first, size_t count)
{
    return madvise(base + first * PAGE, count * PAGE, MADV_DONTNEED);
}

static int copy(const struct floor *floor, char *base, size_t first, size_t count)
{
    struct uffdio_copy request = {
        .dst = (uintptr_t)base + first * PAGE,
        .src = (uintptr_t)floor->source + first * PAGE,
        .len = count * PAGE,
    };
    return ioctl(floor->uffd, UFFDIO_COPY, &request);
}

static int zero(const struct floor *floor, size_t first, size_t count)
{
    struct uffdio_zeropage request = {
        .range = {.start = (uintptr_t)floor->window + first * PAGE, .len = count * PAGE},
    };
    return ioctl(floor->uffd, UFFDIO_ZEROPAGE, &request);
}

static int move(const struct floor *floor, char *to, char *from, size_t offset, size_t length)
{
    struct move_request request = {.to = (uintptr_t)to + offset, .from = (uintptr_t)from + offset, .length = length};
    return ioctl(floor->uffd, REQUEST_MOVE, &request);
}

static int show(const struct floor *floor, size_t first, size_t count)
{
    struct continue_request request = {.start = (uintptr_t)floor->shown + first * PAGE, .length = count * PAGE};
    return ioctl(floor->uffd, REQUEST_CONTINUE, &request);
}

static int mark(const struct floor *floor, size_t first, size_t count, bool closed)
{
    struct uffdio_writeprotect request = {
        .range = {.start = (uintptr_t)floor->marked + first * PAGE, .len = count * PAGE},
        .mode = closed ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    return ioctl(floor->uffd, UFFDIO_WRITEPROTECT, &request);
}

static int punch(int fd, size_t first, size_t count)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE), (off_t)(count * PAGE));
}

static int touch(char *base, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        *(volatile char *)(base + i * PAGE) = 1;
    }
    return 0;
}

static int fill(const struct floor *floor, char *base, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        memcpy(base + i * PAGE, floor->source + i * PAGE, PAGE);
    }
    return 0;
}

/* ---- The operations: the state they begin with, and the work on a batch ---- */

static int nothing(struct floor *floor)
{
    (void)floor;
    return 0;
}

static int plain_full(struct floor *floor)
{
    return touch(floor->plain, 0, PAGES);
}

static int plain_empty(struct floor *floor)
{
    return zap(floor->plain, 0, PAGES);
}

static int window_empty(struct floor *floor)
{
    return zap(floor->window, 0, PAGES);
}

static int window_full(struct floor *floor)
{
    return window_empty(floor) | zap(floor->stage, 0, PAGES) | copy(floor, floor->window, 0, PAGES);
}

static int stage_full(struct floor *floor)
{
    return window_empty(floor) | zap(floor->stage, 0, PAGES) | copy(floor, floor->stage, 0, PAGES);
}

static int shown_full(struct floor *floor)
{
    return touch(floor->alias, 0, PAGES) | zap(floor->shown, 0, PAGES) | show(floor, 0, PAGES);
}

static int shown_hidden(struct floor *floor)
{
    return touch(floor->alias, 0, PAGES) | zap(floor->shown, 0, PAGES);
}

static int shown_empty(struct floor *floor)
{
    return punch(floor->shown_fd, 0, PAGES);
}

static int file_full(struct floor *floor)
{
    return touch(floor->file, 0, PAGES);
}

static int file_empty(struct floor *floor)
{
    return punch(floor->file_fd, 0, PAGES);
}

static int guard_off(struct floor *floor)
{
    return zap(floor->plain, 0, PAGES) | madvise(floor->plain, LENGTH, GUARD_REMOVE);
}

static int guard_on(struct floor *floor)
{
    return zap(floor->plain, 0, PAGES) | madvise(floor->plain, LENGTH, GUARD_INSTALL);
}

static int between_full(struct floor *floor)
{
    return touch(floor->between, 0, PAGES);
}

static int do_call(struct floor *floor, size_t first, size_t count)
{
    (void)floor, (void)first, (void)count;
    return syscall(SYS_getppid) < 0 ? -1 : 0;
}

static int do_memcpy(struct floor *floor, size_t first, size_t count)
{
    return fill(floor, floor->plain, first, count);
}

static int do_touch(struct floor *floor, size_t first, size_t count)
{
    return touch(floor->plain, first, count);
}

static int do_zap(struct floor *floor, size_t first, size_t count)
{
    return zap(floor->plain, first, count);
}

static int do_zap_scattered(struct floor *floor, size_t first, size_t count)
{
    long done = syscall(SYS_process_madvise, floor->self, floor->scattered + first, count, MADV_DONTNEED, 0);
    return done == (long)(count * PAGE) ? 0 : -1;
}

static int do_copy(struct floor *floor, size_t first, size_t count)
{
    return copy(floor, floor->window, first, count);
}

static int do_zero(struct floor *floor, size_t first, size_t count)
{
    return zero(floor, first, count);
}

static int do_move_in(struct floor *floor, size_t first, size_t count)
{
    return move(floor, floor->window, floor->stage, first * PAGE, count * PAGE);
}

static int do_move_out(struct floor *floor, size_t first, size_t count)
{
    return move(floor, floor->stage, floor->window, first * PAGE, count * PAGE);
}

static int do_move_huge(struct floor *floor, size_t first, size_t count)
{
    return move(floor, floor->huge[!floor->full], floor->huge[floor->full], first * HUGE, count * HUGE);
}

static int do_show(struct floor *floor, size_t first, size_t count)
{
    return show(floor, first, count);
}

static int do_hide(struct floor *floor, size_t first, size_t count)
{
    return zap(floor->shown, first, count);
}

static int do_copy_file(struct floor *floor, size_t first, size_t count)
{
    return copy(floor, floor->shown, first, count);
}

static int do_punch(struct floor *floor, size_t first, size_t count)
{
    return punch(floor->file_fd, first, count);
}

static int do_touch_file(struct floor *floor, size_t first, size_t count)
{
    return fill(floor, floor->file, first, count);
}

static int do_guard(struct floor *floor, size_t first, size_t count)
{
    return madvise(floor->plain + first * PAGE, count * PAGE, GUARD_INSTALL);
}

static int do_unguard(struct floor *floor, size_t first, size_t count)
{
    return madvise(floor->plain + first * PAGE, count * PAGE, GUARD_REMOVE);
}

static int do_mprotect(struct floor *floor, size_t first, size_t count)
{
    char *base = floor->between + first * PAGE;
    return mprotect(base, count * PAGE, PROT_NONE) | mprotect(base, count * PAGE, PROT_READ | PROT_WRITE);
}

static int do_mark(struct floor *floor, size_t first, size_t count)
{
    return mark(floor, first, count, true) | mark(floor, first, count, false);
}

enum { ONE = 1, BATCHES = 2, WHOLE = 4 }; /* pages one by one; also 64 and 512 in a call; whole huge pages */

static const struct operation {
    const char *name;
    int sizes;
    int (*prepare)(struct floor *);
    int (*work)(struct floor *, size_t first, size_t count);
} operations[] = {
    {"an empty system call", ONE, nothing, do_call},
    {"memcpy into a resident page", ONE, plain_full, do_memcpy},
    {"first touch of a word, anonymous", ONE, plain_empty, do_touch},
    {"first touch + memcpy, anonymous", ONE, plain_empty, do_memcpy},
    {"madvise(DONTNEED)", ONE | BATCHES, plain_full, do_zap},
    {"process_madvise(DONTNEED), scattered pages", ONE | BATCHES, plain_full, do_zap_scattered},
    {"UFFDIO_COPY", ONE | BATCHES, window_empty, do_copy},
    {"UFFDIO_ZEROPAGE", ONE | BATCHES, window_empty, do_zero},
    {"UFFDIO_MOVE in", ONE | BATCHES, stage_full, do_move_in},
    {"UFFDIO_MOVE out", ONE | BATCHES, window_full, do_move_out},
    {"UFFDIO_MOVE of a whole 2 MiB page", WHOLE, nothing, do_move_huge},
    {"shmem, first touch + memcpy", ONE, file_empty, do_touch_file},
    {"shmem, fallocate(PUNCH_HOLE)", ONE | BATCHES, file_full, do_punch},
    {"shmem, UFFDIO_COPY", ONE | BATCHES, shown_empty, do_copy_file},
    {"shmem, UFFDIO_CONTINUE", ONE | BATCHES, shown_hidden, do_show},
    {"shmem, madvise(DONTNEED) of the mapping", ONE | BATCHES, shown_full, do_hide},
    {"MADV_GUARD_INSTALL, empty page", ONE | BATCHES, guard_off, do_guard},
    {"MADV_GUARD_REMOVE", ONE | BATCHES, guard_on, do_unguard},
    {"mprotect off + on", ONE | BATCHES, between_full, do_mprotect},
    {"userfaultfd write-protect on + off", ONE | BATCHES, nothing, do_mark},
};

int mapping_count(void)
{
    return sizeof operations / sizeof operations[0];
}

const char *mapping_name(int operation)
{
    return operations[operation].name;
}

bool mapping_takes(int operation, uint64_t batch)
{
    return batch == 1 || operations[operation].sizes & BATCHES;
}

/* The bytes of the page that an operation is about. */
uint64_t mapping_size(int operation)
{
    return operations[operation].sizes & WHOLE ? HUGE : PAGE;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The ns a page takes, or -errno. */
double mapping_measure(void *opaque, int operation, uint64_t batch)
{
    struct floor *floor = opaque;
    const struct operation *op = &operations[operation];
    size_t pages = op->sizes & WHOLE ? HUGE_PAGES : PAGES;
    fill(floor, floor->between, 0, PAGES); /* the data is in the cache, as it is for every operation */
    if (op->prepare(floor) != 0) {
        return -errno;
    }
    double start = now();
    for (size_t first = 0; first < pages; first += batch) {
        if (op->work(floor, first, batch) != 0) {
            return -errno;
        }
    }
    double took = now() - start;
    floor->full ^= (op->sizes & WHOLE) != 0;
    return took / (double)pages;
}

/* ---- Set-up ---- */

static char *map(size_t length, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *base = mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        abort();
    }
    madvise(base, length, MADV_NOHUGEPAGE);
    return base;
}

static int memory_file(void)
{
    int fd = must_call(memfd_create("bench", MFD_CLOEXEC), "memfd_create");
    must_call(ftruncate(fd, LENGTH), "ftruncate");
    return fd;
}

static char *map_huge(void)
{
    char *base = map((HUGE_PAGES + 1) * HUGE, -1);
    size_t before = -(uintptr_t)base % HUGE;
    munmap(base, before);
    base += before;
    munmap(base + HUGE_PAGES * HUGE, HUGE - before);
    madvise(base, HUGE_PAGES * HUGE, MADV_HUGEPAGE);
    return base;
}

/* What the kernel does not know stays unarmed: the operations on it then say why they cannot be measured. */
static void arm(const struct floor *floor, char *base, size_t length, uint64_t mode)
{
    struct uffdio_register request = {.range = {.start = (uintptr_t)base, .len = length}, .mode = mode};
    if (ioctl(floor->uffd, UFFDIO_REGISTER, &request) != 0 && mode != UFFDIO_REGISTER_MODE_MISSING) {
        request.mode = UFFDIO_REGISTER_MODE_MISSING;
        ioctl(floor->uffd, UFFDIO_REGISTER, &request);
    }
}

static int open_uffd(void)
{
    static const uint64_t wanted[] = {SIGBUS_MODE | MINOR_SHMEM, SIGBUS_MODE};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
        struct uffdio_api api = {.api = UFFD_API, .features = wanted[i]};
        if (fd < 0 || ioctl(fd, UFFDIO_API, &api) == 0) {
            return fd;
        }
        close(fd);
    }
    return -1;
}

void *mapping_open(void)
{
    struct floor *floor = calloc(1, sizeof *floor);
    if (floor == NULL) {
        abort();
    }
    floor->uffd = open_uffd();
    floor->shown_fd = memory_file();
    floor->file_fd = memory_file();
    floor->source = map(LENGTH, -1);
    memset(floor->source, 'x', LENGTH);
    floor->plain = map(LENGTH, -1);
    floor->between = map(LENGTH + 2 * PAGE, -1) + PAGE;
    floor->window = map(LENGTH, -1);
    floor->stage = map(LENGTH, -1);
    floor->marked = map(LENGTH, -1);
    floor->shown = map(LENGTH, floor->shown_fd);
    floor->alias = map(LENGTH, floor->shown_fd);
    floor->file = map(LENGTH, floor->file_fd);
    floor->huge[0] = map_huge();
    floor->huge[1] = map_huge();
    memset(floor->huge[0], 'x', HUGE_PAGES * HUGE);
    memset(floor->marked, 'x', LENGTH);
    arm(floor, floor->window, LENGTH, UFFDIO_REGISTER_MODE_MISSING);
    arm(floor, floor->stage, LENGTH, UFFDIO_REGISTER_MODE_MISSING);
    arm(floor, floor->marked, LENGTH, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    arm(floor, floor->shown, LENGTH, UFFDIO_REGISTER_MODE_MISSING | 4 /* UFFDIO_REGISTER_MODE_MINOR */);
    arm(floor, floor->huge[0], HUGE_PAGES * HUGE, UFFDIO_REGISTER_MODE_MISSING);
    arm(floor, floor->huge[1], HUGE_PAGES * HUGE, UFFDIO_REGISTER_MODE_MISSING);
    floor->self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    for (size_t i = 0; i < PAGES; i++) { /* 37 and 512 have no common divisor: each page once, no two neighbours */
        floor->scattered[i] = (struct iovec){floor->plain + i * 37 % PAGES * PAGE, PAGE};
    }
    return floor;
}

void mapping_close(void *opaque)
{
    struct floor *floor = opaque;
    char *mappings[] = {floor->source, floor->plain, floor->window, floor->stage,
                        floor->marked, floor->shown, floor->alias,  floor->file};
    for (size_t i = 0; i < sizeof mappings / sizeof mappings[0]; i++) {
        munmap(mappings[i], LENGTH);
    }
    munmap(floor->between - PAGE, LENGTH + 2 * PAGE);
    munmap(floor->huge[0], HUGE_PAGES * HUGE);
    munmap(floor->huge[1], HUGE_PAGES * HUGE);
    int fds[] = {floor->uffd, floor->shown_fd, floor->file_fd, floor->self};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        close(fds[i]);
    }
    free(floor);
}

/* The range that has the whole huge pages now. */
void *mapping_huge(void *opaque)
{
    struct floor *floor = opaque;
    return floor->huge[floor->full];
}
