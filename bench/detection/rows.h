/* rows.h: what the rows share. Each makes its one bug, or, bug being false, does the same as it is right. */
#ifndef DETECTION_ROWS_H
#define DETECTION_ROWS_H

#include "layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct row {
    int id;
    void (*make)(bool bug);
};

extern const struct row lifetime_rows[], pin_rows[], bound_rows[], call_rows[], thread_rows[], process_rows[],
    content_rows[], sqlite_rows[];

#define ROWS_END {0, NULL}

/* A pool of PAGES pages, of which the first USED are allocated, and hold a line each. VICTIM is one of them. */
#define PAGES 64
#define USED 48
#define VICTIM 37
struct layer *begin(void);
struct layer *begin_with(const char *name, uint64_t pages, uint64_t used, bool shared);

void pin(struct layer *pool, uint64_t page, bool write);
void unpin(struct layer *pool, uint64_t page);

/* Allocates a page and writes its line. */
uint64_t add(struct layer *pool);

/* The runner looks at what comes between these two. Call bug_here() just before, in the thread that makes it: page is the
 * one that a report has to name, at the first address that is wrong. */
void bug_here(uint64_t page, const void *at);
void bug_over(void);

/* One byte, as neither the compiler may remove it, nor Valgrind, which drops loads that nobody uses. */
extern volatile char seen;

static inline char look(const void *at)
{
    return seen = *(const volatile char *)at;
}

static inline void put(void *at, char value)
{
    *(volatile char *)at = value;
}

static inline void write_line(void *at, uint64_t page)
{
    char text[32];
    int length = snprintf(text, sizeof text, "page %llu", (unsigned long long)page);
    memcpy(at, text, (size_t)length + 1);
}

/* Waits for a child; says what it died of. */
void join_child(pid_t pid);

/* Runs function in another thread, and waits for its end. */
void in_thread(void *(*function)(void *), void *argument);

#endif
