/*
 * file_io.c: pages from a file and to it, in batches. How: read_from and write_to of a pool; what an engine does with a pool
 * and no such calls (pread into a buffer that stays in the caches, then populate_many); and what it does on a plain mapping,
 * pread into the holes. Each batch is of other pages of the file than the one before, at random places or neighbours, and goes
 * to the same addresses, which have no frames when its clock starts: giving them back is not timed. Cold: the file has left the
 * page cache. One request a page, or one for all neighbours, on every side. What is taken: ns a page.
 */
#include "must.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define MOST 512

enum { OURS, POPULATE, PLAIN };

typedef struct file_io {
    int fd;
    bool cold;
    uint64_t pages, next, random;
    bufpool_pool *pool;
    char *plain, *buffer;
    uint64_t numbers[MOST], offsets[MOST];
} file_io;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static char *map(void)
{
    char *base = mmap(NULL, MOST * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must_call(base == MAP_FAILED ? -1 : 0, "mmap");
    must_call(madvise(base, MOST * PAGE, MADV_NOHUGEPAGE), "madvise");
    memset(base, 1, MOST * PAGE);
    return base;
}

/* NULL: the file system has no O_DIRECT. A new file is filled here, and on the disk. */
file_io *file_io_open(const char *path, uint64_t pages, bool direct, bool cold)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600);
    if (fd < 0 && direct && errno == EINVAL) {
        return NULL;
    }
    file_io *io = calloc(1, sizeof *io);
    must(io == NULL ? -ENOMEM : 0);
    *io = (file_io){
        .fd = must_call(fd, path), .cold = cold, .pages = pages, .random = 1, .plain = map(), .buffer = map()};
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MOST * PAGE;
    must(bufpool_open(&config, &io->pool));
    if (lseek(fd, 0, SEEK_END) == 0) {
        for (uint64_t i = 0; i < pages; i += MOST) {
            must_call(pwrite(fd, io->buffer, MOST * PAGE, (off_t)(i * PAGE)) == MOST * PAGE ? 0 : -1, "pwrite");
        }
        must_call(fsync(fd), "fsync");
    }
    for (uint64_t i = 0; i < MOST; i++) {
        io->numbers[i] = i;
        must(bufpool_allocate_at(io->pool, i, io->buffer, PAGE));
    }
    must(bufpool_evict_many(io->pool, MOST, io->numbers));
    return io;
}

void file_io_close(file_io *io)
{
    must(bufpool_close(io->pool));
    munmap(io->plain, MOST * PAGE);
    munmap(io->buffer, MOST * PAGE);
    close(io->fd);
    free(io);
}

/* Why there is no io_uring, or "". */
const char *file_io_no_uring(void)
{
    static char text[1024];
    text[0] = 0;
    if (bufpool_probe_uring() < 0) {
        bufpool_last_error(text, sizeof text);
    }
    return text;
}

static void choose(file_io *io, uint64_t batch, bool neighbours)
{
    io->random = io->random * 6364136223846793005u + 1442695040888963407u;
    uint64_t first = (io->random >> 33) % (io->pages - batch);
    for (uint64_t i = 0; i < batch; i++) {
        /* 2^k pages and an odd step: each once, no two neighbours */
        io->offsets[i] = (neighbours ? first + i : (first + i * 1789) % io->pages) * PAGE;
    }
    if (io->cold) {
        must_call(posix_fadvise(io->fd, 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    }
}

static void one_by_one(file_io *io, char *memory, uint64_t batch, bool neighbours, bool write)
{
    size_t length = neighbours ? batch * PAGE : PAGE;
    for (uint64_t i = 0; i < batch * PAGE; i += length) {
        off_t offset = (off_t)io->offsets[i / PAGE];
        ssize_t moved = write ? pwrite(io->fd, memory + i, length, offset) : pread(io->fd, memory + i, length, offset);
        must_call(moved == (ssize_t)length ? 0 : -1, write ? "pwrite" : "pread");
    }
}

double file_io_read(file_io *io, int how, uint64_t batch, bool neighbours)
{
    choose(io, batch, neighbours);
    if (how == PLAIN) {
        must_call(madvise(io->plain, batch * PAGE, MADV_DONTNEED), "madvise");
    }
    double start = now();
    if (how == OURS) {
        must(bufpool_read_from(io->pool, io->fd, batch, io->offsets, io->numbers, NULL));
    } else {
        one_by_one(io, how == PLAIN ? io->plain : io->buffer, batch, neighbours, false);
        if (how == POPULATE) {
            must(bufpool_populate_many(io->pool, batch, io->numbers, io->buffer));
        }
    }
    double taken = (now() - start) / (double)batch;
    if (how != PLAIN) {
        must(bufpool_evict_many(io->pool, batch, io->numbers));
    }
    return taken;
}

double file_io_write(file_io *io, int how, uint64_t batch, bool neighbours)
{
    if (how == OURS) {
        must(bufpool_read_from(io->pool, io->fd, batch, io->offsets, io->numbers, NULL));
    } else {
        memset(io->plain, 1, batch * PAGE);
    }
    choose(io, batch, neighbours);
    double start = now();
    if (how == OURS) {
        must(bufpool_write_to(io->pool, io->fd, batch, io->offsets, io->numbers, NULL));
    } else {
        one_by_one(io, io->plain, batch, neighbours, true);
    }
    double taken = (now() - start) / (double)batch;
    if (how == OURS) {
        must(bufpool_evict_many(io->pool, batch, io->numbers));
    }
    return taken;
}
