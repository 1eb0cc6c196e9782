/*
 * main.c: detection ROW bug|correct: one row of the campaign; detection pages|sqlite correct: a workload.
 *
 * On standard error, each in a line of its own that begins with "## ": "bug" with what a report has to name; "over" when
 * the program has got past it; "error", "failed", "explained", "pattern", "audit": what a call answered; "died": a child's
 * signal. Exit code 77: this cannot be had here, and why.
 */
#include "rows.h"
#include "workload.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>

volatile char seen;

static void write_all(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t done = write(STDERR_FILENO, text, length);
        if (done <= 0) {
            _exit(1);
        }
        text += done;
        length -= (size_t)done;
    }
}

/* In one piece, past the buffers of stdio: detectors write to the same place. */
static void say_list(const char *kind, const char *format, va_list list)
{
    static _Thread_local char text[20000];
    size_t length = (size_t)snprintf(text, sizeof text, "## %s ", kind);
    length += (size_t)vsnprintf(text + length, sizeof text - length - 1, format, list);
    length = length < sizeof text - 1 ? length : sizeof text - 2;
    text[length++] = '\n';
    write_all(text, length);
}

void say(const char *kind, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say_list(kind, format, list);
    va_end(list);
}

void lacking(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say_list("lacking", format, list);
    va_end(list);
    _exit(77);
}

void must_failed(const char *file, int line, const char *condition)
{
    say("broken", "%s:%d: %s", file, line, condition);
    _exit(70);
}

void bug_here(uint64_t page, const void *at)
{
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    say("bug", "page=%" PRIu64 " address=0x%" PRIxPTR " pid=%d thread=%ld name=%s", page, (uintptr_t)at, (int)getpid(),
        syscall(SYS_gettid), name);
}

void bug_over(void)
{
    say("over", ".");
}

void pin(struct layer *pool, uint64_t page, bool write)
{
    MUST(layer_pin(pool, page, write) == 0);
}

void unpin(struct layer *pool, uint64_t page)
{
    MUST(layer_unpin(pool, page) == 0);
}

uint64_t add(struct layer *pool)
{
    uint64_t page = layer_allocate(pool);
    pin(pool, page, true);
    write_line(layer_at(pool, page), page);
    unpin(pool, page);
    return page;
}

struct layer *begin_with(const char *name, uint64_t pages, uint64_t used, bool shared)
{
    struct layer *pool = layer_open(name, pages, shared);
    for (uint64_t n = 0; n < used; n++) {
        MUST(add(pool) == n);
    }
    return pool;
}

struct layer *begin(void)
{
    return begin_with("buffers", PAGES, USED, false);
}

void join_child(pid_t pid)
{
    MUST(pid > 0);
    int status;
    MUST(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status)) {
        say("died", "%d", WTERMSIG(status));
    } else if (WEXITSTATUS(status) == 77) {
        _exit(77); /* it has said why */
    }
}

void in_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, function, argument) == 0);
    MUST(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv)
{
    static const struct row *const families[] = {lifetime_rows, pin_rows,     bound_rows,   call_rows,
                                                 thread_rows,   process_rows, content_rows, sqlite_rows};
    if (argc != 3 || (strcmp(argv[2], "bug") != 0 && strcmp(argv[2], "correct") != 0)) {
        fprintf(stderr, "usage: %s ROW|pages|sqlite bug|correct\n", argv[0]);
        return 2;
    }
    MUST(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) == 0);
    alarm(300);
    if (strcmp(argv[1], "pages") == 0 || strcmp(argv[1], "sqlite") == 0) {
        (argv[1][0] == 'p' ? workload : workload_sqlite)();
        return 0;
    }
    int id = atoi(argv[1]);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (const struct row *row = families[f]; row->make != NULL; row++) {
            if (row->id == id) {
                row->make(strcmp(argv[2], "bug") == 0);
                return 0;
            }
        }
    }
    lacking("there is no program for row %d", id);
}
