/* lines.c: the lines of a file of /proc, see lines.h. */
#include "lines.h"

#include "kernel.h"

int bp_lines_open(struct bp_lines *lines, const char *path)
{
    lines->fd = bp_kernel_open_read(path);
    lines->at = lines->got = 0;
    return lines->fd < 0 ? lines->fd : 0;
}

int bp_lines_next(struct bp_lines *lines, char *line, size_t size)
{
    size_t used = 0;
    for (;;) {
        if (lines->at == lines->got) {
            ssize_t got = bp_kernel_read(lines->fd, lines->chunk, sizeof lines->chunk);
            if (got <= 0) {
                return (int)got;
            }
            lines->at = 0;
            lines->got = (size_t)got;
        }
        char next = lines->chunk[lines->at++];
        if (next == '\n') {
            line[used] = 0;
            return 1;
        }
        line[used] = next;
        used += used + 1 < size;
    }
}

void bp_lines_close(struct bp_lines *lines)
{
    bp_kernel_close(lines->fd);
}
