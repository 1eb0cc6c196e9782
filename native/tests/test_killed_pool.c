/* Four processes work on one pool, and time and again one of them is killed, at any moment. The others go on; what it has
 * left is repaired; nothing is lost and nothing given to two. BUFPOOL_TEST_ROUNDS says how often. */
#include "clean.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef MEMORY
#define MEMORY "shared"
#define PAGE_SIZE GRANULE
#define PAGES 4224
#define LEAST 8  /* pages that a worker has at a time */
#define MOST 700 /* together not all there are */
#define BATCH 70
#endif

#define WORKERS 4
#define WORDS 16 /* of a page's content */
#define IS_EVICTED 0x100

/* What the workers say of themselves, so that it can be compared with what the pool says. */
static struct shared {
    _Atomic int pause;
    _Atomic int paused[WORKERS];
    _Atomic uint64_t calls;
    _Atomic uint32_t twice;        /* numbers that a worker was given and that another has */
    _Atomic uint32_t owner[PAGES]; /* worker + 1, with IS_EVICTED */
    _Atomic uint64_t stamp[PAGES]; /* what it says */
} *shared;

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

/* ---- A worker ---- */

struct worker {
    uint32_t number;
    uint64_t random;
    uint64_t serial;
    size_t count;
    uint64_t pages[MOST];
};

static void make_content(uint64_t stamp, uint64_t content[WORDS])
{
    for (int i = 0; i < WORDS; i++) {
        content[i] = stamp * (uint64_t)(2 * i + 1);
    }
}

static bool has_content(uint64_t page, uint64_t stamp)
{
    uint64_t content[WORDS];
    make_content(stamp, content);
    return memcmp(bufpool_address(pool, page), content, sizeof content) == 0;
}

static uint64_t next_stamp(struct worker *worker)
{
    return (uint64_t)worker->number << 56 | ++worker->serial;
}

static void own(struct worker *worker, uint64_t page, uint64_t stamp)
{
    uint32_t nobody = 0;
    CHECK_IS(page, <, PAGES);
    atomic_store(&shared->stamp[page], stamp);
    if (!atomic_compare_exchange_strong(&shared->owner[page], &nobody, worker->number + 1)) {
        atomic_fetch_add(&shared->twice, 1);
    }
    worker->pages[worker->count++] = page;
}

static void allocate_one(struct worker *worker)
{
    uint64_t content[WORDS];
    uint64_t stamp = next_stamp(worker);
    uint64_t page;
    make_content(stamp, content);
    CHECK_HAD(bufpool_allocate(pool, content, sizeof content, &page));
    own(worker, page, stamp);
}

static void allocate_batch(struct worker *worker)
{
    uint64_t pages[BATCH];
    size_t count = 1 + next_random(&worker->random) % BATCH;
    if (worker->count + count > MOST) {
        return;
    }
    CHECK_HAD(bufpool_allocate_many(pool, count, pages));
    for (size_t i = 0; i < count; i++) {
        uint64_t stamp = next_stamp(worker);
        make_content(stamp, bufpool_address(pool, pages[i]));
        own(worker, pages[i], stamp);
    }
}

/* Takes a page out of the worker's list. */
static uint64_t draw(struct worker *worker)
{
    size_t at = next_random(&worker->random) % worker->count;
    uint64_t page = worker->pages[at];
    worker->pages[at] = worker->pages[--worker->count];
    return page;
}

static void free_some(struct worker *worker, size_t most)
{
    uint64_t pages[BATCH];
    size_t count = 0;
    for (; count < most && worker->count > 0; count++) {
        pages[count] = draw(worker);
        atomic_store(&shared->owner[pages[count]], 0);
    }
    CHECK_OK(bufpool_free_many(pool, count, pages));
}

static void evict_and_populate(struct worker *worker)
{
    uint64_t page = worker->pages[next_random(&worker->random) % worker->count];
    uint64_t stamp = next_stamp(worker);
    uint64_t content[WORDS];
    CHECK(has_content(page, atomic_load(&shared->stamp[page])));
    atomic_store(&shared->owner[page], (worker->number + 1) | IS_EVICTED);
    CHECK_OK(bufpool_evict(pool, page));
    make_content(stamp, content);
    CHECK_HAD(bufpool_populate(pool, page, content, sizeof content));
    atomic_store(&shared->stamp[page], stamp);
    atomic_store(&shared->owner[page], worker->number + 1);
}

__attribute__((noreturn)) static void work(uint32_t number, uint64_t seed)
{
    static struct worker worker;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    worker.number = number;
    worker.random = seed;
    worker.serial = seed << 32;
    config.on_fault = "resume";
    config.report_limit = 1;
    config.provenance = "stacks";
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    for (;;) {
        while (atomic_load(&shared->pause)) {
            atomic_store(&shared->paused[number], 1);
            bp_kernel_sleep_ns(100000);
        }
        atomic_store(&shared->paused[number], 0);
        uint64_t choice = next_random(&worker.random) % 100;
        if (worker.count < LEAST || (choice < 40 && worker.count < MOST)) {
            allocate_one(&worker);
        } else if (choice < 50) {
            allocate_batch(&worker);
        } else if (choice < 75) {
            free_some(&worker, choice < 65 ? 1 : BATCH);
        } else if (choice < 99) {
            evict_and_populate(&worker);
        } else {
            uint64_t page = next_random(&worker.random) % PAGES; /* a stray access, perhaps */
            if (atomic_load(&shared->owner[page]) == 0) {
                read_byte(bufpool_address(pool, page));
            }
        }
        atomic_fetch_add(&shared->calls, 1);
    }
}

