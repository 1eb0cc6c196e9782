/* A process that is killed at any moment, amid its reports too, leaves whole lines in the log. The kernel may cut the very
 * write that the kill meets where it crosses a page of the file: then the last line lacks its end, and only that one. */
#include "hosts.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define ROUNDS (SANITIZED ? 10 : 34) /* of each trap */

static char path[] = "/tmp/bufpool-killed-XXXXXX";
static bufpool_pool *pool;

static void *strayer(void *argument)
{
    for (uint64_t i = *(uint64_t *)argument;; i++) {
        read_byte((char *)bufpool_address(pool, i % 4096) + i % GRANULE);
        bufpool_check(NULL);
    }
    return NULL;
}

__attribute__((noreturn)) static void stray_for_ever(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16 * MIB;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "resume";
    config.log = path;
    config.report_limit = UINT32_MAX;
    CHECK_OK(bufpool_open(&config, &pool));
    uint64_t numbers[] = {0, 1000, 2000};
    run_threads(3, strayer, numbers, sizeof *numbers);
    _exit(3);
}

static int cut;

/* Each line that is not empty begins and ends as it should, and none holds two. */
static long whole_lines(void)
{
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    char *line = NULL;
    size_t room = 0;
    long count = 0;
    ssize_t length;
    while ((length = getline(&line, &room, file)) > 0) {
        if (line[0] == '\n') { /* another thread's line was just growing, and looked as if it had been cut short */
            continue;
        }
        CHECK_IS(line[0], ==, '{');
        if (line[length - 1] != '\n') {
            CHECK_IS(fgetc(file), ==, EOF);
            cut++;
            break;
        }
        CHECK_IS(line[length - 2], ==, '}');
        CHECK_IS(count_in(line, "\"sequence\":"), >=, 1);
        CHECK_IS(count_in(line, "\"pc\":"), ==, 1);
        int depth = 0;
        for (ssize_t i = 0; i < length; i++) { /* no name here has a brace in it */
            depth += (line[i] == '{') - (line[i] == '}');
            CHECK(depth > 0 || i >= length - 2);
        }
        CHECK_IS(depth, ==, 0);
        count++;
    }
    free(line);
    fclose(file);
    return count;
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    uint64_t seed = 1;
    long most = 0;
    cut = 0;
    int round;
    for (round = 0; round < ROUNDS || most < 2; round++) {
        CHECK_OK(truncate(path, 0));
        fflush(NULL);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(CHILD_LIMIT);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
            stray_for_ever();
        }
        struct stat log;
        do { /* until it has begun, and then a random moment */
            sleep_ms(1);
            CHECK_OK(stat(path, &log));
        } while (log.st_size == 0 && waitpid(pid, NULL, WNOHANG) == 0);
        struct timespec moment = {0, (long)(next_random(&seed) % 10000000)};
        nanosleep(&moment, NULL);
        CHECK_OK(kill(pid, SIGKILL));
        int status;
        CHECK_IS(waitpid(pid, &status, 0), ==, pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        long lines = whole_lines();
        most = lines > most ? lines : most;
    }
    CHECK_IS(most, >=, 2);
    CHECK_IS(cut, <, round / 2);
    printf("%d processes killed, up to %ld lines in the log, %d cut short\n", round, most, cut);
}

static void remove_log(void)
{
    unlink(path);
}

int main(void)
{
    harness_begin();
    int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    atexit(remove_log);
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
