/* What a process leaves that is killed amid a call, and what one does that maps the memory unarmed, is found and repaired;
 * and of a pool at work, by threads and processes, nothing is found that is not so. */
#include "damage.h"
#include "roster.h"

#include <sys/wait.h>

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;
static int to_parent[2];
static bool hang; /* the next request of the kernel: tells the parent, and waits for the kill */

static void wait_for_the_kill(void)
{
    char byte = 0;
    CHECK_IS(write(to_parent[1], &byte, 1), ==, 1);
    for (;;) {
        pause();
    }
}

int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    int code = __real_bp_kernel_uffd_copy(uffd, to, from, length, done);
    if (hang) {
        wait_for_the_kill();
    }
    return code;
}

int __real_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    if (hang) {
        wait_for_the_kill();
    }
    return __real_bp_kernel_punch(fd, offset, length);
}

static bufpool_pool *open_shared(uint64_t capacity)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.capacity = capacity;
    config.memory = "shared";
    config.trap = "uffd";
    config.on_fault = "resume";
    config.fork = "exclude";
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    CHECK_OK(pipe2(to_parent, O_CLOEXEC));
    return pool;
}

static void close_shared(bufpool_pool *pool)
{
    close(to_parent[0]);
    close(to_parent[1]);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

static bufpool_pool *attach(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.on_fault = "resume";
    config.fork = "exclude";
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    return pool;
}

/* ---- Killed amid a call ---- */

static void amid_allocate(bufpool_pool *pool)
{
    bufpool_allocate_at(pool, 5, "new", 4);
}

static void amid_free(bufpool_pool *pool)
{
    bufpool_free(pool, 6);
}

static void amid_evict(bufpool_pool *pool)
{
    bufpool_evict(pool, 7);
}

static void at_a_stray(bufpool_pool *pool)
{
    read_byte(bufpool_address(pool, 8));
    wait_for_the_kill();
}

static void kill_amid(bufpool_pool *pool, void (*call)(bufpool_pool *), uint64_t page, bufpool_wrong what)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        bufpool_pool *guest = attach();
        hang = call != at_a_stray;
        call(guest);
        _exit(1);
    }
    char byte;
    CHECK_IS(read(to_parent[0], &byte, 1), ==, 1);
    bufpool_findings findings = look(pool, 0); /* it lives: no damage */
    CHECK_IS(sum_of_wrong(&findings), ==, 0);
    CHECK_IS(findings.busy, ==, what == BUFPOOL_WRONG_ABANDONED);
    CHECK_IS(findings.scratched, ==, what == BUFPOOL_WRONG_SCRATCH);
    CHECK(findings.exact == (findings.busy == 0));
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_IS(waitpid(pid, NULL, 0), ==, pid);
    expect_repair(pool, page, what, 0);
    CHECK_IS(stats_of(pool).members, ==, 1);
}

static void killed(void)
{
    bufpool_pool *pool = open_shared(16 * MIB);
    CHECK_OK(bufpool_allocate_at(pool, 6, "a row", 6));
    CHECK_OK(bufpool_allocate_at(pool, 7, "a row", 6));
    kill_amid(pool, amid_allocate, 5, BUFPOOL_WRONG_ABANDONED);
    CHECK(traps_at(bufpool_address(pool, 5), NULL));
    kill_amid(pool, amid_free, 6, BUFPOOL_WRONG_ABANDONED);
    CHECK_IS(state_of(pool, 6), ==, BUFPOOL_STATE_FREED);
    kill_amid(pool, amid_evict, 7, BUFPOOL_WRONG_ABANDONED);
    CHECK_IS(state_of(pool, 7), ==, BUFPOOL_STATE_EVICTED);
    kill_amid(pool, at_a_stray, 8, BUFPOOL_WRONG_SCRATCH);
    CHECK_OK(bufpool_allocate_at(pool, 8, NULL, 0));
    close_shared(pool);
}

/* ---- A mapping that nobody has armed ---- */

static void unarmed(void)
{
    bufpool_pool *pool = open_shared(16 * MIB);
    char *view = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, handle.memory, 0);
    CHECK(view != MAP_FAILED);
    view[9 * GRANULE] = 'x';
    CHECK(!traps_at(bufpool_address(pool, 9), NULL));
    expect_repair(pool, 9, BUFPOOL_WRONG_STRAY_FRAME, 0);
    CHECK(traps_at(bufpool_address(pool, 9), NULL));
    for (uint64_t page = 4000; page < 4096; page++) { /* where attaching tries the trap, too */
        read_byte(view + page * GRANULE);
    }
    bufpool_pool *guest = attach();
    bufpool_findings findings = look(guest, BUFPOOL_REPAIR);
    CHECK_IS(findings.stray_frames, >=, 95);
    CHECK_IS(findings.repaired, ==, findings.stray_frames);
    CHECK(traps_at(bufpool_address(pool, 4000), NULL));
    bufpool_check(NULL);
    CHECK_OK(bufpool_close(guest));
    expect_clean(pool);
    CHECK_OK(munmap(view, 16 * MIB));
    close_shared(pool);
}

