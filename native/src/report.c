/*
 * report.c: writing reports from a signal handler.
 *
 * A handler may run on a small alternate stack, so the text is built in one of a few static buffers, claimed by
 * compare-and-swap. A thread that finds none free waits, two seconds at most; after that it writes one short line from
 * its stack rather than nothing.
 *
 * The log. Each report is one line, written by one write(2) to a file opened with O_APPEND, so that the lines of several
 * threads and processes never mix (on local file systems; NFS has no atomic append). A full disk or a limit may cut a
 * line short, and the kernel ends a killed process's write at a page of the file. Nobody can take such a torso back, since
 * another process may have written behind it. So a writer that finds the log not ending in a newline begins a new line
 * first, and a reader skips what is no whole line. A pipe takes no more than PIPE_BUF bytes at once: a longer line is
 * written with less of its stacks.
 */
#include "report.h"

#include "error.h"
#include "format.h"
#include "modules.h"
#include "text.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFERS 4
#define BUFFER_SIZE 32768
#define PATIENCE_NS 2000000000
#define STEP_NS 100000
#define SOON_NS 200000000

struct buffer {
    char text[BUFFER_SIZE];
    struct bp_frames frames;
    bufpool_fault cut; /* a fault with less of its stacks */
};

static struct buffer buffers[BUFFERS];
static atomic_flag claimed[BUFFERS];
static atomic_int writing;
static atomic_flag turn; /* one report at a time on stderr */

/* ---- Buffers ---- */

/* NULL: none is free. Counts as writing until dropped, also then. */
static struct buffer *claim(int64_t ns)
{
    atomic_fetch_add(&writing, 1);
    for (;; ns -= STEP_NS) {
        for (int i = 0; i < BUFFERS; i++) {
            if (!atomic_flag_test_and_set(&claimed[i])) {
                return &buffers[i];
            }
        }
        if (ns <= 0) {
            return NULL;
        }
        bp_kernel_sleep_ns(STEP_NS);
    }
}

static void drop(struct buffer *buffer)
{
    if (buffer != NULL) {
        atomic_flag_clear(&claimed[buffer - buffers]);
    }
    atomic_fetch_sub(&writing, 1);
}

void bp_report_wait(void)
{
    for (int patience = 0; patience < 1000 && atomic_load(&writing) > 0; patience++) {
        bp_kernel_sleep_ns(1000000);
    }
}

void bp_report_renew(void)
{
    for (int i = 0; i < BUFFERS; i++) {
        atomic_flag_clear(&claimed[i]);
    }
    atomic_flag_clear(&turn);
    atomic_store(&writing, 0);
}

/* ---- stderr ---- */

static void emergency(const bufpool_fault *fault)
{
    char line[160];
    struct bp_text text = {line, sizeof line, 0};
    bp_text_put(&text, "bufpool: stray access at ");
    bp_text_hex(&text, fault->address);
    bp_text_put(&text, ", pc ");
    bp_text_hex(&text, fault->pc);
    bp_text_put(&text, " (no buffer free for the full report)\n");
    size_t length = bp_text_end(&text);
    bp_kernel_write(STDERR_FILENO, line, length < sizeof line ? length : sizeof line - 1, 0);
}

static bool take_turn(int64_t ns)
{
    while (atomic_flag_test_and_set(&turn)) {
        if (ns <= 0) {
            return false;
        }
        bp_kernel_sleep_ns(STEP_NS);
        ns -= STEP_NS;
    }
    return true;
}

static void write_stderr(const char *text, size_t length)
{
    bool mine = take_turn(PATIENCE_NS);
    bp_kernel_write(STDERR_FILENO, text, length < BUFFER_SIZE ? length : BUFFER_SIZE - 1, 0);
    if (mine) {
        atomic_flag_clear(&turn);
    }
}

/* Gives up where nobody reads stderr: after a while the first time, then at once until somebody does. */
static int write_stderr_soon(const char *text, size_t length)
{
    static atomic_bool unread;
    int64_t ns = atomic_load(&unread) ? 0 : SOON_NS;
    int code = -EAGAIN;
    if (take_turn(ns)) {
        code = bp_kernel_write_soon(STDERR_FILENO, text, length < BUFFER_SIZE ? length : BUFFER_SIZE - 1, ns);
        atomic_flag_clear(&turn);
    }
    atomic_store(&unread, code == -EAGAIN);
    return code;
}

void bp_report_stderr(const bufpool_fault *fault)
{
    struct buffer *buffer = claim(PATIENCE_NS);
    if (buffer == NULL) {
        emergency(fault);
    } else {
        write_stderr(buffer->text, bp_format_text(fault, &buffer->frames, buffer->text, BUFFER_SIZE));
    }
    drop(buffer);
}

