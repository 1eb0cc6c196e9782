/*
 * driver.c: a key-value store that worker processes share, some of which are killed, at whatever instruction.
 *
 *     kv [--workers N] [--seconds N] [--kill MS] [--words N] [--capacity MIB] [--seed N] [FOLDER]
 *
 * Reads the words of a folder's files (/usr/include), puts them into a B+tree in a shared pool, and starts the workers
 * (worker.c). Every --kill milliseconds, on average, one is killed and another takes its place. Every second the tree is
 * checked, and at the end every key. Exit status: 0 all is right, 1 it is not, 77 no pool can be shared here.
 */
#include "verify.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static struct {
    uint32_t workers;
    uint32_t seconds;
    uint32_t kill_ms;
    uint32_t words;
    uint32_t capacity_mib;
    uint32_t seed;
    const char *folder;
} options = {4, 20, 100, 20000, 64, 0, "/usr/include"};

static struct {
    struct kv_store store;
    struct kv_work work;
    struct kv_census census;
    struct kv_verdict verdict;
    bufpool_handle handle;
    int words;
    int ledger;
    pid_t pids[KV_MAX_WORKERS];
    uint64_t kills;
    uint64_t early; /* of them, within 2 ms of the worker's start */
    uint64_t checks;
    bufpool_findings findings; /* before the repair */
    const char *pool_wrong;    /* after it; NULL: nothing */
} run = {.handle = BUFPOOL_HANDLE_INIT, .findings = BUFPOOL_FINDINGS_INIT};

static void die(const char *what)
{
    char sentence[400];
    bufpool_last_error(sentence, sizeof sentence);
    fprintf(stderr, "kv: %s: %s\n", what, sentence);
    exit(1);
}