/* ---- The rounds ---- */

static pid_t workers[WORKERS];
static uint64_t orphans;
static uint64_t kept;
static uint64_t wounded; /* words that a killed process has left BUSY */

static void start(uint32_t number, uint64_t seed)
{
    fflush(NULL);
    atomic_store(&shared->paused[number], 0);
    workers[number] = fork();
    CHECK(workers[number] >= 0);
    if (workers[number] == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (getenv("BUFPOOL_TEST_LOUD") == NULL) {
            dup2(nowhere, STDERR_FILENO);
        }
        work(number, seed);
    }
}

static void pause_all(void)
{
    atomic_store(&shared->pause, 1);
    for (uint32_t number = 0; number < WORKERS; number++) {
        while (workers[number] > 0 && atomic_load(&shared->paused[number]) == 0) {
            int status;
            CHECK_IS(waitpid(workers[number], &status, WNOHANG), ==, 0); /* none has ended for a reason of its own */
            bp_kernel_sleep_ns(20000);
        }
    }
}

static void go_on(void)
{
    atomic_store(&shared->pause, 0);
    for (uint32_t number = 0; number < WORKERS; number++) {
        atomic_store(&shared->paused[number], 0);
    }
}

/* Everybody has what he says he has; what nobody has, or a dead one had, is freed. */
static void check_owners(uint32_t dead)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        uint32_t owner = atomic_load(&shared->owner[page]);
        bufpool_state state = state_of(pool, page);
        if (owner != 0 && !(owner & IS_EVICTED)) {
            CHECK_IS(state, ==, BUFPOOL_STATE_ALLOCATED);
            CHECK(has_content(page, atomic_load(&shared->stamp[page])));
            kept++;
        } else if (owner != 0) {
            CHECK(state == BUFPOOL_STATE_ALLOCATED || state == BUFPOOL_STATE_EVICTED);
        }
        bool held = state == BUFPOOL_STATE_ALLOCATED || state == BUFPOOL_STATE_EVICTED;
        if (held && (owner == 0 || (owner & 0xff) == dead + 1)) {
            CHECK_OK(bufpool_free(pool, page));
            atomic_store(&shared->owner[page], 0);
            orphans++;
        }
    }
}

static void count_wounds(void)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        wounded += (bp_pages_load(&pool->pages, page) & BP_BUSY) != 0;
    }
}

static void round_of(uint64_t *random)
{
    uint32_t victim = next_random(random) % WORKERS;
    struct timespec moment = {0, (long)(next_random(random) % 4000000)};
    int status;
    nanosleep(&moment, NULL);
    CHECK_OK(kill(workers[victim], SIGKILL));
    CHECK_IS(waitpid(workers[victim], &status, 0), ==, workers[victim]);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    workers[victim] = 0;
    moment.tv_nsec = (long)(next_random(random) % 1000000);
    nanosleep(&moment, NULL); /* the others go on */
    pause_all();
    count_wounds();
    ask_for_too_much(pool);
    CHECK_IS(atomic_load(&shared->twice), ==, 0);
    check_owners(victim);
    check_all_to_be_had(pool);
    check_clean(pool, WORKERS);
    go_on();
    start(victim, next_random(random));
}

static int run(void)
{
    const char *wanted = getenv("BUFPOOL_TEST_ROUNDS");
    int rounds = wanted == NULL ? 0 : atoi(wanted);
    if (bufpool_probe(MEMORY, "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf(MEMORY "/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    alarm(rounds > 0 ? (unsigned)rounds + HARNESS_LIMIT : HARNESS_LIMIT);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * (uint64_t)PAGE_SIZE;
    config.page_size = PAGE_SIZE;
    config.memory = MEMORY;
    config.trap = "uffd";
    config.fork = "exclude";
    config.provenance = "stacks";
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    uint64_t random = 1;
    for (uint32_t number = 0; number < WORKERS; number++) {
        start(number, next_random(&random));
    }
    time_t late = time(NULL) + 5;
    int done = 0;
    while (rounds > 0 ? done < rounds : done < 20 || orphans == 0 || (done < 100 && time(NULL) < late)) {
        round_of(&random);
        done++;
    }
    printf("%d processes of %d killed; %llu calls; %llu pages left amid a change; %llu pages of the dead freed; "
           "%llu times a page's content was checked\n",
           done, WORKERS, (unsigned long long)shared->calls, (unsigned long long)wounded, (unsigned long long)orphans,
           (unsigned long long)kept);
    for (uint32_t number = 0; number < WORKERS; number++) {
        kill(workers[number], SIGKILL);
        waitpid(workers[number], NULL, 0);
    }
    CHECK_IS(orphans, >, 0);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
    return 0;
}

#ifndef OTHER_MAIN
int main(void)
{
    harness_begin();
    return run();
}
#endif
