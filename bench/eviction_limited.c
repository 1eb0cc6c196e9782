/*
 * eviction_limited.c: the same workload in a child process inside a memory cgroup, so that what the kernel itself keeps of
 * the file counts, too. The child lives as long as it is asked for rounds, so that several of them, each in a cgroup of
 * its own, can take turns.
 */
#include "must.h"

#include "eviction.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

struct limited {
    pid_t pid;
    int orders;
    int answers;
};

struct order {
    uint64_t first;
    uint64_t count;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void enter(const char *procs)
{
    int fd = must_call(open(procs, O_WRONLY | O_CLOEXEC), procs);
    must_call((int)write(fd, "0", 1), procs); /* the writer itself */
    close(fd);
}

/* Nothing of the file is in the page cache when a run begins: what is there is charged to whoever read it first. */
static void drop_cache(const char *path)
{
    int fd = must_call(open(path, O_RDONLY | O_CLOEXEC), path);
    fsync(fd);
    must_call(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), "POSIX_FADV_DONTNEED");
    close(fd);
}

static void serve(int orders, int answers, struct eviction *run, const uint32_t *keys)
{
    struct order order;
    while (read(orders, &order, sizeof order) == sizeof order) {
        int64_t start = now_ns();
        eviction_accesses(run, keys + order.first, order.count);
        int64_t taken = now_ns() - start;
        if (write(answers, &taken, sizeof taken) != sizeof taken) {
            return;
        }
    }
}

struct limited *limited_open(const char *procs, const char *side, uint64_t pages, uint64_t frames, uint64_t batch,
                             const char *path, const uint32_t *keys)
{
    int orders[2];
    int answers[2];
    must_call(pipe2(orders, O_CLOEXEC), "pipe2");
    must_call(pipe2(answers, O_CLOEXEC), "pipe2");
    drop_cache(path);
    struct limited *child = calloc(1, sizeof *child);
    child->pid = must_call(fork(), "fork");
    if (child->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(orders[1]);
        close(answers[0]);
        enter(procs);
        bool direct = strncmp(side, "file", 4) != 0;
        serve(orders[0], answers[1], eviction_open(side, pages, frames, batch, path, direct), keys);
        _exit(0);
    }
    close(orders[0]);
    close(answers[1]);
    child->orders = orders[1];
    child->answers = answers[0];
    return child;
}

/* -3: the child was killed, as by the kernel for want of memory; -2: it has ended otherwise. */
static int64_t how_it_ended(const struct limited *child)
{
    siginfo_t info = {0};
    must_call(waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOWAIT), "waitid"); /* limited_close() reaps it */
    return info.si_code == CLD_KILLED && info.si_status == SIGKILL ? -3 : -2;
}

/* The ns that these accesses took; -1: not done in so many seconds; or how_it_ended(). */
int64_t limited_accesses(struct limited *child, uint64_t first, uint64_t count, int seconds)
{
    struct order order = {first, count};
    if (write(child->orders, &order, sizeof order) != sizeof order) {
        return how_it_ended(child);
    }
    struct pollfd waiting = {.fd = child->answers, .events = POLLIN};
    int ready;
    do {
        ready = poll(&waiting, 1, seconds * 1000);
    } while (ready < 0 && errno == EINTR);
    int64_t taken;
    if (ready == 0) {
        return -1;
    }
    return read(child->answers, &taken, sizeof taken) == sizeof taken ? taken : how_it_ended(child);
}

void limited_close(struct limited *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    close(child->orders);
    close(child->answers);
    free(child);
}
