/* What the kernel itself does on a hugetlbfs mount with noautofill, by system calls alone, without bufpool. Every check
 * is a line; those named "trap ..." fail on a kernel without the option, where the mount is a plain one. Needs root. */
#define _GNU_SOURCE
#include "raw.h"
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static const char trapping[] = "/tmp/raw-noautofill", plain[] = "/tmp/raw-plain";

/* ---- The mount ---- */

static void mount_both(void)
{
    const char *check = "trap mount option is accepted";
    need(mkdir(trapping, 0755) == 0 || errno == EEXIST, trapping);
    need(mkdir(plain, 0755) == 0 || errno == EEXIST, plain);
    need(mount("none", plain, "hugetlbfs", 0, "pagesize=2M") == 0, plain);
    if (mount("none", trapping, "hugetlbfs", 0, "pagesize=2M,noautofill") == 0) {
        passed(check);
        return;
    }
    failed(check, "mount: %s", strerror(errno));
    need(mount("none", trapping, "hugetlbfs", 0, "pagesize=2M") == 0, trapping);
}

static bool shows_option(const char *table, const char *mount_point)
{
    char line[1024], name[64];
    snprintf(name, sizeof name, " %s ", mount_point);
    FILE *file = fopen(table, "r");
    need(file != NULL, table);
    bool shown = false;
    while (fgets(line, sizeof line, file) != NULL) {
        shown = shown || (strstr(line, name) != NULL && strstr(line, ",noautofill") != NULL);
    }
    fclose(file);
    return shown;
}

static void check_shown(const char *check, const char *table)
{
    if (!shows_option(table, trapping)) {
        failed(check, "the line of %s has no noautofill", trapping);
    } else if (shows_option(table, plain)) {
        failed(check, "the line of %s has noautofill too", plain);
    } else {
        passed(check);
    }
}

static void check_plain_fills(void)
{
    const char *check = "a mount without the option fills at a touch";
    int fd = make_file(plain, 1);
    char *at = map(fd, 1, MAP_SHARED | MAP_NORESERVE);
    bool trapped = touch(at + ODD, false);
    if (trapped || pages_filled(fd) != 1) {
        failed(check, "%s, %ld page(s) filled", trapped ? "SIGBUS" : "no signal", pages_filled(fd));
    } else {
        passed(check);
    }
    munmap(at, PAGE);
    close(fd);
}

/* ---- Filling and punching ---- */

static void check_mapping_traps(const char *check, int flags, bool write)
{
    int fd = make_file(trapping, 1);
    char *at = map(fd, 1, flags);
    check_trap(check, fd, at + ODD, write);
    munmap(at, PAGE);
    close(fd);
}

static void check_fallocate_and_punch(void)
{
    const char *check = "fallocate fills with zeros, and writes stay";
    int fd = make_file(trapping, 3);
    char *at = map(fd, 3, MAP_SHARED | MAP_NORESERVE), *again = map(fd, 3, MAP_SHARED | MAP_NORESERVE);
    need(fallocate(fd, 0, PAGE, PAGE) == 0, "fallocate");
    char *page = at + PAGE;
    if (pages_filled(fd) != 1 || touch(page, false) || !is_all(page, 0)) {
        failed(check, "%ld page(s) filled, not 1, or not with zeros", pages_filled(fd));
    } else if (memset(page, 'w', PAGE), !is_all(again + PAGE, 'w')) {
        failed(check, "another mapping does not show what was written");
    } else {
        passed(check);
    }
    check_trap("trap on the last byte before an allocated page", fd, page - 1, false);
    check_trap("trap on the first byte after an allocated page", fd, page + PAGE, true);

    need(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE) == 0, "punch");
    check_trap("trap after a punch", fd, page + ODD, false);
    need(fallocate(fd, 0, PAGE, PAGE) == 0, "fallocate");
    if (touch(page, false) || !is_all(page, 0)) {
        failed("a punched page comes back as zeros", "it holds %d", page[0]);
    } else {
        passed("a punched page comes back as zeros");
    }
    munmap(at, 3 * PAGE);
    munmap(again, 3 * PAGE);
    close(fd);
}

static void check_private_copy(void)
{
    const char *check = "a private mapping copies an allocated page when it writes";
    int fd = make_file(trapping, 1);
    need(fallocate(fd, 0, 0, PAGE) == 0, "fallocate");
    char *shared = map(fd, 1, MAP_SHARED | MAP_NORESERVE), *private = map(fd, 1, MAP_PRIVATE | MAP_NORESERVE);
    if (touch(private, true) || private[0] != 1 || shared[0] != 0) {
        failed(check, "a signal, or the file has the private write");
    } else {
        passed(check);
    }
    munmap(shared, PAGE);
    munmap(private, PAGE);
    close(fd);
}

static void check_populate(void)
{
    const char *check = "trap MAP_POPULATE fills nothing";
    int fd = make_file(trapping, 2);
    char *at = map(fd, 2, MAP_SHARED | MAP_POPULATE);
    if (pages_filled(fd) != 0) {
        failed(check, "it filled %ld page(s)", pages_filled(fd));
    } else {
        passed(check);
    }
    munmap(at, 2 * PAGE);
    close(fd);
}

/* ---- System calls ---- */

