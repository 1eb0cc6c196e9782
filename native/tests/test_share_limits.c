/* Shared pools at their limits: many processes at once, few descriptors, peers that try to truncate, numbers of processes
 * that come again, clocks that differ, rights that are lacking. */
#include "clean.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

#define CROWD 32
#define PAGES 4096
#define TURNS (SANITIZED ? 40 : 200)

static struct shared {
    _Atomic int attached;
    _Atomic int done;
    _Atomic uint32_t twice;
    _Atomic uint32_t owner[PAGES];
    int code;
    char text[512];
} *shared;

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static int attach(bufpool_pool **attached)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.on_fault = "resume";
    return bufpool_attach(&config, &handle, attached);
}

static void open_shared(void)
{
    pool = open_pool_fork("shared", "uffd", "resume", PAGES * (uint64_t)GRANULE, GRANULE, "exclude");
    CHECK_OK(bufpool_share(pool, &handle));
}

static void close_shared(void)
{
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

static pid_t start(void (*function)(uint32_t), uint32_t number)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(CHILD_LIMIT);
        function(number);
        _exit(0);
    }
    return pid;
}

static void end(pid_t pid)
{
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK_IS(status, ==, 0);
}

static void wait_until(_Atomic int *count, int value)
{
    while (atomic_load(count) < value) {
        bp_kernel_sleep_ns(100000);
    }
}

/* ---- Many at once ---- */

static void one_of_many(uint32_t number)
{
    uint64_t pages[8];
    uint64_t random = number;
    CHECK_OK(attach(&pool));
    atomic_fetch_add(&shared->attached, 1);
    wait_until(&shared->attached, CROWD);
    for (int turn = 0; turn < TURNS; turn++) {
        size_t count = 1 + next_random(&random) % 8;
        CHECK_OK(bufpool_allocate_many(pool, count, pages));
        for (size_t i = 0; i < count; i++) {
            uint32_t nobody = 0;
            if (!atomic_compare_exchange_strong(&shared->owner[pages[i]], &nobody, number)) {
                atomic_fetch_add(&shared->twice, 1);
            }
            *(uint32_t *)bufpool_address(pool, pages[i]) = number;
        }
        for (size_t i = 0; i < count; i++) {
            CHECK_IS(*(uint32_t *)bufpool_address(pool, pages[i]), ==, number);
            atomic_store(&shared->owner[pages[i]], 0);
            CHECK_OK(bufpool_free(pool, pages[i]));
        }
    }
    atomic_fetch_add(&shared->done, 1);
    wait_until(&shared->done, CROWD + 1);
    CHECK_OK(bufpool_close(pool));
}

static void crowd(void)
{
    pid_t pids[CROWD];
    open_shared();
    for (uint32_t i = 0; i < CROWD; i++) {
        pids[i] = start(one_of_many, i + 1);
    }
    wait_until(&shared->done, CROWD);
    CHECK_IS(stats_of(pool).members, ==, CROWD + 1);
    CHECK_IS(shared->twice, ==, 0);
    check_clean(pool, CROWD + 1);
    atomic_fetch_add(&shared->done, 1);
    for (uint32_t i = 0; i < CROWD; i++) {
        end(pids[i]);
    }
    check_all_to_be_had(pool);
    check_clean(pool, 1);
    printf("%d processes at once: %llu pages allocated and freed\n", CROWD,
           (unsigned long long)stats_of(pool).allocations);
    close_shared();
}

/* ---- Few descriptors ---- */

static void attach_with_few(uint32_t more)
{
    /* The handle's own are higher than the limit, which is allowed; below it all are taken, and then some are not. */
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 512;
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
    while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {
    }
    CHECK_IS(errno, ==, EMFILE);
    limit.rlim_cur += more;
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
    bufpool_pool *attached = NULL;
    shared->code = attach(&attached);
    snprintf(shared->text, sizeof shared->text, "%s", shared->code < 0 ? last_error() : "");
    if (shared->code == 0) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(attached, "few", 4, &page));
        CHECK_OK(bufpool_free(attached, page));
        CHECK_OK(bufpool_close(attached));
    } else {
        CHECK(attached == NULL);
    }
}