int bp_report_stderr_soon(const bufpool_fault *fault)
{
    struct buffer *buffer = claim(SOON_NS);
    int code = -EAGAIN;
    if (buffer != NULL) {
        code = write_stderr_soon(buffer->text, bp_format_text(fault, &buffer->frames, buffer->text, BUFFER_SIZE));
    }
    drop(buffer);
    return code == -EAGAIN ? code : 0; /* a stderr that is closed or broken is nothing to speak of, here as elsewhere */
}

/* ---- The log ---- */

int bp_report_open(bufpool_pool *pool, const char *path)
{
    pool->log = path == NULL ? -1 : bp_kernel_open_log(path);
    if (path == NULL) {
        return 0;
    }
    int code = pool->log < 0 ? pool->log : bp_kernel_identify(pool->log, pool->log_id);
    if (code < 0) {
        const char *reason = code == -ELOOP   ? " (it is a symbolic link, which is not followed)"
                             : code == -ENXIO ? " (a FIFO that nobody has open for reading, or a socket)"
                                              : "";
        return bp_error(code, "cannot open the log \"%s\": %s%s", path, strerror(-code), reason);
    }
    return 0;
}

/* Is the descriptor still the log? A daemon's fork closes them all, and the number may be another file's by now. */
static bool is_log(const bufpool_pool *pool)
{
    uint64_t id[2];
    return bp_kernel_identify(pool->log, id) == 0 && id[0] == pool->log_id[0] && id[1] == pool->log_id[1];
}

/* Does the log end in the middle of a line? Another process may be amid a write, so it is looked at again. */
static bool is_torn(const bufpool_pool *pool)
{
    for (int patience = 0; patience < 4; patience++) {
        int last = bp_kernel_last_byte(pool->log);
        if (last < 0 || last == '\n') {
            return atomic_load(&pool->log_torn) && last < 0;
        }
        bp_kernel_sleep_ns(50000);
    }
    return true;
}

/* text[0] is room for a line break; the line is length bytes from text[1] on, with room for another one. */
static void write_line(bufpool_pool *pool, char *text, size_t length)
{
    text[0] = '\n';
    text[1 + length] = '\n';
    bool torn = is_torn(pool);
    int code = bp_kernel_write(pool->log, text + !torn, length + 1 + torn, 1);
    if (code == 0) {
        atomic_store(&pool->log_torn, false);
    } else {
        atomic_store(&pool->log_torn, torn || code == -ENOSPC); /* -ENOSPC also stands for a short write */
        atomic_fetch_add(&pool->reports_lost, 1);
    }
}

/* The fault's line of less than room bytes, with half of its stacks as often as it takes; its length. */
static size_t format_line(struct buffer *buffer, const bufpool_fault *fault, size_t room)
{
    size_t length = bp_format_json(fault, &buffer->frames, buffer->text + 1, room);
    if (length >= room) {
        buffer->cut = *fault;
    }
    for (bool done = false; length >= room && !done;) {
        bufpool_fault *cut = &buffer->cut;
        done = cut->stack_depth + cut->allocated.stack_depth + cut->freed.stack_depth == 0;
        if (done) {
            cut->allocated.caller[0] = cut->freed.caller[0] = 0;
        }
        cut->stack_depth /= 2;
        cut->allocated.stack_depth /= 2;
        cut->freed.stack_depth /= 2;
        length = bp_format_json(cut, &buffer->frames, buffer->text + 1, room);
    }
    return length;
}

void bp_report_log(bufpool_pool *pool, const bufpool_fault *fault)
{
    if (pool->log < 0) {
        return;
    }
    struct buffer *buffer = claim(PATIENCE_NS);
    size_t room = bp_kernel_is_pipe(pool->log) ? PIPE_BUF - 2 : BUFFER_SIZE - 2;
    size_t length = 0;
    if (buffer == NULL || !is_log(pool) || (length = format_line(buffer, fault, room)) >= room) {
        atomic_fetch_add(&pool->reports_lost, 1);
    } else {
        write_line(pool, buffer->text, length);
    }
    drop(buffer);
}

/* ---- Reports that are only counted ---- */

void bp_report_count(bufpool_pool *pool, bufpool_fault *fault, bool on_stderr, struct bp_more *more)
{
    more->count = 0;
    if (!bp_limits_pass(&pool->limits, pool->report_limit, fault, on_stderr, more)) {
        fault->flags |= BUFPOOL_FAULT_LIMITED;
        atomic_fetch_add(&pool->reports_limited, 1);
    }
}

