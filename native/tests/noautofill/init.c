/* The first program of the kernel under test: mounts what the tests need, runs the programs that the kernel's command
 * line names after "--", one after the other, and switches the machine off. It reports in lines that begin "init: ". */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM_LIMIT 300 /* seconds that a program may run */

static char *const environment[] = {
    "PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp", "BUFPOOL_TEST_HUGETLBFS=/huge", "BUFPOOL_TEST_NOAUTOFILL=/huge-noautofill",
    NULL};

/* Mounts a file system of this type on a new directory. */
static int mount_on(const char *directory, const char *type, const char *options)
{
    if (mkdir(directory, 0755) != 0 && errno != EEXIST) {
        printf("init: mkdir %s: %s\n", directory, strerror(errno));
    }
    if (mount("none", directory, type, 0, options) != 0) {
        printf("init: mount %s %s %s: %s\n", directory, type, options, strerror(errno));
        return -1;
    }
    printf("init: mount %s %s %s: done\n", directory, type, options);
    return 0;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Waits for the program and for orphans of its, until the time is up; true: it has ended. */
static bool wait_for(pid_t program, int *status)
{
    for (double end = seconds() + PROGRAM_LIMIT; seconds() < end;) {
        int other;
        pid_t ended = waitpid(-1, &other, WNOHANG);
        if (ended == program) {
            *status = other;
            return true;
        }
        if (ended <= 0) {
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        }
    }
    return false;
}

static void run(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "/bin/%s", name);
    printf("init: begin %s\n", name);
    double start = seconds();
    pid_t program = fork();
    if (program == 0) {
        setsid();
        execve(path, (char *[]){path, NULL}, environment);
        printf("init: exec %s: %s\n", path, strerror(errno));
        _exit(126);
    }
    int status = 0;
    bool ended = program > 0 && wait_for(program, &status);
    /* From process 1 this reaches every other process: nothing outlives its program, or keeps huge pages. */
    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0) {
    }
    const char *how = !ended ? "time-out" : WIFSIGNALED(status) ? "signal" : "exit";
    int code = !ended ? PROGRAM_LIMIT : WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    printf("init: end %s %s %d after %.1f s\n", name, how, code, seconds() - start);
}

/* Lines end as they are written, and the kernel prints only errors among them. */
static void set_up_console(void)
{
    struct termios settings;
    if (tcgetattr(STDOUT_FILENO, &settings) == 0) {
        settings.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(STDOUT_FILENO, TCSANOW, &settings);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    klogctl(8, NULL, 4);
}

int main(int argc, char **argv)
{
    set_up_console();
    mount_on("/proc", "proc", "");
    mount_on("/sys", "sysfs", "");
    mount_on("/dev", "devtmpfs", "");
    mount_on("/tmp", "tmpfs", "mode=1777");
    mount_on("/huge", "hugetlbfs", "mode=1777");
    if (mount_on("/huge-noautofill", "hugetlbfs", "mode=1777,noautofill") != 0) {
        mount_on("/huge-noautofill", "hugetlbfs", "mode=1777");
    }
    for (int i = 1; i < argc; i++) {
        run(argv[i]);
    }
    printf("init: all programs have run\n");
    tcdrain(STDOUT_FILENO);
    reboot(RB_AUTOBOOT);
    return 1;
}