static void few_descriptors(void)
{
    open_shared();
    int refused = 0;
    for (uint32_t more = 0; more < 64; more++) {
        end(start(attach_with_few, more));
        check_clean(pool, 1);
        if (shared->code == 0) {
            break;
        }
        CHECK_IS(shared->code, ==, -EMFILE);
        CHECK_HAS(shared->text, "Too many open files");
        refused++;
    }
    CHECK_IS(shared->code, ==, 0);
    CHECK_IS(refused, >, 0);
    printf("attaching takes %d descriptors\n", refused);
    close_shared();
}

/* ---- A peer that would truncate the files ---- */

static void truncation(void)
{
    open_shared();
    int files[] = {handle.memory, handle.tables};
    for (int i = 0; i < 2; i++) {
        CHECK(ftruncate(files[i], 0) < 0 && errno == EPERM);
        CHECK(ftruncate(files[i], (off_t)GIB) < 0 && errno == EPERM);
        CHECK(fallocate(files[i], 0, (off_t)GIB, GRANULE) < 0 && errno == EPERM);
        CHECK(fcntl(files[i], F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */) < 0 && errno == EPERM);
    }
    close_shared();
}

/* ---- Numbers of processes ---- */

static void leave_busy(uint32_t number)
{
    uint64_t page;
    (void)number;
    CHECK_OK(attach(&pool));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK(bp_pages_claim(&pool->pages, page, BUFPOOL_STATE_ALLOCATED, BP_FREEING)); /* as a free begins */
    shared->code = (int)page;
}

/* A process has ended amid a free, and another one has its number by now: of a later moment, or of the same one. */
static void number_again(bool same_moment)
{
    open_shared();
    end(start(leave_busy, 0));
    uint64_t page = (uint64_t)shared->code;
    struct bp_member *dead = &pool->pages.members[2];
    CHECK(bp_roster_has(&pool->pages, 2));
    uint64_t mine;
    CHECK_OK(bp_kernel_started(getpid(), &mine));
    atomic_store(&dead->pid, getpid());
    atomic_store(&dead->started, same_moment ? mine : mine - 1);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    CHECK(!bp_roster_has(&pool->pages, 2));
    stats_of(pool);
    check_clean(pool, 1);
    close_shared();
}

/* ---- Clocks ---- */

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) {
        close(fd);
    }
    return written;
}

static void live_tomorrow(uint32_t number)
{
    uint64_t page;
    if (unshare(CLONE_NEWTIME) != 0 ||
        !write_text("/proc/self/timens_offsets", "monotonic 86400 0\nboottime 86400 0")) {
        shared->code = -1;
        return;
    }
    end(start(leave_busy, number)); /* the namespace is the children's */
    CHECK_OK(attach(&pool));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(BP_COUNT(pool->pages.counts, allocations) - BP_COUNT(pool->pages.counts, frees), >=, 1);
    read_byte(bufpool_address(pool, PAGES - 1));
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(bufpool_close(pool));
}

/* A process whose clocks are a day ahead dies amid a free, and is repaired by one of today. */
static void clocks(void)
{
    open_shared();
    end(start(live_tomorrow, 0));
    if (shared->code < 0) {
        printf("a process may not have clocks of its own here: it takes root, and Linux 5.6\n");
    }
    ask_for_too_much(pool);
    check_all_to_be_had(pool);
    check_clean(pool, 1);
    close_shared();
}

/* ---- Rights ---- */

static void attach_as_another(uint32_t user)
{
    bufpool_pool *attached = NULL;
    CHECK_OK(setgid(user));
    CHECK_OK(setuid(user));
    shared->code = attach(&attached);
    snprintf(shared->text, sizeof shared->text, "%s", last_error());
}

/* A server that gives its rights up when it has opened the pool has no children with it, and they say why. */
static void fork_as_another(uint32_t user)
{
    pool = open_pool("shared", "uffd", "resume", MIB, GRANULE);
    CHECK_OK(setgid(user));
    CHECK_OK(setuid(user));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        uint64_t page;
        CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "has changed its user");
        _exit(0);
    }
    end(pid);
}

static void another_user(void)
{
    if (getuid() != 0) {
        printf("to become another user takes root\n");
        return;
    }
    open_shared();
    end(start(attach_as_another, 65534));
    end(start(fork_as_another, 65534));
    CHECK_IS(shared->code, ==, -EACCES);
    CHECK_HAS(shared->text, "root");
    check_clean(pool, 1);
    close_shared();
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    crowd();
    few_descriptors();
    truncation();
    number_again(false);
    number_again(true);
    clocks();
    another_user();
    return 0;
}
