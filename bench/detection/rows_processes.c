/* rows_processes.c: strays of other processes: children, and such as have the pool, too. */
#include "rows.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void stray_in_child(pid_t pid, char *at)
{
    if (pid == 0) {
        alarm(300);
        bug_here(VICTIM, at);
        look(at);
        bug_over();
        _exit(0);
    }
    join_child(pid);
}

static void in_a_child(bool bug)
{
    struct layer *pool = begin();
    pin(pool, VICTIM, false);
    if (bug) {
        unpin(pool, VICTIM);
        layer_free(pool, VICTIM);
    }
    stray_in_child(fork(), layer_at(pool, VICTIM) + 5);
}

/* Past the handlers of pthread_atfork(). */
static void in_a_bare_child(bool bug)
{
    struct layer *pool = begin();
    pin(pool, VICTIM, false);
    if (bug) {
        unpin(pool, VICTIM);
        layer_free(pool, VICTIM);
    }
    pid_t pid = bug ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : fork();
    stray_in_child(pid, layer_at(pool, VICTIM) + 5);
}

/* A process that was there before the pool was, and gets it by a socket; with a channel in either direction. */
struct other {
    pid_t pid;
    int socket;
};

static struct other start(void (*run)(int socket))
{
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        alarm(300);
        prctl(PR_SET_NAME, "attached");
        close(ends[0]);
        run(ends[1]);
        _exit(0);
    }
    close(ends[1]);
    return (struct other){pid, ends[0]};
}

static void tell(int socket)
{
    char byte = 0;
    MUST(write(socket, &byte, 1) == 1);
}

/* False: the other one has ended. */
static bool hear(int socket)
{
    char byte;
    return read(socket, &byte, 1) == 1;
}

static bool buggy;

static void attached(int socket)
{
    struct layer *pool = layer_receive(socket);
    char *at = layer_at(pool, VICTIM) + 5;
    if (!buggy) {
        pin(pool, VICTIM, false);
    }
    bug_here(VICTIM, at);
    look(at);
    bug_over();
}

static void in_an_attached_process(bool bug)
{
    buggy = bug;
    struct other other = start(attached);
    struct layer *pool = begin_with("buffers", PAGES, USED, true);
    if (bug) {
        layer_free(pool, VICTIM);
    }
    layer_send(pool, other.socket);
    join_child(other.pid);
}

/* Has pinned the page, and read it, when the other process frees it. */
static void reading(int socket)
{
    struct layer *pool = layer_receive(socket);
    char *at = layer_at(pool, VICTIM) + 5;
    pin(pool, VICTIM, false);
    look(at);
    tell(socket);
    MUST(hear(socket));
    bug_here(VICTIM, at);
    look(at);
    bug_over();
}

static void freed_by_another_process(bool bug)
{
    struct other other = start(reading);
    struct layer *pool = begin_with("buffers", PAGES, USED, true);
    layer_send(pool, other.socket);
    if (hear(other.socket)) {
        layer_free(pool, bug ? VICTIM : VICTIM + 1);
        tell(other.socket);
    }
    join_child(other.pid);
}

/* Maps the pool's file as any file. */
static void by_a_mapping_of_its_own(bool bug)
{
    struct layer *pool = begin_with("buffers", PAGES, USED, true);
    if (bug) {
        layer_free(pool, VICTIM);
    }
    off_t offset;
    int fd = layer_file(pool, VICTIM, &offset);
    pid_t pid = fork();
    if (pid == 0) {
        struct stat status;
        MUST(fstat(fd, &status) == 0);
        char *file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
        MUST(file != MAP_FAILED);
        char *at = file + offset + 5;
        bug_here(VICTIM, at);
        look(at);
        bug_over();
        _exit(0);
    }
    join_child(pid);
}

const struct row process_rows[] = {
    {20, in_a_child},      {23, in_an_attached_process},  {30, freed_by_another_process},
    {37, in_a_bare_child}, {38, by_a_mapping_of_its_own}, ROWS_END,
};
