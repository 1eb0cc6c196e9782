/* options.c: reads options by tables of keys, see options.h. */
#include "options.h"

#include "error.h"

#include <bufpool/bufpool.h>
#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A piece of the text. */
struct span {
    const char *start;
    size_t length;
};

#define ENTRIES 64

struct entry {
    struct span key;
    struct span value;
    const struct bp_option *option; /* NULL: of no set, but preset or help */
    const struct bp_option_set *set;
    const char *text; /* kept, of a text */
    bool preset;      /* it is from one */
};

/* For "%.*s": an absurdly long value does not have to be quoted whole. */
static int shown(struct span piece)
{
    return piece.length < 80 ? (int)piece.length : 80;
}

static bool same(struct span piece, const char *word)
{
    return piece.length == strlen(word) && strncasecmp(piece.start, word, piece.length) == 0;
}

/* The same, to the letter. */
static bool is(struct span piece, const char *word)
{
    return piece.length == strlen(word) && memcmp(piece.start, word, piece.length) == 0;
}

/* Is the piece among words with spaces between them? */
static bool is_among(struct span piece, const char *words)
{
    while (*words != '\0') {
        struct span word = {words, strcspn(words, " ")};
        if (word.length == piece.length && memcmp(word.start, piece.start, piece.length) == 0) {
            return true;
        }
        words += word.length + (words[word.length] == ' ');
    }
    return false;
}

/* "abort resume" as "abort, resume". */
static const char *listed(const char *words, char *list, size_t size)
{
    size_t used = 0;
    for (; *words != '\0' && used + 2 < size; words++) {
        if (*words == ' ') {
            list[used++] = ',';
        }
        list[used++] = *words;
    }
    list[used] = '\0';
    return list;
}

struct kept {
    struct kept *next;
    char text[];
};

static struct kept *_Atomic kept_texts;

const char *bp_options_keep(const char *text, size_t length)
{
    struct kept *first = atomic_load(&kept_texts);
    for (struct kept *at = first; at != NULL; at = at->next) {
        if (strlen(at->text) == length && memcmp(at->text, text, length) == 0) {
            return at->text;
        }
    }
    struct kept *new = malloc(sizeof *new + length + 1);
    if (new == NULL) {
        return NULL;
    }
    memcpy(new->text, text, length);
    new->text[length] = '\0';
    new->next = first;
    while (!atomic_compare_exchange_weak(&kept_texts, &new->next, new)) {
    }
    return new->text;
}

/* ---- Values ---- */

static uint64_t unit(struct span name)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {
        {"", 1},
        {"b", 1},
        {"kb", 1000},
        {"mb", 1000 * 1000},
        {"gb", UINT64_C(1000000000)},
        {"tb", UINT64_C(1000000000000)},
        {"k", 1 << 10},
        {"m", 1 << 20},
        {"g", 1 << 30},
        {"t", UINT64_C(1) << 40},
        {"kib", 1 << 10},
        {"mib", 1 << 20},
        {"gib", 1 << 30},
        {"tib", UINT64_C(1) << 40},
    };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (same(name, units[i].name)) {
            return units[i].bytes;
        }
    }
    return 0;
}

/* digits[.digits] [unit]; exact, or not a size. */
static bool read_size(struct span value, uint64_t *size)
{
    const char *at = value.start;
    const char *end = at + value.length;
    uint64_t number = 0;
    uint64_t divisor = 1;
    bool digits = false;
    bool point = false;
    for (; at < end && (isdigit((unsigned char)*at) || (*at == '.' && digits && !point)); at++) {
        if (*at == '.') {
            point = true;
            digits = false;
            continue;
        }
        digits = true;
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number) ||
            (point && __builtin_mul_overflow(divisor, 10, &divisor))) {
            return false;
        }
    }
    while (at < end && *at == ' ') {
        at++;
    }
    uint64_t bytes = unit((struct span){at, (size_t)(end - at)});
    if (!digits || bytes == 0 || __builtin_mul_overflow(number, bytes, &number) || number % divisor != 0) {
        return false;
    }
    *size = number / divisor;
    return true;
}

