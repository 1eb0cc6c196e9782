/* report.h: where a fault report goes. The text and JSON forms themselves are bufpool_format_text() and _json(),
 * format.c. */
#ifndef BP_REPORT_H
#define BP_REPORT_H

#include "pool.h"

/* Opens the pool's log; path NULL: none. Errors: with a sentence. */
int bp_report_open(bufpool_pool *pool, const char *path);

/* Counts a report of the pool: sets the fault's BUFPOOL_FAULT_LIMITED where its place is over the limit, and *more, a line
 * that may be due then. Async-signal-safe. */
void bp_report_count(bufpool_pool *pool, bufpool_fault *fault, bool on_stderr, struct bp_more *more);

/* Writes the text to stderr. Waits for a free report buffer, so threads that fault together write one report after the
 * other, each whole. Async-signal-safe. */
void bp_report_stderr(const bufpool_fault *fault);

/* The same for whom a stderr that nobody reads must not hold up, as the monitor, or a close. 0, or -EAGAIN: it is not
 * there, or in part. */
int bp_report_stderr_soon(const bufpool_fault *fault);

/* Writes the JSON line to the pool's log, if it has one; a failure is counted in reports_lost. Async-signal-safe. */
void bp_report_log(bufpool_pool *pool, const bufpool_fault *fault);

/* The same for a line about reports that were only counted; nothing if its count is 0. Where nobody reads stderr, it is
 * left out. Async-signal-safe. */
void bp_report_more_stderr(const struct bp_more *more);
void bp_report_more_log(bufpool_pool *pool, const struct bp_more *more);

/* Writes the lines that are still due for the reports of this pool that were only counted: to the log, and to stderr
 * where the reports would have gone there, or (all_on_stderr) all of them. */
void bp_report_rest(bufpool_pool *pool, bool all_on_stderr);

/* Until no other thread is writing a report, a second at most: for who is about to end the process. Async-signal-safe.
 */
void bp_report_wait(void);

/* In a new process: the reports that other threads of the parent were writing will never end here. */
void bp_report_renew(void);

#endif
