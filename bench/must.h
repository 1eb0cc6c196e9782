/* must.h: no loop measures a failed call: it ends the process, with the sentence of the error. */
#ifndef BENCH_MUST_H
#define BENCH_MUST_H

#include <bufpool/bufpool.h>
#include <stdio.h>
#include <stdlib.h>

static inline void must(int code)
{
    if (code != 0) {
        char text[1024];
        bufpool_last_error(text, sizeof text);
        fprintf(stderr, "bench: %d: %s\n", code, text);
        abort();
    }
}

/* The same for a system call's result; returns it. */
static inline int must_call(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        abort();
    }
    return result;
}

#endif
