/* A log that cannot take a line: cut short, closed, a pipe without a reader, killed amid a write. No line ever runs into
 * another, and the host lives on. */
#include "json.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char directory[] = "/tmp/bufpool-log-XXXXXX";
static char path[128];

static bufpool_pool *open_logged(const char *log, const char *on_fault)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 2048 * GRANULE;
    config.on_fault = on_fault;
    config.log = log;
    config.report_limit = UINT32_MAX;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static void stray(bufpool_pool *pool, uint64_t page)
{
    CHECK(traps_at(bufpool_address(pool, page), NULL));
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit = {bytes, RLIM_INFINITY};
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
}

static void check_log(int whole, int torn)
{
    struct log_lines lines = count_lines(path);
    CHECK_IS(lines.whole, ==, whole);
    CHECK_IS(lines.torn, ==, torn);
    CHECK_IS(lines.empty, ==, 0);
}

/* The file may grow by some bytes only: the line is cut, and SIGXFSZ, which would kill, does not come. */
static void cut_short(void *argument)
{
    (void)argument;
    struct stat info;
    bufpool_pool *pool = open_logged(path, "resume");
    bufpool_pool *second = open_logged(path, "resume");
    stray(pool, 1);
    CHECK_OK(stat(path, &info));
    limit_files((rlim_t)info.st_size + 100);
    stray(pool, 2);
    CHECK_IS(stats_of(pool).reports_lost, ==, 1);
    stray(pool, 3); /* not one byte has room now */
    stray(second, 4);
    CHECK_IS(stats_of(pool).reports_lost, ==, 2);
    CHECK_IS(stats_of(second).reports_lost, ==, 1);
    limit_files(RLIM_INFINITY);
    stray(second, 5); /* another writer than the one that was cut */
    stray(pool, 6);
    check_log(3, 1);
    CHECK_IS(stats_of(pool).reports_lost, ==, 2);
}

static volatile sig_atomic_t signals;

static void count_signal(int signo)
{
    (void)signo;
    signals++;
}

