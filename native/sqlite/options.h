/* options.h: options as text, "key=value:key=value", as entry points made for it read them from BUFPOOL_OPTIONS.
 *
 * Entries are separated by colons; empty ones are skipped. A value may stand in '..' or "..", and then may hold colons;
 * it cannot hold its own kind of quote. An unknown key is an error, and so is one that comes twice. */
#ifndef BUFPOOL_SQLITE_OPTIONS_H
#define BUFPOOL_SQLITE_OPTIONS_H

#include <stddef.h>

typedef enum option_kind {
    OPTION_TEXT,   /* value: a char array of the size room, which receives the text */
    OPTION_SIZE,   /* value: a uint64_t, which receives bytes. "4096", "64 MiB", "64MB" (10^6), "1.5g" (2^30) */
    OPTION_NUMBER, /* value: a uint32_t, of decimal digits */
    OPTION_FLAG    /* value: a bool. 1, true, yes, on; 0, false, no, off */
} option_kind;

typedef struct option {
    const char *key;
    option_kind kind;
    void *value;
    size_t room;
    const char *help;
} option;

/* Reads text (NULL is the same as "") into the values of the table, which has at most 64 keys; keys that the text does
 * not name keep theirs. Returns 0, or -1 with a sentence in error: then some values may have been set. */
int options_parse(const char *text, const option *table, size_t count, char *error, size_t error_size);

/* Writes a line for each key, cut to size and terminated. */
void options_help(const option *table, size_t count, char *buffer, size_t size);

#endif
