/* lines.h: the lines of a file of /proc, one by one. System calls only: async-signal-safe. */
#ifndef BP_LINES_H
#define BP_LINES_H

#include <stddef.h>

struct bp_lines {
    int fd;
    size_t at, got; /* in chunk */
    char chunk[512];
};

/* Errors: -errno. */
int bp_lines_open(struct bp_lines *lines, const char *path);

/* The next line without its end, what is too long for size cut off: 1; 0: there is no more; -errno. */
int bp_lines_next(struct bp_lines *lines, char *line, size_t size);

void bp_lines_close(struct bp_lines *lines);

#endif
