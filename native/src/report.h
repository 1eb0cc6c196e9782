/* report.h: where a fault report goes. The text and JSON forms themselves are bufpool_format_text() and _json(),
 * format.c. */
#ifndef BP_REPORT_H
#define BP_REPORT_H

#include "pool.h"

/* Writes the text to stderr. Waits for a free report buffer, so threads that fault together write one report after the
 * other, each whole. Async-signal-safe. */
void bp_report_stderr(const bufpool_fault *fault);

/* Writes the JSON line to the pool's log, if it has one; a failure is counted in reports_lost. Async-signal-safe. */
void bp_report_log(bufpool_pool *pool, const bufpool_fault *fault);

/* Until no other thread is writing a report, a second at most: for who is about to end the process. Async-signal-safe.
 */
void bp_report_wait(void);

/* In a new process: the reports that other threads of the parent were writing will never end here. */
void bp_report_renew(void);

#endif
