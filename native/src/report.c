/*
 * report.c: writing reports from a signal handler.
 *
 * A handler may run on a small alternate stack, so the text is built in one of a few static buffers, claimed by
 * compare-and-swap. A thread that finds none free waits, two seconds at most; after that it writes one short line from
 * its stack rather than nothing.
 */
#include "report.h"

#include "format.h"
#include "text.h"

#include <unistd.h>

#define BUFFERS 4
#define BUFFER_SIZE 32768

static char buffers[BUFFERS][BUFFER_SIZE];
static struct bp_frames frames[BUFFERS];
static atomic_flag claimed[BUFFERS];
static atomic_int writing;
static atomic_flag turn; /* one report at a time on stderr */

static int claim(void)
{
    for (int patience = 0; patience < 20000; patience++) {
        for (int i = 0; i < BUFFERS; i++) {
            if (!atomic_flag_test_and_set(&claimed[i])) {
                return i;
            }
        }
        bp_kernel_sleep_ns(100000);
    }
    return -1;
}

static void emergency(int fd, const bufpool_fault *fault)
{
    char line[160];
    struct bp_text text = {line, sizeof line, 0};
    bp_text_put(&text, "bufpool: stray access at ");
    bp_text_hex(&text, fault->address);
    bp_text_put(&text, ", pc ");
    bp_text_hex(&text, fault->pc);
    bp_text_put(&text, " (no buffer free for the full report)\n");
    size_t length = bp_text_end(&text);
    bp_kernel_write(fd, line, length < sizeof line ? length : sizeof line - 1, 0);
}

void bp_report_stderr(const bufpool_fault *fault)
{
    atomic_fetch_add(&writing, 1);
    int buffer = claim();
    if (buffer < 0) {
        emergency(STDERR_FILENO, fault);
        atomic_fetch_sub(&writing, 1);
        return;
    }
    size_t length = bp_format_text(fault, &frames[buffer], buffers[buffer], BUFFER_SIZE);
    bool mine = false;
    for (int patience = 0; patience < 20000 && !mine; patience++) {
        mine = !atomic_flag_test_and_set(&turn);
        if (!mine) {
            bp_kernel_sleep_ns(100000);
        }
    }
    bp_kernel_write(STDERR_FILENO, buffers[buffer], length < BUFFER_SIZE ? length : BUFFER_SIZE - 1, 0);
    if (mine) {
        atomic_flag_clear(&turn);
    }
    atomic_flag_clear(&claimed[buffer]);
    atomic_fetch_sub(&writing, 1);
}

/* Is the descriptor still the log? A daemon's fork closes them all, and the number may be another file's by now. */
static bool is_log(const bufpool_pool *pool)
{
    uint64_t id[2];
    return bp_kernel_identify(pool->log, id) == 0 && id[0] == pool->log_id[0] && id[1] == pool->log_id[1];
}

void bp_report_log(bufpool_pool *pool, const bufpool_fault *fault)
{
    if (pool->log < 0) {
        return;
    }
    if (!is_log(pool)) {
        atomic_fetch_add(&pool->reports_lost, 1);
        return;
    }
    atomic_fetch_add(&writing, 1);
    int buffer = claim();
    int code = -1;
    if (buffer >= 0) {
        size_t length = bp_format_json(fault, &frames[buffer], buffers[buffer], BUFFER_SIZE - 1);
        length = length < BUFFER_SIZE - 2 ? length : BUFFER_SIZE - 2;
        buffers[buffer][length] = '\n';
        code = bp_kernel_write(pool->log, buffers[buffer], length + 1, 1);
        atomic_flag_clear(&claimed[buffer]);
    }
    if (code < 0) {
        atomic_fetch_add(&pool->reports_lost, 1);
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