static void check_system_calls(void)
{
    int fd = make_file(trapping, 2), ends[2];
    char *at = map(fd, 2, MAP_SHARED | MAP_NORESERVE), byte = 'b';
    need(pipe(ends) == 0 && write(ends[1], &byte, 1) == 1, "pipe");

    /* The set is copied before the way, which is none, is looked at; nothing but the answer is changed by this. */
    check_efault("trap a system call that reads", syscall(SYS_rt_sigprocmask, 99, at, NULL, 8), fd);
    /* A filled page would hide it from the next check. */
    need(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * PAGE) == 0, "punch");
    check_efault("trap a system call that writes", read(ends[0], at + ODD, 1), fd);
    need(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * PAGE) == 0, "punch");

    const char *check = "read(2) of a hole gives zeros and fills nothing";
    char data[64] = "x";
    ssize_t got = pread(fd, data, sizeof data, ODD);
    if (got != sizeof data || data[0] != 0 || pages_filled(fd) != 0) {
        failed(check, "%zd bytes, the first %d, %ld page(s) filled", got, data[0], pages_filled(fd));
    } else {
        passed(check);
    }
    munmap(at, 2 * PAGE);
    close(ends[0]);
    close(ends[1]);
    close(fd);
}

/* ---- userfaultfd, and other processes ---- */

static int arm(char *at, size_t pages, uint64_t features)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    struct uffdio_register range = {.range = {.start = (uintptr_t)at, .len = pages * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    need(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0 && ioctl(uffd, UFFDIO_REGISTER, &range) == 0, "userfaultfd");
    return uffd;
}

static void check_uffd_copy(void)
{
    const char *check = "UFFDIO_COPY fills a hole";
    int fd = make_file(trapping, 2);
    char *at = map(fd, 2, MAP_SHARED | MAP_NORESERVE), *data = malloc(PAGE);
    need(data != NULL, "malloc");
    memset(data, 'u', PAGE);
    int uffd = arm(at, 2, UFFD_FEATURE_SIGBUS);
    struct uffdio_copy copy = {.dst = (uintptr_t)at, .src = (uintptr_t)data, .len = PAGE};
    if (ioctl(uffd, UFFDIO_COPY, &copy) != 0) {
        failed(check, "UFFDIO_COPY: %s", strerror(errno));
    } else if (touch(at, false) || !is_all(at, 'u') || pages_filled(fd) != 1) {
        failed(check, "the page is not what was copied, or %ld page(s) filled, not 1", pages_filled(fd));
    } else {
        passed(check);
    }
    check_trap("registered with userfaultfd a hole gives SIGBUS on every kernel", fd, at + PAGE + ODD, false);
    free(data);
    munmap(at, 2 * PAGE);
    close(uffd);
    close(fd);
}

/* The child opens and maps the file for itself and registers nothing, while the parent has it registered. */
static void check_other_process(void)
{
    int fd = make_file(trapping, 2);
    char *at = map(fd, 2, MAP_SHARED | MAP_NORESERVE), path[64];
    int uffd = arm(at, 2, UFFD_FEATURE_SIGBUS);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", getpid(), fd);
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        int own = open(path, O_RDWR | O_CLOEXEC);
        need(own >= 0, path);
        alarm(20);
        failures = 0;
        char *again = map(own, 2, MAP_SHARED | MAP_NORESERVE);
        check_trap("trap in a process that only maps the file", own, again + ODD, true);
        check_trap("trap in a child, through the mapping it inherits", own, at + PAGE + ODD, false);
        exit(failures != 0);
    }
    int status = 0;
    need(waitpid(child, &status, 0) == child, "waitpid");
    failures += status != 0;
    munmap(at, 2 * PAGE);
    close(uffd);
    close(fd);
}

/* ---- Exhaustion ---- */

static long free_pages(void)
{
    long count = -1;
    FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r");
    need(file != NULL && fscanf(file, "%ld", &count) == 1, "free_hugepages");
    fclose(file);
    return count;
}

static void check_exhaustion(void)
{
    const char *check = "fallocate without a free page gives ENOSPC and keeps the others";
    long pages = free_pages(), filled = 0, kept = 0;
    int fd = make_file(trapping, (size_t)pages + 1);
    char *at = map(fd, (size_t)pages + 1, MAP_SHARED | MAP_NORESERVE);
    while (filled <= pages && fallocate(fd, 0, (off_t)((size_t)filled * PAGE), PAGE) == 0) {
        if (touch(at + (size_t)filled * PAGE, true)) {
            break;
        }
        filled++;
    }
    int error = errno;
    for (long i = 0; i < filled; i++) {
        kept += at[(size_t)i * PAGE] == 1;
    }
    munmap(at, ((size_t)pages + 1) * PAGE);
    close(fd);
    if (filled != pages || kept != pages || error != ENOSPC || free_pages() != pages) {
        failed(check, "of %ld free pages %ld were filled (%s), %ld kept, and %ld are free afterwards", pages, filled,
               strerror(error), kept, free_pages());
    } else {
        passed(check);
    }
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    need(sigaction(SIGBUS, &action, NULL) == 0, "sigaction");
    mount_both();
    check_shown("trap mount option in /proc/mounts", "/proc/mounts");
    check_shown("trap mount option in /proc/self/mountinfo", "/proc/self/mountinfo");
    check_plain_fills();
    check_mapping_traps("trap on a read", MAP_SHARED | MAP_NORESERVE, false);
    check_mapping_traps("trap on a write", MAP_SHARED | MAP_NORESERVE, true);
    check_mapping_traps("trap in a mapping with a reservation", MAP_SHARED, true);
    check_mapping_traps("trap on a read of a private mapping", MAP_PRIVATE | MAP_NORESERVE, false);
    check_mapping_traps("trap on a write to a private mapping", MAP_PRIVATE | MAP_NORESERVE, true);
    check_fallocate_and_punch();
    check_private_copy();
    check_populate();
    check_system_calls();
    check_uffd_copy();
    check_other_process();
    check_exhaustion();
    need(umount(trapping) == 0 && umount(plain) == 0, "umount");
    return failures != 0;
}