static void die_of_system(const char *what, int error)
{
    fprintf(stderr, "kv: %s: %s\n", what, strerror(error));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void pause_for(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

static double chance(void)
{
    return (double)random() / ((double)RAND_MAX + 1);
}

/* ---- Workers ---- */

static void start(uint32_t slot)
{
    int fds[] = {run.handle.memory, run.handle.tables, run.words, run.ledger};
    char numbers[6][24];
    char *arguments[9] = {"kv", "worker", numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    snprintf(numbers[0], sizeof numbers[0], "%" PRIu32, slot);
    snprintf(numbers[1], sizeof numbers[1], "%ld", random());
    for (int i = 0; i < 4; i++) {
        snprintf(numbers[2 + i], sizeof numbers[0], "%d", fds[i]);
        posix_spawn_file_actions_adddup2(&actions, fds[i], fds[i]); /* stays open in the worker */
    }
    int error = posix_spawn(&run.pids[slot], "/proc/self/exe", &actions, NULL, arguments, environ);
    if (error != 0) {
        die_of_system("a worker cannot be started", error);
    }
    posix_spawn_file_actions_destroy(&actions);
}

/* Workers end when they are killed or told to stop, and at no other time. */
static void ended(uint32_t slot, int status, bool wanted)
{
    run.pids[slot] = 0;
    if (wanted && ((WIFEXITED(status) && WEXITSTATUS(status) == 0))) {
        return;
    }
    fprintf(stderr, "kv: worker %" PRIu32 " ended with status %#x. %s\n", slot, (unsigned)status,
            run.work.ledger->slots[slot].wrong);
    exit(1);
}

static void kill_one(uint32_t slot)
{
    int status;
    kill(run.pids[slot], SIGKILL);
    if (waitpid(run.pids[slot], &status, 0) < 0) {
        die_of_system("waitpid", errno);
    }
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        ended(slot, status, false);
    }
    run.kills++;
}

static void kill_some(double until)
{
    double next_check = now() + 1;
    while (now() < until) {
        pause_for(chance() * 2 * options.kill_ms / 1000);
        uint32_t slot = (uint32_t)random() % options.workers;
        int status;
        kill_one(slot);
        start(slot);
        if (chance() < 0.125) {
            pause_for(chance() * 0.002);
            kill_one(slot);
            run.early++;
            start(slot);
        }
        for (uint32_t other = 0; other < options.workers; other++) {
            if (waitpid(run.pids[other], &status, WNOHANG) > 0) {
                ended(other, status, false);
            }
        }
        if (now() >= next_check) {
            if (kv_check(&run.store, &run.census) < 0) {
                die("the tree cannot be checked");
            }
            if (run.census.wrong[0] != '\0') {
                fprintf(stderr, "kv: %s\n", run.census.wrong);
                exit(1);
            }
            run.checks++;
            next_check = now() + 1;
        }
    }
}

static void stop_workers(void)
{
    atomic_store(&run.work.ledger->stop, 1);
    double until = now() + 20;
    for (uint32_t slot = 0; slot < options.workers; slot++) {
        int status = 0;
        pid_t pid;
        while ((pid = waitpid(run.pids[slot], &status, WNOHANG)) == 0 && now() < until) {
            pause_for(0.001);
        }
        if (pid <= 0) {
            fprintf(stderr, "kv: worker %" PRIu32 " hangs\n", slot);
            exit(1);
        }
        ended(slot, status, true);
    }
}

/* ---- The run ---- */

static void set_up(void)
{
    int code = kv_create(&run.store, (uint64_t)options.capacity_mib << 20);
    if (code == BUFPOOL_EUNSUPPORTED) {
        char sentence[400];
        bufpool_last_error(sentence, sizeof sentence);
        printf("shared/uffd cannot be had here: %s\n", sentence);
        exit(77);
    }
    if (code < 0 || bufpool_share(run.store.pool, &run.handle) < 0) {
        die("the store cannot be made");
    }
    run.words = kv_words_read(options.folder, options.words);
    if (run.words < 0) {
        die_of_system(options.folder, -run.words);
    }
    run.ledger = memfd_create("kv-ledger", MFD_CLOEXEC);
    if (run.ledger < 0 || ftruncate(run.ledger, sizeof(struct kv_ledger)) < 0) {
        die_of_system("the ledger cannot be made", errno);
    }
    void *ledger =
        mmap(NULL, sizeof(struct kv_ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, run.ledger, 0);
    const struct kv_words *words = kv_words_map(run.words);
    if (ledger == MAP_FAILED || words == NULL) {
        die_of_system("mmap", errno);
    }
    run.work = (struct kv_work){&run.store, words, ledger, KV_MAX_WORKERS};
    run.work.ledger->driver = (int32_t)getpid();
    if (kv_words_count(words) == 0) {
        fprintf(stderr, "kv: %s has no words\n", options.folder);
        exit(1);
    }
}

static void load(void)
{
    for (uint32_t word = 0; word < kv_words_count(run.work.words); word++) {
        if (kv_write(&run.work, word, false) < 0) {
            die("a word cannot be put");
        }
    }
}

static uint64_t wrong_in(const bufpool_findings *findings)
{
    return findings->abandoned + findings->lost_frames + findings->stray_frames + findings->index_wrong +
           findings->counts_wrong + findings->scratched + findings->states_wrong;
}

/* What workers have left that were killed amid the library's own calls is put right by whoever comes next. Here nobody
 * does: so it is repaired, and then nothing may be wrong any more. */
static void inspect(void)
{
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    if (bufpool_inspect(run.store.pool, BUFPOOL_REPAIR, &run.findings) < 0 ||
        bufpool_inspect(run.store.pool, 0, &findings) < 0) {
        die("the pool cannot be inspected");
    }
    if (run.findings.lost_frames > 0 || wrong_in(&findings) > 0 || !findings.exact) {
        run.pool_wrong = "the pool is not whole";
    } else if (findings.allocated != run.census.pages) {
        run.pool_wrong = "the pool has another number of allocated pages than the tree";
    }
}

static int report(double seconds)
{
    const struct kv_meta *meta = run.store.meta;
    const struct kv_verdict *verdict = &run.verdict;
    uint64_t puts = 0;
    uint64_t deletes = 0;
    uint64_t gets = 0;
    uint64_t restarts = 0;
    uint64_t starts = 0;
    uint64_t refused = 0;
    for (uint32_t slot = 0; slot < options.workers; slot++) {
        struct kv_slot *of = &run.work.ledger->slots[slot];
        puts += atomic_load(&of->puts);
        deletes += atomic_load(&of->deletes);
        gets += atomic_load(&of->gets);
        restarts += atomic_load(&of->restarts);
        starts += atomic_load(&of->starts);
        refused += atomic_load(&of->refused);
    }
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    bufpool_stats(run.store.pool, &statistics);
    printf("%" PRIu32 " words of %s; %" PRIu32 " workers for %.0f s\n", kv_words_count(run.work.words), options.folder,
           options.workers, seconds);
    printf("  work      %" PRIu64 " puts, %" PRIu64 " deletes, %" PRIu64 " gets, of which %" PRIu64 " started again\n",
           puts, deletes, gets, restarts);
    printf("  pages     %" PRIu64 " allocations, %" PRIu64 " frees\n", statistics.allocations, statistics.frees);
    printf("  kills     %" PRIu64 ", %" PRIu64 " of them within 2 ms of the worker's start; %" PRIu64
           " workers came to work\n",
           run.kills, run.early, starts);
    if (refused > 0) {
        printf("  refused   %" PRIu64 " changes, for want of pages or memory\n", refused);
    }
    printf("  latch     %" PRIu64 " changes finished for the dead, %" PRIu64 " undone, %" PRIu64
           " times nothing to do\n",
           atomic_load(&meta->finished), atomic_load(&meta->undone), atomic_load(&meta->idle));
    printf("  tree      %u levels, %" PRIu64 " pages, %" PRIu64 " keys; %" PRIu64 " pages leaked; checked %" PRIu64
           " times\n",
           run.census.depth, run.census.pages, run.census.keys, run.census.leaked, run.checks);
    printf("  pool      %" PRIu64 " pages that the last workers killed had left amid a change; %s\n",
           run.findings.abandoned, run.pool_wrong == NULL ? "after the repair nothing is wrong" : run.pool_wrong);
    printf("  verified  %" PRIu32 " keys against %" PRIu64 " acknowledged changes: %" PRIu64 " wrong\n",
           kv_words_count(run.work.words), verdict->acknowledged, verdict->wrong_keys);
    printf("  open      %" PRIu64 " operations when their workers were killed; %" PRIu64
           " of them are the last change of their key\n",
           verdict->open, verdict->open_there);
    const char *wrong = run.census.wrong[0] != '\0' ? run.census.wrong : verdict->wrong;
    if (wrong[0] == '\0' && run.pool_wrong != NULL) {
        wrong = run.pool_wrong;
    }
    if (wrong[0] != '\0') {
        fflush(stdout);
        fprintf(stderr, "kv: %s\n", wrong);
        return 1;
    }
    printf("all is right\n");
    return 0;
}

static const struct option NAMES[] = {
    {"workers", required_argument, NULL, 'w'},
    {"seconds", required_argument, NULL, 's'},
    {"kill", required_argument, NULL, 'k'},
    {"words", required_argument, NULL, 'n'},
    {"capacity", required_argument, NULL, 'c'},
    {"seed", required_argument, NULL, 'r'},
    {NULL, 0, NULL, 0},
};

static uint32_t number(const char *text, uint32_t least, uint32_t most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > most) {
        fprintf(stderr, "kv: %s is not a number from %" PRIu32 " to %" PRIu32 "\n", text, least, most);
        exit(2);
    }
    return (uint32_t)value;
}

static void parse(int count, char **arguments)
{
    int option;
    options.seed = (uint32_t)time(NULL);
    while ((option = getopt_long(count, arguments, "", NAMES, NULL)) != -1) {
        switch (option) {
        case 'w':
            options.workers = number(optarg, 1, KV_MAX_WORKERS);
            break;
        case 's':
            options.seconds = number(optarg, 1, 86400);
            break;
        case 'k':
            options.kill_ms = number(optarg, 1, 60000);
            break;
        case 'n':
            options.words = number(optarg, 1, 10000000);
            break;
        case 'c':
            options.capacity_mib = number(optarg, 1, 100000);
            break;
        case 'r':
            options.seed = number(optarg, 0, UINT32_MAX);
            break;
        default:
            fprintf(
                stderr,
                "usage: kv [--workers N] [--seconds N] [--kill MS] [--words N] [--capacity MIB] [--seed N] [FOLDER]\n");
            exit(2);
        }
    }
    if (optind < count) {
        options.folder = arguments[optind];
    }
}

int main(int count, char **arguments)
{
    if (count == 8 && strcmp(arguments[1], "worker") == 0) {
        return kv_worker(arguments + 2);
    }
    parse(count, arguments);
    srandom(options.seed);
    set_up();
    load();
    alarm(options.seconds + 60); /* whatever hangs: this ends it, and the workers end with it */
    double begin = now();
    for (uint32_t slot = 0; slot < options.workers; slot++) {
        start(slot);
    }
    kill_some(begin + options.seconds);
    stop_workers();
    if (kv_check(&run.store, &run.census) < 0 || kv_verify(&run.work, &run.census, &run.verdict) < 0) {
        die("the store cannot be verified");
    }
    run.checks++;
    inspect();
    int result = report(now() - begin);
    bufpool_handle_close(&run.handle);
    if (bufpool_close(run.store.pool) < 0) {
        die("the store cannot be closed");
    }
    return result;
}
