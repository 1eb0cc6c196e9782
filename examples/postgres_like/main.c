/*
 * main.c: backends at work on a buffer array; with --bug one of them uses a buffer after it has released it.
 *
 *     postgres_like [--sysv] [--bug] [--backends N] [--transactions N]
 *
 * A transaction counts up one number in each of two blocks. At the end all that was counted has to be in the table. With
 * the bug, and without enforced pins (BUFPOOL_OPTIONS=pins=off), one is lost, or lands in whatever block the buffer has
 * by then; which is all that shows.
 * Exit status: 0 all is right, or with --bug the stray access was caught; 1 neither; 77 there is no such memory here.
 */
#include "buffers.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_BACKENDS 16

static uint32_t below(uint64_t *state, uint32_t end)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state >> 32) % end);
}

static void count_up(struct pg_backend *backend, uint32_t buffer, uint32_t number)
{
    pg_lock(backend, buffer, true);
    pg_page(backend, buffer)[number]++;
    pg_unlock(backend, buffer, true);
}

static void transact(struct pg_backend *backend, uint64_t *state)
{
    uint32_t number = below(state, PG_BLOCK / sizeof(uint64_t));
    uint32_t one = pg_read(backend, below(state, PG_BLOCKS));
    uint32_t other = pg_read(backend, below(state, PG_BLOCKS)); /* perhaps the same: pins count */
    pg_lock(backend, one, false);
    uint64_t before = pg_page(backend, one)[number];
    pg_unlock(backend, one, false);
    count_up(backend, one, number);
    count_up(backend, other, (uint32_t)(before % (PG_BLOCK / sizeof(uint64_t))));
    pg_release(backend, other);
    pg_release(backend, one);
    __atomic_add_fetch(&backend->shared->increments, 2, __ATOMIC_RELAXED);
}

/* The planted bug: the address is used once more when the pin is gone. */
static void use_after_unpin(struct pg_backend *backend)
{
    uint32_t buffer = pg_read(backend, 7);
    volatile uint64_t *page = pg_page(backend, buffer);
    pg_release(backend, buffer);
    page[3]++;
    __atomic_add_fetch(&backend->shared->increments, 1, __ATOMIC_RELAXED);
}

static int work(struct pg_backend *backend, uint32_t id, uint32_t transactions, bool bug)
{
    int code = pg_start(backend);
    if (code < 0) {
        char sentence[1024];
        bufpool_last_error(sentence, sizeof sentence);
        fprintf(stderr, "postgres_like: %s\n", sentence);
        return code == BUFPOOL_EUNSUPPORTED ? 77 : 1;
    }
    uint64_t state = 0x9E3779B97F4A7C15u * (id + 1);
    for (uint32_t n = 0; n < transactions; n++) {
        transact(backend, &state);
        if (bug && n == transactions / 2) {
            use_after_unpin(backend);
        }
    }
    pg_end(backend);
    return 0;
}

/* Waits for all; as PostgreSQL does, ends the others when one has died amid its work. The first status that is not 0. */
static int await(pid_t *pids, uint32_t count)
{
    int first = 0;
    for (uint32_t left = count; left > 0; left--) {
        int status;
        pid_t ended;
        while ((ended = waitpid(-1, &status, 0)) < 0 && errno == EINTR) {
        }
        bool ends = status != 0 && first == 0;
        first = ends ? status : first;
        for (uint32_t i = 0; i < count; i++) {
            if (pids[i] == ended) {
                pids[i] = 0; /* the number may be anybody's now */
            } else if (ends && pids[i] > 0) {
                kill(pids[i], SIGKILL);
            }
        }
    }
    return first;
}

static uint64_t sum(const struct pg_backend *backend)
{
    uint64_t total = 0;
    uint64_t block[PG_BLOCK / sizeof(uint64_t)];
    for (uint32_t n = 0; n < PG_BLOCKS; n++) {
        if (pread(backend->file, block, sizeof block, (off_t)n * PG_BLOCK) != (ssize_t)sizeof block) {
            perror("pread");
            exit(1);
        }
        for (size_t i = 0; i < PG_BLOCK / sizeof(uint64_t); i++) {
            total += block[i];
        }
    }
    return total;
}

static int judge(struct pg_backend *backend, int status, bool bug)
{
    struct pg_shared *shared = backend->shared;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        return 77;
    }
    if (WIFSIGNALED(status)) {
        bool caught = bug && shared->stray == BUFPOOL_STATE_UNPINNED;
        printf("a backend has died of signal %d%s: buffer %" PRIu64 " was %s\n", WTERMSIG(status),
               caught ? ", caught at its use after unpin" : "", shared->stray_buffer,
               bufpool_state_name(shared->stray));
        return caught ? 0 : 1;
    }
    pg_checkpoint(backend);
    uint64_t total = sum(backend);
    printf("%" PRIu64 " reads, %" PRIu64 " evictions; counted %" PRIu64 ", found %" PRIu64 "\n", shared->reads,
           shared->evictions, shared->increments, total);
    return status == 0 && !bug && total == shared->increments && shared->stray == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    bool sysv = false;
    bool bug = false;
    uint32_t backends = 4;
    uint32_t transactions = 2000;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--sysv") == 0) {
            sysv = true;
        } else if (strcmp(argv[i], "--bug") == 0) {
            bug = true;
        } else if (strcmp(argv[i], "--backends") == 0 && i + 1 < argc) {
            backends = (uint32_t)strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--transactions") == 0 && i + 1 < argc) {
            transactions = (uint32_t)strtoul(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "usage: %s [--sysv] [--bug] [--backends N] [--transactions N]\n", argv[0]);
            return 1;
        }
    }
    backends = backends < 1 ? 1 : backends > MOST_BACKENDS ? MOST_BACKENDS : backends;
    struct pg_backend backend = {0};
    if (!pg_create(sysv, &backend)) {
        printf("no shared memory of that kind here: %s\n", strerror(errno));
        return 77;
    }
    if (bug) { /* what it dies of is known */
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    }
    pid_t pids[MOST_BACKENDS];
    for (uint32_t id = 0; id < backends; id++) {
        pids[id] = fork();
        if (pids[id] < 0) {
            perror("fork");
            await(pids, id);
            return 1;
        }
        if (pids[id] == 0) {
            exit(work(&backend, id, transactions, bug && id == 0));
        }
    }
    return judge(&backend, await(pids, backends), bug);
}
