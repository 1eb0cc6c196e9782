/* A process is killed after each single store that it makes to what others have, too: the next call of another repairs what
 * it has left, and nothing is lost. The library is built with its kill points here, see point.h. */
#include "clean.h"

#include "point.h"

#include <string.h>
#include <sys/mman.h>

#define OWN 4080 /* pages that the parent has all the time: with 16 more a word of the second level is full */
#define PAGES 4160
#define STEP (SANITIZED ? 9 : 1)
#define MAX_POINTS 1024

extern const struct bp_point __start_bp_points[];
extern const struct bp_point __stop_bp_points[];

static struct shared {
    uint64_t kill_at;
    char name[32];
    uint64_t hits[MAX_POINTS];
    _Atomic int turn; /* of those that die together */
    int went_on;      /* pools, when those who had opened them were gone */
    int closed;
    uint64_t given[PAGES]; /* what a child has been given, and has not begun to give back */
} *shared;

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

/* ---- Dying ---- */

static uint64_t countdown; /* 0: immortal */
static const char *deadly; /* only points of this name count */

static void arm(const char *name, uint64_t nth)
{
    deadly = name;
    countdown = nth;
}

void bp_stored(const struct bp_point *point)
{
    if (countdown == 0 || (deadly != NULL && strcmp(deadly, point->name) != 0)) {
        return;
    }
    shared->hits[point - __start_bp_points]++;
    if (--countdown == 0) {
        memcpy(shared->name, point->name, sizeof shared->name);
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    }
}

static uint64_t stamp(uint64_t page)
{
    return page * 0x9E3779B97F4A7C15 + 1;
}

static void write_stamp(uint64_t page)
{
    *(uint64_t *)bufpool_address(pool, page) = stamp(page);
}

static void check_stamp(uint64_t page)
{
    CHECK_IS(*(uint64_t *)bufpool_address(pool, page), ==, stamp(page));
}

static int attaches_at = -1; /* turns of one of those that die together */
static int acts_at;

static void wait_for(int turn)
{
    while (atomic_load(&shared->turn) != turn) {
        bp_kernel_sleep_ns(20000);
    }
}

static bufpool_pool *attach(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *attached = NULL;
    if (attaches_at >= 0) {
        wait_for(attaches_at);
    }
    config.on_fault = "resume";
    config.report_limit = 1;
    config.fork = "exclude";
    CHECK_OK(bufpool_attach(&config, &handle, &attached));
    if (attaches_at >= 0) {
        atomic_fetch_add(&shared->turn, 1);
        wait_for(acts_at);
    }
    return attached;
}

static pid_t start(void (*function)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        function();
        _exit(0);
    }
    return pid;
}

static int end(pid_t pid)
{
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    return status;
}

#define IS_KILLED(status) (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)

/* ---- What one does that is killed ---- */

static void give(uint64_t page)
{
    shared->given[page] = 1;
}

static void take_back(const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        shared->given[pages[i]] = 0;
    }
}

static void work(void)
{
    uint64_t single;
    uint64_t many[24];
    arm(NULL, shared->kill_at);
    pool = attach();
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &single));
    write_stamp(single);
    give(single);
    uint64_t data[2] = {stamp(4150), 2};
    CHECK_OK(bufpool_allocate_at(pool, 4150, data, sizeof data));
    give(4150);
    CHECK_OK(bufpool_allocate_many(pool, 24, many)); /* across the last page of a word of the second level */
    for (int i = 0; i < 24; i++) {
        write_stamp(many[i]);
        give(many[i]);
    }
    take_back(many + 8, 4);
    CHECK_OK(bufpool_evict_many(pool, 4, many + 8));
    data[0] = stamp(many[8]);
    CHECK_OK(bufpool_populate(pool, many[8], data, sizeof data));
    give(many[8]);
    take_back(many, 4);
    CHECK_OK(bufpool_free(pool, many[0]));
    CHECK_OK(bufpool_free_many(pool, 3, many + 1));
    CHECK_OK(bufpool_free(pool, many[9]));
    uint64_t some[] = {many[4], many[10], many[6], many[20]}; /* scattered, and one of them is evicted */
    take_back(some, 4);
    CHECK_OK(bufpool_free_many(pool, 4, some));
    char pattern = read_byte(bufpool_address(pool, 4140)); /* a stray access, diverted */
    CHECK_IS(pattern & 0xff, ==, BUFPOOL_POISON & 0xff);
    CHECK_OK(bufpool_allocate_at(pool, 4140, NULL, 0)); /* armed again, for this */
    read_byte(bufpool_address(pool, 4141));
    read_byte(bufpool_address(pool, many[11])); /* an evicted one */
    CHECK_OK(bufpool_close(pool));              /* with the pattern still shown */
}

