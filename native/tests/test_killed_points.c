/* A process is killed after each single store that it makes to what others have, too: the next call of another repairs what
 * it has left, and nothing is lost. The library is built with its kill points here, see point.h. */
#include "clean.h"

#include "depot.h"
#include "interned.h"
#include "point.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef MEMORY
#define MEMORY "shared"
#define PAGE_SIZE GRANULE
#define FILLED OWN
#define EVERY true /* store of a process is one after which it is killed; or of each name the first and the last */
#define UNMET "frame allocated", "frame written", "closed for all by the last" /* test_path_killed_points */
#endif

#define OWN 4080 /* pages that the parent has all the time: with 16 more a word of the second level is full */
#define PAGES 4160
#define STEP (SANITIZED ? 9 : 1)
#define MAX_POINTS 1024

extern const struct bp_point __start_bp_points[];
extern const struct bp_point __stop_bp_points[];

static struct shared {
    uint64_t kill_at;
    char kill_name[32]; /* "": any */
    uint64_t round;
    char name[32]; /* after which the last one was killed */
    uint64_t hits[MAX_POINTS];
    uint64_t kills[MAX_POINTS];
    _Atomic int turn; /* of those that die together */
    int went_on;      /* pools, when those who had opened them were gone */
    int closed;
    uint64_t given[PAGES]; /* what a child has been given, and has not begun to give back */
} *shared;

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

/* ---- Dying ---- */

static int attaches_at = -1; /* turns of one of those that die together */
static int acts_at;

static uint64_t countdown; /* 0: immortal */
static const char *deadly; /* only points of this name count */

static void arm(const char *name, uint64_t nth)
{
    deadly = name;
    countdown = nth;
}

/* The one that this round is about: each has a stack of its own, so that it is kept anew. */
static void arm_this_round(void)
{
    char caller[32];
    snprintf(caller, sizeof caller, "round %llu", (unsigned long long)shared->round);
    CHECK_OK(bufpool_set_caller(caller));
    arm(shared->kill_name[0] == 0 ? NULL : shared->kill_name, shared->kill_at);
}

void bp_stored(const struct bp_point *point)
{
    if (countdown == 0 || (deadly != NULL && strcmp(deadly, point->name) != 0)) {
        return;
    }
    shared->hits[point - __start_bp_points]++;
    if (--countdown == 0) {
        shared->kills[point - __start_bp_points] +=
            attaches_at < 0; /* what others leave is to be repaired by this one */
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

/* While it refuses, the kernel takes no frame away. */
static bool refusing;
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __real_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);

int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    return refusing ? -EIO : __real_bp_kernel_punch(fd, offset, length);
}

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