/* ---- At work ---- */

#define BATCH 40
static atomic_bool stop;

static void work(bufpool_pool *pool, uint64_t seed, const atomic_bool *until)
{
    uint64_t pages[BATCH];
    while (!atomic_load(until)) {
        size_t count = 1 + next_random(&seed) % BATCH;
        if (count == 1) {
            CHECK_OK(bufpool_allocate(pool, &seed, sizeof seed, pages));
            CHECK(memcmp(bufpool_address(pool, pages[0]), &seed, sizeof seed) == 0);
        } else {
            CHECK_OK(bufpool_allocate_many(pool, count, pages));
        }
        switch (next_random(&seed) % 4) {
        case 0:
            CHECK_OK(bufpool_evict_many(pool, count, pages));
            CHECK_OK(bufpool_populate_many(pool, count, pages, NULL));
            break;
        case 1:
            CHECK_OK(bufpool_evict(pool, pages[0]));
            break;
        case 2:
            read_byte(bufpool_address(pool, 3000 + next_random(&seed) % 1000));
            break;
        default:
            break;
        }
        CHECK_OK(bufpool_free_many(pool, count, pages));
    }
}

static void *thread(void *pool)
{
    work(pool, (uint64_t)(uintptr_t)&stop, &stop);
    return NULL;
}

static void look_on(bufpool_pool *pool, time_t end)
{
    int rounds = 0;
    int inexact = 0;
    while (rounds < 20 || time(NULL) < end) {
        bufpool_findings findings = look(pool, rounds % 2 ? BUFPOOL_REPAIR : 0);
        /* A frame behind the guard is so, and no error of the look: see BUFPOOL_WRONG_STRAY_FRAME. Seen here with zeros in
         * a page that only ever was filled with the scratch pattern: the kernel's own. */
        bool behind = strcmp(stats_of(pool).trap, "guard") == 0;
        uint64_t wrong = sum_of_wrong(&findings) - (behind ? findings.stray_frames : 0);
        if (wrong != 0) {
            print_findings(&findings);
            CHECK_IS(wrong, ==, 0);
        }
        CHECK_IS(findings.repaired, <=, behind ? findings.stray_frames : 0);
        rounds++;
        inexact += !findings.exact;
    }
    printf("%d looks at a pool at work, %d of them not exact\n", rounds, inexact);
    CHECK_IS(inexact, >, 0);
}

/* The stray accesses are not to be reported. */
static bufpool_verdict go_on(const bufpool_fault *fault, void *context)
{
    (void)fault;
    (void)context;
    return BUFPOOL_VERDICT_RESUME;
}

static bufpool_pool *quiet(bufpool_pool *pool)
{
    CHECK_OK(bufpool_set_fault_callback(pool, go_on, NULL));
    return pool;
}

static void at_work(void)
{
    bufpool_pool *pool = open_shared(16 * MIB);
    pid_t workers[2];
    atomic_store(&stop, false);
    for (int i = 0; i < 2; i++) {
        workers[i] = fork();
        CHECK(workers[i] >= 0);
        if (workers[i] == 0) {
            alarm(CHILD_LIMIT);
            work(quiet(attach()), (uint64_t)i, &stop);
            _exit(1);
        }
    }
    look_on(pool, time(NULL) + 4);
    for (int i = 0; i < 2; i++) {
        int status;
        CHECK_IS(waitpid(workers[i], &status, WNOHANG), ==, 0);
        CHECK_OK(kill(workers[i], SIGKILL));
        CHECK_IS(waitpid(workers[i], &status, 0), ==, workers[i]);
    }
    look(pool, BUFPOOL_REPAIR); /* what they have left */
    expect_clean(pool);
    close_shared(pool);
}

static void cell_at_work(const char *memory, const char *trap)
{
    bufpool_pool *pool = quiet(open_pool(memory, trap, "resume", 16 * MIB, GRANULE));
    pthread_t threads[3];
    atomic_store(&stop, false);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pthread_create(&threads[i], NULL, thread, pool));
    }
    look_on(pool, time(NULL) + 1);
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    sleep_ms(20);
    if (strcmp(trap, "guard") == 0) {
        look(pool, BUFPOOL_REPAIR);
    }
    expect_clean(pool);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
#ifdef __SANITIZE_THREAD__
    printf("the thread sanitizer takes a descriptor's number that serves again for a race\n");
    return HARNESS_SKIP;
#endif
    int code = for_each_cell(cell_at_work, false);
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    killed();
    unarmed();
    at_work();
    return code;
}