/* A SIGXFSZ of the host's own that waits is still there afterwards. */
static void host_signal(void *argument)
{
    (void)argument;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    signal(SIGXFSZ, count_signal);
    bufpool_pool *pool = open_logged(path, "resume");
    limit_files(1);
    stray(pool, 1);
    CHECK_IS(signals, ==, 0);
    CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
    CHECK_OK(raise(SIGXFSZ));
    stray(pool, 2);
    sigset_t pending;
    CHECK_OK(sigpending(&pending));
    CHECK(sigismember(&pending, SIGXFSZ) == 1);
    CHECK_OK(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
    CHECK_IS(signals, ==, 1);
    CHECK_IS(stats_of(pool).reports_lost, ==, 2);
}

/* Somebody who was killed has left half a line. */
static void half_line(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_logged(path, "resume");
    stray(pool, 1);
    FILE *file = fopen(path, "a");
    CHECK(file != NULL && fputs("{\"sequence\":3,\"ti", file) >= 0 && fclose(file) == 0);
    stray(pool, 2);
    stray(pool, 3);
    check_log(3, 1);
    CHECK_OK(truncate(path, 0)); /* as a rotation does */
    stray(pool, 4);
    check_log(1, 0);
}

/* The descriptor that has the log open. */
static int log_fd(void)
{
    for (int fd = 0; fd < 8192; fd++) {
        char self[32], target[160] = "";
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        if (readlink(self, target, sizeof target - 1) > 0 && strcmp(target, path) == 0) {
            return fd;
        }
    }
    return -1;
}

/* As a daemon that closes every descriptor does; then the log's number is another file's. */
static void closed(void *argument)
{
    (void)argument;
    char other[160];
    snprintf(other, sizeof other, "%s/other", directory);
    bufpool_pool *pool = open_logged(path, "resume");
    stray(pool, 1);
    int fd = log_fd();
    CHECK_OK(close(fd));
    stray(pool, 2);
    int number = open(other, O_WRONLY | O_CREAT, 0600);
    CHECK_IS(dup2(number, fd), ==, fd);
    CHECK_OK(close(number));
    stray(pool, 3);
    struct stat info;
    CHECK_OK(stat(other, &info));
    CHECK_IS(info.st_size, ==, 0);
    unlink(other);
    check_log(1, 0);
    CHECK_IS(stats_of(pool).reports_lost, ==, 2);
}

static void fifo(void *argument)
{
    (void)argument;
    char name[160];
    snprintf(name, sizeof name, "%s/fifo", directory);
    CHECK_OK(mkfifo(name, 0600));
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    config.capacity = MIB;
    config.log = name;
    CHECK_IS(bufpool_open(&config, &pool), ==, -ENXIO); /* nobody reads; opening does not wait */
    char sentence[512];
    bufpool_last_error(sentence, sizeof sentence);
    CHECK(strstr(sentence, "a FIFO that nobody has open for reading") != NULL);
    int reader = open(name, O_RDONLY | O_NONBLOCK);
    CHECK(reader >= 0);
    pool = open_logged(name, "resume");
    stray(pool, 1);
    static char text[65536];
    ssize_t got = read(reader, text, sizeof text - 1);
    CHECK(got > 0 && got <= 4096 && text[got - 1] == '\n');
    text[got - 1] = 0;
    check_json(text);
    close(reader);
    stray(pool, 2); /* no SIGPIPE */
    CHECK_IS(stats_of(pool).reports_lost, ==, 1);
    unlink(name);
}

/* stderr is a pipe whose reader is gone, or is closed: the program goes on. */
static void no_stderr(void *argument)
{
    int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
    bufpool_pool *pool = open_logged(path, "resume");
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK(dup2(ends[1], STDERR_FILENO) >= 0);
    close(ends[0]);
    if (argument != NULL) {
        close(STDERR_FILENO);
    }
    read_byte(bufpool_address(pool, 1));
    CHECK_OK(bufpool_close(pool));
    pool = open_logged(NULL, "raise");
    read_byte(bufpool_address(pool, 1));
    CHECK_IS(bufpool_flush(pool), ==, 1); /* not in a handler, where signals are blocked */
    dup2(saved, STDERR_FILENO);
    check_log(1, 0);
}

#define PROCESSES 4
#define REPORTS 1000

/* Processes that log at once, into one file. */
static void together(void *argument)
{
    (void)argument;
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            alarm(CHILD_LIMIT);
            bufpool_pool *pool = open_logged(path, "resume");
            for (uint64_t page = 0; page < REPORTS; page++) {
                stray(pool, page);
            }
            _exit(stats_of(pool).reports_lost == 0 ? 0 : 1);
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        CHECK_IS(waitpid(children[i], &status, 0), ==, children[i]);
        CHECK_IS(status, ==, 0);
    }
    struct log_lines lines = count_lines(path);
    CHECK_IS(lines.whole, ==, PROCESSES * REPORTS);
    CHECK_IS(lines.torn, ==, 0);
}

static off_t size_of_log(void)
{
    struct stat info;
    return stat(path, &info) == 0 ? info.st_size : 0;
}

#define KILLED 60

/* Processes that are killed while they report. What the kernel may leave of a line ends at a page of the file. */
static void killed(void *argument)
{
    (void)argument;
    uint64_t random = 1;
    for (int i = 0; i < KILLED; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(CHILD_LIMIT);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            bufpool_pool *pool = open_logged(path, "resume");
            for (uint64_t page = 0;; page = (page + 1) % 2048) {
                stray(pool, page);
            }
        }
        int status;
        off_t before = size_of_log();
        do { /* until it has begun, and then a random moment */
            sleep_ms(1);
        } while (size_of_log() == before && waitpid(child, &status, WNOHANG) == 0);
        struct timespec pause = {0, (long)(next_random(&random) % 3000000)};
        nanosleep(&pause, NULL);
        CHECK_OK(kill(child, SIGKILL));
        CHECK_IS(waitpid(child, &status, 0), ==, child);
        struct log_lines lines = count_lines(path);
        CHECK(lines.torn == 0 || lines.torn_end % 4096 == 0);
    }
    CHECK_IS(count_lines(path).whole, >=, KILLED / 2);
}

static void run(void (*function)(void *), void *argument)
{
    struct child child = run_child(function, argument);
    CHECK_PASSED(child);
    unlink(path);
}

int main(void)
{
    harness_begin();
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/log", directory);
    run(cut_short, NULL);
    run(host_signal, NULL);
    run(half_line, NULL);
    run(closed, NULL);
    run(fifo, NULL);
    run(no_stderr, NULL);
    run(no_stderr, path);
    run(together, NULL);
    run(killed, NULL);
    rmdir(directory);
    return 0;
}