static bool read_number(struct span value, uint32_t *number)
{
    uint32_t found = 0;
    for (size_t i = 0; i < value.length; i++) {
        if (!isdigit((unsigned char)value.start[i]) || __builtin_mul_overflow(found, 10, &found) ||
            __builtin_add_overflow(found, (uint32_t)(value.start[i] - '0'), &found)) {
            return false;
        }
    }
    *number = found;
    return value.length > 0;
}

static bool read_flag(struct span value, bool *flag)
{
    static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (same(value, words[i])) {
            *flag = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static bool is_on(const struct entry *entry)
{
    bool on = false;
    return read_flag(entry->value, &on) && on;
}

/* Checks the value, and keeps a text. */
static int check(const char *what, struct entry *entry)
{
    const struct bp_option *option = entry->option;
    struct span value = entry->value;
    uint64_t size;
    uint32_t number;
    bool flag;
    char words[256];
    switch (option->kind) {
    case BP_OPTION_TEXT:
        if (option->valid != NULL && !is_among(value, option->valid)) {
            return bp_error(BUFPOOL_EARGUMENT, "%s: %s=%.*s is unknown here: valid are %s", what, option->key,
                            shown(value), value.start, listed(option->valid, words, sizeof words));
        }
        entry->text = bp_options_keep(value.start, value.length);
        return entry->text != NULL ? 0 : bp_error(-ENOMEM, "%s: no memory for the value of %s", what, option->key);
    case BP_OPTION_SIZE:
        return read_size(value, &size)
                   ? 0
                   : bp_error(BUFPOOL_EARGUMENT,
                              "%s: %s=%.*s is not a size: a number of bytes, or one with a unit such as 64 MiB or "
                              "64 MB, is right",
                              what, option->key, shown(value), value.start);
    case BP_OPTION_NUMBER:
        return read_number(value, &number)
                   ? 0
                   : bp_error(BUFPOOL_EARGUMENT, "%s: %s=%.*s is not a number: 0 to %u is right", what, option->key,
                              shown(value), value.start, UINT32_MAX);
    case BP_OPTION_FLAG:
        return read_flag(value, &flag)
                   ? 0
                   : bp_error(BUFPOOL_EARGUMENT, "%s: %s=%.*s is neither 1 (true, yes, on) nor 0 (false, no, off)",
                              what, option->key, shown(value), value.start);
    case BP_OPTION_REFUSED:
        return bp_error(BUFPOOL_EARGUMENT, "%s: %s is not possible here: %s", what, option->key, option->help);
    }
    return bp_error(BUFPOOL_EARGUMENT, "%s: %s has no kind", what, option->key);
}

/* What has been checked. */
static void store(const struct entry *entry)
{
    void *field = (char *)entry->set->values + entry->option->offset;
    bool flag = false;
    if (entry->preset && entry->set->fits != NULL && !entry->set->fits(entry->set->values, entry->option->key)) {
        return;
    }
    switch (entry->option->kind) {
    case BP_OPTION_TEXT:
        *(const char **)field = entry->text;
        return;
    case BP_OPTION_SIZE:
        read_size(entry->value, field);
        return;
    case BP_OPTION_NUMBER:
        read_number(entry->value, field);
        return;
    case BP_OPTION_FLAG:
        read_flag(entry->value, &flag);
        *(uint32_t *)field = (*(uint32_t *)field & ~entry->option->bits) | (flag ? entry->option->bits : 0);
        return;
    case BP_OPTION_REFUSED:
        return;
    }
}

/* ---- Keys ---- */

/* The n-th option that a key may name, and the set that it is of; NULL past the last one. */
static const struct bp_option *option_at(const struct bp_option_set *sets, size_t count, size_t n,
                                         const struct bp_option_set **set)
{
    for (size_t s = 0; s < count; s++) {
        for (size_t i = 0; i < sets[s].count; i++) {
            const struct bp_option *option = &sets[s].table[i];
            struct span key = {option->key, strlen(option->key)};
            if (sets[s].only != NULL && !is_among(key, sets[s].only)) {
                continue;
            }
            bool hidden = false;
            for (size_t before = 0; before < s; before++) {
                for (size_t j = 0; j < sets[before].count; j++) {
                    hidden = hidden || is(key, sets[before].table[j].key);
                }
            }
            if (!hidden && n-- == 0) {
                *set = &sets[s];
                return option;
            }
        }
    }
    return NULL;
}

static bool find_option(const struct bp_option_set *sets, size_t count, struct entry *entry)
{
    const struct bp_option_set *set = NULL;
    for (size_t n = 0; (entry->option = option_at(sets, count, n, &set)) != NULL; n++) {
        if (is(entry->key, entry->option->key)) {
            entry->set = set;
            return true;
        }
    }
    return false;
}

static int unknown(const char *what, struct span key, const struct bp_option_set *sets, size_t count)
{
    char keys[768] = "";
    size_t used = 0;
    const struct bp_option_set *set = NULL;
    const struct bp_option *option;
    for (size_t n = 0; (option = option_at(sets, count, n, &set)) != NULL && used < sizeof keys; n++) {
        if (option->kind != BP_OPTION_REFUSED) {
            used += (size_t)snprintf(keys + used, sizeof keys - used, "%s, ", option->key);
        }
    }
    return bp_error(BUFPOOL_EARGUMENT, "%s: unknown key \"%.*s\": %spreset, help are known", what, shown(key),
                    key.start, keys);
}

/* ---- Entries ---- */

/* Cuts the value off the text at *at, which moves behind it. */
static int cut_value(const char *what, const char **at, struct span key, struct span *value)
{
    const char *start = *at;
    if (*start != '\'' && *start != '"') {
        *value = (struct span){start, strcspn(start, ":")};
        *at = start + value->length;
        return 0;
    }
    const char *end = strchr(start + 1, *start);
    if (end == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "%s: the value of %.*s has no closing %c", what, shown(key), key.start,
                        *start);
    }
    *value = (struct span){start + 1, (size_t)(end - start - 1)};
    *at = end + 1;
    if (**at != ':' && **at != '\0') {
        return bp_error(BUFPOOL_EARGUMENT, "%s: after the closing %c of %.*s a colon is expected, not \"%.20s\"", what,
                        *start, shown(key), key.start, *at);
    }
    return 0;
}

/* Cuts the text into entries. Errors: EARGUMENT. */
static int cut(const char *what, const char *at, struct entry *entries, size_t *count)
{
    *count = 0;
    while (*at != '\0') {
        if (*at == ':') {
            at++;
            continue;
        }
        struct entry entry = {.key = {at, strcspn(at, "=:")}};
        if (at[entry.key.length] != '=') {
            return bp_error(BUFPOOL_EARGUMENT, "%s: \"%.*s\" has no value: key=value is right", what, shown(entry.key),
                            at);
        }
        at += entry.key.length + 1;
        int code = cut_value(what, &at, entry.key, &entry.value);
        if (code < 0) {
            return code;
        }
        for (size_t i = 0; i < *count; i++) {
            if (entries[i].key.length == entry.key.length &&
                memcmp(entries[i].key.start, entry.key.start, entry.key.length) == 0) {
                return bp_error(BUFPOOL_EARGUMENT,
                                "%s: %.*s is given twice, the second time as \"%.*s\": once is right", what,
                                shown(entry.key), entry.key.start, shown(entry.value), entry.value.start);
            }
        }
        if (*count == ENTRIES) {
            return bp_error(BUFPOOL_EARGUMENT, "%s: there are more than %d entries", what, ENTRIES);
        }
        entries[(*count)++] = entry;
    }
    return 0;
}

static int find_preset(const char *what, struct span name, const struct bp_preset *presets, const char **options)
{
    char names[256] = "";
    size_t used = 0;
    for (; presets->name != NULL; presets++) {
        if (is(name, presets->name)) {
            *options = presets->options;
            return 0;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used > 0 ? ", " : "", presets->name);
    }
    return bp_error(BUFPOOL_EARGUMENT, "%s: preset=%.*s is unknown: valid are %s", what, shown(name), name.start,
                    names);
}

/* ---- Help ---- */

static void help_on(const struct bp_option *option, const void *values)
{
    const void *field = (const char *)values + option->offset;
    const char *text = option->kind == BP_OPTION_TEXT ? *(const char *const *)field : NULL;
    uint64_t number = option->kind == BP_OPTION_SIZE     ? *(const uint64_t *)field
                      : option->kind == BP_OPTION_NUMBER ? *(const uint32_t *)field
                      : option->kind == BP_OPTION_FLAG   ? (*(const uint32_t *)field & option->bits) != 0
                                                         : 0;
    char figure[24];
    char words[256];
    char now[128];
    snprintf(figure, sizeof figure, "%llu", (unsigned long long)number);
    if (text == NULL) {
        text = number == 0 && option->unset != NULL ? option->unset : figure;
    }
    snprintf(now, sizeof now, "%s=%s", option->key, text);
    fprintf(stderr, "  %-24s %s%s%s\n", now, option->help, option->valid != NULL ? ": " : "",
            option->valid != NULL ? listed(option->valid, words, sizeof words) : "");
}

static void help(const char *what, const struct bp_option_set *sets, size_t count, const struct bp_preset *presets)
{
    fprintf(stderr, "bufpool: %s is key=value:key='another value'. Each key, with what holds without it:\n", what);
    const struct bp_option_set *set = NULL;
    const struct bp_option *option;
    for (size_t n = 0; (option = option_at(sets, count, n, &set)) != NULL; n++) {
        if (option->kind != BP_OPTION_REFUSED) {
            help_on(option, set->values);
        }
    }
    for (; presets->name != NULL; presets++) {
        char now[128];
        snprintf(now, sizeof now, "preset=%s", presets->name);
        fprintf(stderr, "  %-24s %s\n", now, presets->options);
    }
    fprintf(stderr, "  %-24s 1: this list, to stderr\n", "help=0");
}

/* ---- All of it ---- */

/* Checks what is in the text, then what the preset adds to it. */
static int take(const char *what, struct entry *entries, size_t *count, const struct bp_option_set *sets,
                size_t set_count, const struct bp_preset *presets, bool *helped)
{
    const char *preset = NULL;
    for (size_t i = 0; i < *count; i++) {
        struct entry *entry = &entries[i];
        bool flag;
        int code = 0;
        if (is(entry->key, "preset")) {
            code = find_preset(what, entry->value, presets, &preset);
        } else if (is(entry->key, "help")) {
            *helped = is_on(entry);
            code = read_flag(entry->value, &flag) ? 0
                                                  : bp_error(BUFPOOL_EARGUMENT, "%s: help=%.*s is neither 1 nor 0",
                                                             what, shown(entry->value), entry->value.start);
        } else {
            code =
                find_option(sets, set_count, entry) ? check(what, entry) : unknown(what, entry->key, sets, set_count);
        }
        if (code < 0) {
            return code;
        }
    }
    if (preset == NULL) {
        return 0;
    }
    struct entry more[ENTRIES];
    size_t more_count;
    int code = cut(what, preset, more, &more_count);
    for (size_t i = 0; code == 0 && i < more_count; i++) {
        bool said = false;
        for (size_t j = 0; j < *count; j++) {
            said = said || (entries[j].option != NULL && is(more[i].key, entries[j].option->key));
        }
        if (!said && *count < 2 * ENTRIES && find_option(sets, set_count, &more[i]) &&
            more[i].option->kind != BP_OPTION_REFUSED) {
            more[i].preset = true;
            code = check(what, &more[i]);
            entries[(*count)++] = more[i];
        }
    }
    return code;
}

int bp_options_read(const char *what, const char *text, const struct bp_option_set *sets, size_t count,
                    const struct bp_preset *presets)
{
    struct entry entries[2 * ENTRIES];
    size_t found = 0;
    bool helped = false;
    int code = cut(what, text != NULL ? text : "", entries, &found);
    if (code == 0) {
        code = take(what, entries, &found, sets, count, presets, &helped);
    }
    if (helped) {
        help(what, sets, count, presets);
    }
    for (size_t i = 0; code == 0 && i < found; i++) {
        if (entries[i].option != NULL) {
            store(&entries[i]);
        }
    }
    return code;
}