/* "/usr/lib/libx.so+0x123", or the address. */
static void put_place(struct bp_text *text, uint64_t pc, struct bp_frames *frames, bool json)
{
    char place[320];
    struct bp_text one = {place, sizeof place, 0};
    struct bp_module *module = frames->modules;
    bp_modules_find(&pc, 1, module, frames->names, sizeof frames->names, &frames->room);
    if (module->path != NULL) {
        bp_text_put(&one, module->path);
        bp_text_put(&one, "+");
    }
    bp_text_hex(&one, module->path != NULL ? module->offset : pc);
    bp_text_end(&one);
    if (json) {
        bp_text_json(text, place);
    } else {
        bp_text_put(text, place);
    }
}

static size_t format_more_text(const struct bp_more *more, struct buffer *buffer)
{
    struct bp_text text = {buffer->text, BUFFER_SIZE, 0};
    bp_text_put(&text, "==");
    bp_text_decimal(&text, (uint64_t)more->pid);
    bp_text_put(&text, "== bufpool: ");
    bp_text_decimal(&text, more->count);
    bp_text_put(&text, more->count == 1 ? " more stray access to pool " : " more stray accesses to pool ");
    bp_text_json(&text, more->pool);
    if (more->pc != 0) {
        bp_text_put(&text, " from pc ");
        put_place(&text, more->pc, &buffer->frames, false);
        bp_text_put(&text, " (first report: ");
    } else {
        bp_text_put(&text, " from many other places (first report: ");
    }
    bp_text_decimal(&text, more->first);
    bp_text_put(&text, "), only counted: report_limit is ");
    bp_text_decimal(&text, more->limit);
    bp_text_put(&text, "\n");
    return bp_text_end(&text);
}

static size_t format_more_json(const struct bp_more *more, struct buffer *buffer)
{
    struct bp_text text = {buffer->text + 1, PIPE_BUF - 2, 0};
    bp_text_put(&text, "{\"suppressed\":");
    bp_text_decimal(&text, more->count);
    bp_text_put(&text, ",\"time\":\"");
    bp_text_time(&text, more->time_ns);
    bp_text_put(&text, "\",\"pid\":");
    bp_text_decimal(&text, (uint64_t)more->pid);
    bp_text_put(&text, ",\"pool\":");
    bp_text_json(&text, more->pool);
    bp_text_put(&text, ",\"pc\":");
    if (more->pc == 0) {
        bp_text_put(&text, "null,\"place\":null");
    } else {
        bp_text_put(&text, "\"");
        bp_text_hex(&text, more->pc);
        bp_text_put(&text, "\",\"place\":");
        put_place(&text, more->pc, &buffer->frames, true);
    }
    bp_text_put(&text, ",\"first_sequence\":");
    bp_text_decimal(&text, more->first);
    bp_text_put(&text, ",\"limit\":");
    bp_text_decimal(&text, more->limit);
    bp_text_put(&text, "}");
    return bp_text_end(&text);
}

void bp_report_more_stderr(const struct bp_more *more)
{
    if (more->count == 0) {
        return;
    }
    struct buffer *buffer = claim(SOON_NS);
    if (buffer != NULL) {
        write_stderr_soon(buffer->text, format_more_text(more, buffer));
    }
    drop(buffer);
}

void bp_report_more_log(bufpool_pool *pool, const struct bp_more *more)
{
    if (more->count == 0 || pool->log < 0) {
        return;
    }
    struct buffer *buffer = claim(PATIENCE_NS);
    if (buffer == NULL || !is_log(pool)) {
        atomic_fetch_add(&pool->reports_lost, 1);
    } else {
        write_line(pool, buffer->text, format_more_json(more, buffer));
    }
    drop(buffer);
}

void bp_report_rest(bufpool_pool *pool, bool all_on_stderr)
{
    struct timespec now;
    struct bp_more more;
    clock_gettime(CLOCK_REALTIME, &now);
    more.time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    more.pid = (int32_t)getpid();
    memcpy(more.pool, pool->name, sizeof more.pool);
    if (atomic_load(&pool->limits.process) != more.pid) {
        return; /* nothing has strayed yet, or only in the parent */
    }
    for (size_t n = 0; bp_limits_entry(&pool->limits, n, pool->report_limit, all_on_stderr, &more); n++) {
        if (more.on_stderr || all_on_stderr) {
            bp_report_more_stderr(&more);
        }
        bp_report_more_log(pool, &more);
    }
}
