/* options.h: options as text, "key=value:key=value", read into the fields of a struct by a table of keys.
 *
 * Entries are separated by colons; empty ones are skipped. A value may stand in '..' or "..", and then may hold colons;
 * it cannot hold its own kind of quote. An unknown key is an error, and so is one that comes twice. */
#ifndef BP_OPTIONS_H
#define BP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bp_option_kind {
    BP_OPTION_TEXT,   /* the field is a const char *, to text that is kept for the life of the process */
    BP_OPTION_SIZE,   /* a uint64_t of bytes. "4096", "64 MiB", "64MB" (10^6), "1.5g" (2^30) */
    BP_OPTION_NUMBER, /* a uint32_t, of decimal digits */
    BP_OPTION_FLAG,   /* bits of a uint32_t. 1, true, yes, on; 0, false, no, off */
    BP_OPTION_REFUSED /* an error, with the reason from help; help=1 does not list it, and presets pass over it */
};

struct bp_option {
    const char *key;
    enum bp_option_kind kind;
    size_t offset;     /* of the field */
    uint32_t bits;     /* of a flag */
    const char *unset; /* what a NULL or a 0 in the field stands for; NULL: itself */
    const char *valid; /* of a text: the words that it may be, as "abort resume"; NULL: any */
    const char *help;
};

/* A table, and the struct whose fields it fills. Of several with one key the first counts. */
struct bp_option_set {
    const struct bp_option *table;
    size_t count;
    void *values;
    const char *only; /* of the table these keys alone, as "log trap"; NULL: all */

    /* Does what a preset has for a key go with what the fields hold by then? NULL: always. */
    bool (*fits)(const void *values, const char *key);
};

/* Reads text (NULL is the same as ""). Beside the sets' keys there are
 *   preset=NAME   options from presets (NAME=options, closed by one without a name), those that no set has passed over;
 *                 what the text says itself comes before that, in whichever order, and what does not fit gives way
 *   help=1        writes what there is to stderr, as what shows the fields as they were before
 * Fields that nothing names keep what they have. Errors: EARGUMENT, and the sentence begins with what; -ENOMEM. Then no
 * field has changed. */
struct bp_preset {
    const char *name;
    const char *options;
};

int bp_options_read(const char *what, const char *text, const struct bp_option_set *sets, size_t count,
                    const struct bp_preset *presets);

/* A copy that stays for the life of the process; equal texts are kept once. NULL: no memory. */
const char *bp_options_keep(const char *text, size_t length);

#endif