static bufpool_pool *open_one(uint64_t pages, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *opened = NULL;
    config.capacity = pages * PAGE_SIZE;
    config.page_size = PAGE_SIZE;
    config.memory = MEMORY;
    config.trap = "uffd";
    config.on_fault = "resume";
    config.fork = "exclude";
    config.provenance = "stacks";
    config.quarantine = 2 * PAGE_SIZE;
    config.flags = flags;
    CHECK_OK(bufpool_open(&config, &opened));
    return opened;
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
    arm_this_round();
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
    uint64_t again[] = {many[20], many[10]}; /* the first has begun its rest, which leaves a gap */
    CHECK_OK(bufpool_allocate_at(pool, again[0], NULL, 0));
    CHECK_OK(bufpool_allocate_at(pool, again[1], NULL, 0));
    CHECK_OK(bufpool_free_many(pool, 2, again));
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

/* Leaves a thread half entered in the table of those that the records name; its own table comes first. */
static void die_entering(void)
{
    pool = attach();
    arm("thread: pid", 2);
    bufpool_allocate_at(pool, 4154, NULL, 0);
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
    arm_this_round();
    pool = attach();
    CHECK_OK(bufpool_close(pool));
}

/* Returns a page that they have left half freed. */
static uint64_t let_three_die(void)
{
    static void (*const three[])(void) = {die_straying, die_freeing, die_entering};
    uint64_t page = OWN;
    kill_together(3, three);
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
    uint64_t page = let_three_die();
    arm_this_round();
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
    arm_this_round();
    CHECK_OK(bufpool_allocate_many(pool, 5, many));
    CHECK_OK(bufpool_close(pool));
}

/* The checker repairs. */
static void inspect(void)
{
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    pool = attach();
    let_three_die();
    arm_this_round();
    CHECK_OK(bufpool_inspect(pool, BUFPOOL_REPAIR, &findings));
    CHECK_OK(bufpool_close(pool));
}

/* The checker finds what nobody's death explains. */
static void inspect_damage(void)
{
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    uint64_t some[2];
    pool = attach();
    struct bp_pages *pages = &pool->pages;
    CHECK_OK(bufpool_allocate_many(pool, 2, some));
    atomic_store(&pages->counts->high_water, 1);
    atomic_fetch_add(&pages->counts->stripes[2].evicted, 3);
    atomic_fetch_add(&pages->counts->stripes[3].set, 5);
    atomic_fetch_and(&pages->levels[0][some[0] / 64], ~(UINT64_C(1) << some[0] % 64));
    atomic_fetch_or(&pages->levels[1][0], UINT64_C(1) << 63);     /* "full" */
    atomic_fetch_and(&pages->levels[1][1], ~(UINT64_C(1) << 40)); /* past the end */
    atomic_store(&pages->states[4151], BUFPOOL_STATE_FREED | BP_FREEING);
    atomic_store(&pages->states[4152], BUFPOOL_STATE_FREED | BP_SCRATCH);
    atomic_store(&pages->states[4153], BUFPOOL_STATE_FREED | BP_BUSY_OF(900));
    CHECK_OK(bp_kernel_fallocate(pool->space.fd, UINT64_C(4156) * PAGE_SIZE, PAGE_SIZE));
    arm_this_round();
    CHECK_OK(bufpool_inspect(pool, BUFPOOL_REPAIR, &findings));
    CHECK_IS(findings.repaired, >=, 8);
    CHECK_OK(bufpool_close(pool));
}

/* The kernel takes no frame away. */
static void free_in_vain(void)
{
    uint64_t many[6];
    pool = attach();
    CHECK_OK(bufpool_allocate_many(pool, 6, many));
    uint64_t scattered[] = {many[0], many[2], many[4]};
    refusing = true;
    arm_this_round();
    CHECK_IS(bufpool_free_many(pool, 3, scattered), ==, -EIO);
    refusing = false;
    CHECK_OK(bufpool_close(pool));
}

/* What the records name has no room any more. */
static void without_room(void)
{
    uint64_t page;
    pool = attach();
    atomic_store(&pool->provenance.depot->used, BP_DEPOT_BYTES / 8);
    atomic_store(&pool->provenance.threads->used, BP_INTERNED_THREADS - 1);
    arm_this_round();
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(bufpool_close(pool));
}

/* A stray access meets one. */
static void stray(void)
{
    pool = attach();
    uint64_t page = let_three_die();
    arm_this_round();
    CHECK_IS(read_byte(bufpool_address(pool, page)) & 0xff, ==, BUFPOOL_POISON & 0xff);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    CHECK_OK(bufpool_close(pool));
}

/* Of what the records name, nothing is left half written, and each of them is readable. `lost` of them are not. */
static void check_provenance(uint64_t lost, bool known)
{
    const struct bp_threads *threads = pool->provenance.threads;
    uint32_t used = atomic_load(&threads->used);
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    CHECK_IS(used, <, BP_INTERNED_THREADS);
    for (uint32_t number = 1; number <= used; number++) {
        CHECK_IS(atomic_load(&threads->entries[number].serial) & BP_INTERNED_WRITER, ==, 0);
    }
    CHECK_IS(stats_of(pool).provenance_lost, ==, lost);
    for (uint64_t page = pool->pages.count < OWN ? 0 : OWN; page < pool->pages.count && known; page++) {
        bufpool_origin origins[2];
        CHECK_OK(bufpool_page_history(pool, page, &origins[0], &origins[1]));
        for (int i = 0; i < 2; i++) {
            if (origins[i].sequence != 0) {
                CHECK_IS(origins[i].pid, >, 0);
                CHECK_STRING(origins[i].process_name, name);
                CHECK(origins[i].stack_depth > 0 || i == 1); /* none of a free that others have recorded */
            }
        }
    }
}

/* Has its pool from a process that is killed while it closes it: the pool is closed, or goes on. */
static void guest(void)
{
    uint64_t page;
    pool = attach();
    atomic_store(&shared->turn, 1);
    wait_for(2); /* by getppid() it would be gone while another thread of it still has its locks */
    int code = bufpool_allocate(pool, NULL, 0, &page);
    CHECK(code == 0 || code == BUFPOOL_ECLOSED);
    if (code == 0) {
        ask_for_too_much(pool);
        check_clean(pool, 1);
        check_all_to_be_had(pool);
        check_provenance(0, true);
        shared->went_on++;
    } else {
        CHECK(traps_at(bufpool_address(pool, 0), NULL));
        shared->closed++;
    }
    CHECK_OK(bufpool_close(pool));
    atomic_store(&shared->turn, 3);
}

static void open_and_close(void)
{
    uint64_t page;
    pool = open_one(16, 0);
    CHECK_OK(bufpool_share(pool, &handle));
    atomic_store(&shared->turn, 0);
    start(guest);
    wait_for(1);
    CHECK_OK(bufpool_handle_close(&handle));
    arm_this_round();
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_close(pool));
}

