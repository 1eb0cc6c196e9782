/*
 * processes.c: memory that several processes have: a pool that they attach to, beside a file that they map. The
 * processes are children of the bench, new for each round, and without the pool until they attach to it.
 */
#include "must.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define LIVE 64 /* pages that a process has at a time */
#define MOST 8  /* processes */

struct crew {
    pthread_barrier_t ready;
    uint64_t begun[MOST], ended[MOST];
};

struct work {
    const int *fds; /* of the pool, or: */
    int fd;         /* of the plain file */
    uint64_t pages; /* of that, for each process */
    uint64_t count; /* pages that each process fills and frees */
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* For others to attach to; fds: memory and tables, the caller's to close. */
bufpool_pool *pool_shared(uint64_t pages, int fds[2])
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    bufpool_pool *pool;
    config.capacity = pages * PAGE;
    config.memory = "shared";
    config.fork = "exclude";
    must(bufpool_open(&config, &pool));
    must(bufpool_share(pool, &handle));
    fds[0] = handle.memory;
    fds[1] = handle.tables;
    return pool;
}

bufpool_pool *pool_attach(const int fds[2])
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_handle handle = {sizeof handle, fds[0], fds[1]};
    bufpool_pool *pool;
    config.fork = "exclude";
    must(bufpool_attach(&config, &handle, &pool));
    return pool;
}

static char *map(int fd, uint64_t pages)
{
    char *base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        must_call(-1, "mmap");
    }
    return base;
}

/* ---- Processes, and when the part of them that counts begins and ends ---- */

static void begin(struct crew *crew, unsigned number)
{
    pthread_barrier_wait(&crew->ready);
    crew->begun[number] = now();
}

static void end(struct crew *crew, unsigned number)
{
    crew->ended[number] = now();
}

/* Returns the ns from the first one's begin() to the last one's end(). */
static double measure(void (*process)(struct crew *, unsigned, const struct work *), const struct work *work,
                      unsigned processes)
{
    struct crew *crew = mmap(NULL, sizeof *crew, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t shared;
    if (crew == MAP_FAILED || processes > MOST) {
        abort();
    }
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&crew->ready, &shared, processes);
    pid_t pids[MOST];
    for (unsigned i = 0; i < processes; i++) {
        pids[i] = must_call(fork(), "fork");
        if (pids[i] == 0) {
            alarm(600); /* should another one end early */
            process(crew, i, work);
            _exit(0);
        }
    }
    uint64_t begun = UINT64_MAX;
    uint64_t ended = 0;
    for (unsigned i = 0; i < processes; i++) {
        int status;
        must_call(waitpid(pids[i], &status, 0), "waitpid");
        if (status != 0) {
            abort();
        }
        begun = crew->begun[i] < begun ? crew->begun[i] : begun;
        ended = crew->ended[i] > ended ? crew->ended[i] : ended;
    }
    munmap(crew, sizeof *crew);
    return (double)(ended - begun);
}

/* ---- Work done at the same time ---- */

static void pool_turns(bufpool_pool *pool, uint64_t numbers[LIVE], uint64_t count, const void *data)
{
    for (uint64_t i = 0; i < count; i++) {
        must(bufpool_free(pool, numbers[i % LIVE]));
        must(bufpool_allocate(pool, data, PAGE, &numbers[i % LIVE]));
    }
}

static void pool_process(struct crew *crew, unsigned number, const struct work *work)
{
    char data[PAGE];
    memset(data, 'x', PAGE);
    bufpool_pool *pool = pool_attach(work->fds);
    uint64_t numbers[LIVE];
    must(bufpool_allocate_many(pool, LIVE, numbers));
    pool_turns(pool, numbers, LIVE, data);
    begin(crew, number);
    pool_turns(pool, numbers, work->count, data);
    end(crew, number);
    must(bufpool_free_many(pool, LIVE, numbers));
    must(bufpool_close(pool));
}

/* The same in a process's own part of the file. Numbers rise and wrap as a pool's do; nobody has to find a free one. */
static void plain_turns(int fd, char *base, const struct work *work, uint64_t first, uint64_t count, const void *data)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t old = first + i % work->pages;
        uint64_t new = first + (i + LIVE) % work->pages;
        must_call(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(old * PAGE), PAGE), "fallocate");
        memcpy(base + new * PAGE, data, PAGE);
    }
}

static void plain_process(struct crew *crew, unsigned number, const struct work *work)
{
    char data[PAGE];
    memset(data, 'x', PAGE);
    char *base = map(work->fd, work->pages * MOST);
    plain_turns(work->fd, base, work, number * work->pages, LIVE, data);
    begin(crew, number);
    plain_turns(work->fd, base, work, number * work->pages, work->count, data);
    end(crew, number);
}

/* Free one page, allocate + fill one, count times in each process; ns a page, of all. */
double pool_together(const int fds[2], unsigned processes, uint64_t count)
{
    struct work work = {.fds = fds, .count = count};
    return measure(pool_process, &work, processes) / (double)(count * processes);
}

/* Punch a hole, memcpy to another. The file has room for `pages` of each of MOST processes. */
double plain_together(int fd, uint64_t pages, unsigned processes, uint64_t count)
{
    struct work work = {.fd = fd, .pages = pages, .count = count};
    return measure(plain_process, &work, processes) / (double)(count * processes);
}

/* ---- How a process comes to have the memory ---- */

static void attaching(struct crew *crew, unsigned number, const struct work *work)
{
    begin(crew, number);
    pool_attach(work->fds);
    end(crew, number);
}

static void mapping(struct crew *crew, unsigned number, const struct work *work)
{
    begin(crew, number);
    map(work->fd, work->pages);
    end(crew, number);
}

double attach_ns(const int fds[2])
{
    struct work work = {.fds = fds};
    return measure(attaching, &work, 1);
}

double map_ns(int fd, uint64_t pages)
{
    struct work work = {.fd = fd, .pages = pages};
    return measure(mapping, &work, 1);
}