/* Leaves pages half freed. */
static void die_freeing(void)
{
    uint64_t many[6];
    pool = attach();
    CHECK_OK(bufpool_allocate_many(pool, 6, many));
    uint64_t scattered[] = {many[0], many[2], many[4]};
    arm("frame punched", 2);
    bufpool_free_many(pool, 3, scattered);
}

/* Leaves two pages that showed the pattern. */
static void die_straying(void)
{
    pool = attach();
    read_byte(bufpool_address(pool, 4155));
    arm("page settled", 1);
    read_byte(bufpool_address(pool, 4159));
}

/* Leaves a full word of the index of which the level above knows nothing. */
static void die_allocating(void)
{
    uint64_t many[16];
    pool = attach();
    arm("index bit set", 16);
    bufpool_allocate_many(pool, 16, many);
}

static void die_evicting(void)
{
    uint64_t many[4];
    pool = attach();
    CHECK_OK(bufpool_allocate_many(pool, 4, many));
    CHECK_OK(bufpool_evict(pool, many[0]));
    arm("frees counted", 1);
    bufpool_evict_many(pool, 3, many + 1);
}

static void die_settling(void)
{
    uint64_t many[8];
    pool = attach();
    arm("page settled", 4);
    bufpool_allocate_many(pool, 8, many);
}

/* When the others have died it takes what they have left: the last words of the index are full. */
static void die_populating(void)
{
    uint64_t many[44];
    pool = attach();
    CHECK_OK(bufpool_allocate_many(pool, 44, many));
    CHECK_OK(bufpool_evict(pool, many[0]));
    arm("frame copied", 1);
    bufpool_populate(pool, many[0], NULL, 0);
}

/* They attach in order, and then die in the reverse order: at an attach what is left so far is repaired. */
static void kill_together(int count, void (*const functions[])(void))
{
    pid_t pids[8];
    atomic_store(&shared->turn, 0);
    for (int i = 0; i < count; i++) {
        attaches_at = i;
        acts_at = 2 * count - 1 - i;
        pids[i] = start(functions[i]);
    }
    attaches_at = -1;
    for (int i = count - 1; i >= 0; i--) {
        int status = end(pids[i]);
        CHECK(IS_KILLED(status));
        atomic_fetch_add(&shared->turn, 1);
    }
}

/* Repairs at attach what six have left, and is killed amid that. */
static void repair(void)
{
    static void (*const all[])(void) = {die_populating, die_evicting, die_freeing,
                                        die_settling,   die_straying, die_allocating};
    kill_together(6, all);
    arm(NULL, shared->kill_at);
    pool = attach();
    CHECK_OK(bufpool_close(pool));
}

/* Returns a page that they have left half freed. */
static uint64_t let_two_die(void)
{
    static void (*const two[])(void) = {die_straying, die_freeing};
    uint64_t page = OWN;
    kill_together(2, two);
    while (page < PAGES && !(bp_pages_load(&pool->pages, page) & BP_BUSY)) {
        page++;
    }
    CHECK_IS(page, <, PAGES);
    return page;
}

/* Meets a page that a dead one has left. */
static void meet(void)
{
    pool = attach();
    read_byte(bufpool_address(pool, 4155)); /* where the dead one shows the pattern, too */
    uint64_t page = let_two_die();
    arm(NULL, shared->kill_at);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    CHECK_OK(bufpool_allocate_at(pool, 4159, NULL, 0));
    CHECK_OK(bufpool_close(pool));
}

/* Finds no free page amid a batch, and so repairs while it has pages BUSY itself. */
static void repair_amid_a_batch(void)
{
    static void (*const one[])(void) = {die_freeing};
    uint64_t many[72];
    pool = attach();
    kill_together(1, one);
    CHECK_OK(bufpool_allocate_many(pool, 72, many)); /* all but 2, and 3 that are half freed */
    arm(NULL, shared->kill_at);
    CHECK_OK(bufpool_allocate_many(pool, 5, many));
    CHECK_OK(bufpool_close(pool));
}

/* The checker repairs. */
static void inspect(void)
{
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    pool = attach();
    let_two_die();
    arm(NULL, shared->kill_at);
    CHECK_OK(bufpool_inspect(pool, BUFPOOL_REPAIR, &findings));
    CHECK_OK(bufpool_close(pool));
}

/* A stray access meets one. */
static void stray(void)
{
    pool = attach();
    uint64_t page = let_two_die();
    arm(NULL, shared->kill_at);
    CHECK_IS(read_byte(bufpool_address(pool, page)) & 0xff, ==, BUFPOOL_POISON & 0xff);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    CHECK_OK(bufpool_close(pool));
}