/* Is killed before others know of its pool, too. */
static void open_alone(void)
{
    uint64_t page;
    arm_this_round();
    pool = open_one(4, BUFPOOL_LAZY_ZERO);
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_close(pool));
}

/* Fills huge pages behind the mapping, as under noautofill where there is no userfaultfd. */
static void fill_behind(void)
{
    char data[100] = "behind";
    pool = attach();
    bp_kernel_close_kept(pool->space.uffd);
    pool->space.uffd = -1;
    pool->space.trap = &bp_trap_noautofill;
    arm_this_round();
    CHECK_OK(bufpool_allocate_at(pool, 4150, data, sizeof data));
    CHECK(memcmp(bufpool_address(pool, 4150), data, sizeof data) == 0);
    CHECK_OK(bufpool_free(pool, 4150));
    CHECK_OK(bufpool_close(pool));
}

/* ---- And what the parent finds ---- */

static uint64_t lost; /* events */

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

static void put_in_order(bool known)
{
    check_given();
    int64_t before = bp_kernel_monotonic_ns();
    ask_for_too_much(pool);
    int64_t took = bp_kernel_monotonic_ns() - before;
    longest = took > longest ? took : longest;
    check_clean(pool, 1);
    check_given();
    check_provenance(lost, known);
    for (uint64_t page = 0; page < FILLED; page++) {
        check_stamp(page);
    }
    for (uint64_t page = OWN; page < PAGES; page++) { /* what it had is nobody's now */
        bufpool_state state = state_of(pool, page);
        bool given = state == BUFPOOL_STATE_ALLOCATED || state == BUFPOOL_STATE_EVICTED;
        CHECK_IS(bufpool_free(pool, page), ==, given ? 0 : BUFPOOL_ESTATE);
        bufpool_origin freed;
        CHECK_OK(bufpool_page_history(pool, page, NULL, &freed));
        CHECK(!given || freed.pid == getpid()); /* whatever was left of the record */
    }
    check_all_to_be_had(pool);
    check_clean(pool, 1);
    memset(shared->given, 0, sizeof shared->given);
    for (int i = 0; i < BP_STRIPES; i++) { /* each round gets the same numbers */
        atomic_store(&pool->pages.counts->stripes[i].cursor, 0);
    }
    atomic_store(&pool->pages.counts->cursor, OWN);
}

/* Runs it, killed at the nth point, or the nth of a name. false: it has ended before that. */
static bool run_once(const char *what, void (*function)(void), const char *name, uint64_t nth)
{
    struct bp_provenance *provenance = &pool->provenance;
    uint64_t units = atomic_load(&provenance->depot->used);
    uint32_t threads = atomic_load(&provenance->threads->used);
    snprintf(shared->kill_name, sizeof shared->kill_name, "%s", name == NULL ? "" : name);
    memset(shared->name, 0, sizeof shared->name);
    shared->kill_at = nth;
    shared->round++;
    int status = end(start(function));
    bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!ended && !IS_KILLED(status)) {
        fprintf(stderr, "%s: with kill point %llu \"%s\" it ended with status %#x\n", what, (unsigned long long)nth,
                shared->name, status);
        harness_fail();
    }
    if (function == open_and_close) {
        atomic_store(&shared->turn, 2); /* all of the opener is gone */
        wait_for(3);
    }
    if (function == inspect_damage) { /* and the next one who looks goes on */
        bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
        CHECK_OK(bufpool_inspect(pool, BUFPOOL_REPAIR, &findings));
    }
    if (function == without_room) {
        atomic_store(&provenance->depot->used, units);
        atomic_store(&provenance->threads->used, threads);
        lost = stats_of(pool).provenance_lost;
    }
    put_in_order(function != without_room);
    return !ended;
}

/* Of all points of this name. */
static uint64_t sum_of(const uint64_t *counts, const char *name)
{
    uint64_t sum = 0;
    for (const struct bp_point *point = __start_bp_points; point < __stop_bp_points; point++) {
        sum += strcmp(point->name, name) == 0 ? counts[point - __start_bp_points] : 0;
    }
    return sum;
}

static bool is_first_of_its_name(const struct bp_point *point)
{
    const struct bp_point *first = __start_bp_points;
    while (strcmp(first->name, point->name) != 0) {
        first++;
    }
    return first == point;
}

/* For each name that it meets: the first and the last time. */
static uint64_t sweep_names(const char *what, void (*function)(void))
{
    static uint64_t met[MAX_POINTS];
    uint64_t killed = 0;
    memcpy(met, shared->hits, sizeof met);
    CHECK(!run_once(what, function, NULL, UINT64_MAX));
    for (int i = 0; i < MAX_POINTS; i++) {
        met[i] = shared->hits[i] - met[i];
    }
    for (const struct bp_point *point = __start_bp_points; point < __stop_bp_points; point++) {
        uint64_t times = is_first_of_its_name(point) ? sum_of(met, point->name) : 0;
        bool often = sum_of(shared->kills, point->name) >= 3 && function != open_and_close; /* elsewhere */
        killed += times > 0 && !often && run_once(what, function, point->name, 1);
        killed += times > 1 && !often && run_once(what, function, point->name, times);
    }
    return killed;
}

static void sweep(const char *what, void (*function)(void))
{
    uint64_t killed = EVERY ? 0 : sweep_names(what, function);
    for (uint64_t k = 1; EVERY && run_once(what, function, NULL, k); k += STEP) {
        killed++;
    }
    printf("%s: killed at %llu points\n", what, (unsigned long long)killed);
    CHECK_IS(killed, >, 0);
}

/* Each has been met, and was the last thing that a process has done. */
static void check_names(void)
{
    static const char *const unmet[] = {UNMET}; /* with this memory */
    int names = 0;
    uint64_t all = 0;
    for (const struct bp_point *point = __start_bp_points; point < __stop_bp_points; point++) {
        if (!is_first_of_its_name(point)) {
            continue;
        }
        uint64_t kills = sum_of(shared->kills, point->name);
        bool exempt = SANITIZED;
        for (size_t i = 0; i < sizeof unmet / sizeof *unmet; i++) {
            exempt = exempt || strcmp(unmet[i], point->name) == 0;
        }
        printf("%8llu times met, %6llu killed after \"%s\"\n", (unsigned long long)sum_of(shared->hits, point->name),
               (unsigned long long)kills, point->name);
        names += kills > 0;
        all += kills;
        CHECK(exempt || kills > 0);
    }
    printf(MEMORY ": %llu killed, after stores of %d names, and each time the checker found nothing wrong afterwards\n",
           (unsigned long long)all, names);
}

static int run(void)
{
    if (bufpool_probe(MEMORY, "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf(MEMORY "/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    CHECK_IS(__stop_bp_points - __start_bp_points, <=, MAX_POINTS);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    pool = open_one(PAGES, 0);
    CHECK_OK(bufpool_share(pool, &handle));
    for (uint64_t i = 0; i < OWN; i += 16) {
        uint64_t own[16];
        CHECK_OK(bufpool_allocate_many(pool, 16, own));
        CHECK_IS(own[0], ==, i);
        CHECK_IS(own[15], ==, i + 15);
        for (uint64_t page = i; page < i + 16 && i < FILLED; page++) {
            write_stamp(page);
        }
        if (i >= FILLED) {
            CHECK_OK(bufpool_evict_many(pool, 16, own));
        }
    }
    bufpool_pool *parents = pool;
    sweep("work", work);
    sweep("repair at attach", repair);
    sweep("repair of a page", meet);
    sweep("repair amid a batch", repair_amid_a_batch);
    sweep("repair by a stray access", stray);
    sweep("repair by the checker", inspect);
    sweep("repair of damage", inspect_damage);
    sweep("frames that stay", free_in_vain);
    sweep("opening", open_alone);
    sweep("close by who opened it", open_and_close);
    if (PAGE_SIZE != GRANULE) {
        sweep("filling behind the mapping", fill_behind);
    }
    sweep("no room for provenance", without_room);
    CHECK_IS(shared->went_on, >, 0);
    CHECK_IS(shared->closed, >, 0);
    CHECK(parents == pool);
    check_names();
    printf("the longest repair took %.1f ms\n", (double)longest / 1e6);
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