/* Has its pool from a process that is killed while it closes it: the pool is closed, or goes on. */
static void guest(void)
{
    pid_t opener = getppid();
    uint64_t page;
    pool = attach();
    atomic_store(&shared->turn, 1);
    while (getppid() == opener) {
        sleep_ms(1);
    }
    int code = bufpool_allocate(pool, NULL, 0, &page);
    CHECK(code == 0 || code == BUFPOOL_ECLOSED);
    if (code == 0) {
        ask_for_too_much(pool);
        check_clean(pool, 1);
        check_all_to_be_had(pool);
        shared->went_on++;
    } else {
        CHECK(traps_at(bufpool_address(pool, 0), NULL));
        shared->closed++;
    }
    CHECK_OK(bufpool_close(pool));
    atomic_store(&shared->turn, 2);
}

static void open_and_close(void)
{
    uint64_t page;
    pool = open_pool_fork("shared", "uffd", "resume", MIB, GRANULE, "exclude");
    CHECK_OK(bufpool_share(pool, &handle));
    atomic_store(&shared->turn, 0);
    start(guest);
    wait_for(1);
    CHECK_OK(bufpool_handle_close(&handle));
    arm(NULL, shared->kill_at);
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_close(pool));
}

/* ---- And what the parent finds ---- */

static int64_t longest; /* ns that a repairing call has taken */

static void check_given(void)
{
    for (uint64_t page = OWN; page < PAGES; page++) {
        if (shared->given[page] != 0) {
            CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
            check_stamp(page);
        }
    }
}

static void put_in_order(void)
{
    check_given();
    int64_t before = bp_kernel_monotonic_ns();
    ask_for_too_much(pool);
    int64_t took = bp_kernel_monotonic_ns() - before;
    longest = took > longest ? took : longest;
    check_clean(pool, 1);
    check_given();
    for (uint64_t page = 0; page < OWN; page++) {
        check_stamp(page);
    }
    for (uint64_t page = OWN; page < PAGES; page++) { /* what it had is nobody's now */
        bufpool_state state = state_of(pool, page);
        CHECK_IS(bufpool_free(pool, page), ==,
                 state == BUFPOOL_STATE_ALLOCATED || state == BUFPOOL_STATE_EVICTED ? 0 : BUFPOOL_ESTATE);
    }
    check_all_to_be_had(pool);
    check_clean(pool, 1);
    memset(shared->given, 0, sizeof shared->given);
    atomic_store(&pool->pages.counts->cursor, OWN); /* each round gets the same numbers */
}

static void sweep(const char *what, void (*function)(void))
{
    uint64_t killed_times = 0;
    for (uint64_t k = 1;; k += STEP) {
        shared->kill_at = k;
        memset(shared->name, 0, sizeof shared->name);
        int status = end(start(function));
        bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!ended && !IS_KILLED(status)) {
            fprintf(stderr, "%s: with kill point %llu it ended with status %#x\n", what, (unsigned long long)k, status);
            harness_fail();
        }
        if (function == open_and_close) {
            wait_for(2);
        }
        put_in_order();
        if (ended) {
            break;
        }
        killed_times++;
    }
    printf("%s: killed at %llu points\n", what, (unsigned long long)killed_times);
    CHECK_IS(killed_times, >, 0);
}

/* Every name has been met. */
static void check_names(void)
{
    int names = 0;
    for (const struct bp_point *point = __start_bp_points; point < __stop_bp_points; point++) {
        uint64_t hits = 0;
        bool first = true;
        for (const struct bp_point *same = __start_bp_points; same < __stop_bp_points; same++) {
            bool equal = strcmp(same->name, point->name) == 0;
            first = first && !(equal && same < point);
            hits += equal ? shared->hits[same - __start_bp_points] : 0;
        }
        if (first) {
            printf("%8llu times after \"%s\"\n", (unsigned long long)hits, point->name);
            names++;
            if (!SANITIZED) {
                CHECK_IS(hits, >, 0);
            }
        }
    }
    printf("%d names of points\n", names);
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    CHECK_IS(__stop_bp_points - __start_bp_points, <=, MAX_POINTS);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    pool = open_pool_fork("shared", "uffd", "resume", PAGES * (uint64_t)GRANULE, GRANULE, "exclude");
    CHECK_OK(bufpool_share(pool, &handle));
    static uint64_t own[OWN];
    CHECK_OK(bufpool_allocate_many(pool, OWN, own));
    for (uint64_t i = 0; i < OWN; i++) {
        CHECK_IS(own[i], ==, i);
        write_stamp(i);
    }
    bufpool_pool *parents = pool;
    sweep("work", work);
    sweep("repair at attach", repair);
    sweep("repair of a page", meet);
    sweep("repair amid a batch", repair_amid_a_batch);
    sweep("repair by a stray access", stray);
    sweep("repair by the checker", inspect);
    sweep("close by who opened it", open_and_close);
    CHECK_IS(shared->went_on, >, 0);
    CHECK_IS(shared->closed, >, 0);
    CHECK(parents == pool);
    check_names();
    printf("the longest repair took %.1f ms\n", (double)longest / 1e6);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
    return 0;
}
