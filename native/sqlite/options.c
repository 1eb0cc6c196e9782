/* options.c: reads "key=value:key='a value'" by a table of keys. */
#include "options.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* A piece of the text. */
typedef struct span {
    const char *start;
    size_t length;
} span;

typedef struct failure {
    char *text;
    size_t size;
} failure;

static int fail(failure error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int fail(failure error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (error.size > 0)
        vsnprintf(error.text, error.size, format, arguments);
    va_end(arguments);
    return -1;
}

/* For "%.*s": an absurdly long value does not have to be quoted whole. */
static int shown(span piece)
{
    return piece.length < 80 ? (int)piece.length : 80;
}

static bool same(span piece, const char *word)
{
    return piece.length == strlen(word) && strncasecmp(piece.start, word, piece.length) == 0;
}

/* ---- Values ---- */

static uint64_t unit(span name)
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
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (same(name, units[i].name))
            return units[i].bytes;
    return 0;
}

/* digits[.digits] [unit]; exact, or not a size. */
static bool read_size(span value, uint64_t *size)
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
            (point && __builtin_mul_overflow(divisor, 10, &divisor)))
            return false;
    }
    while (at < end && *at == ' ')
        at++;
    uint64_t bytes = unit((span){at, (size_t)(end - at)});
    if (!digits || bytes == 0 || __builtin_mul_overflow(number, bytes, &number) || number % divisor != 0)
        return false;
    *size = number / divisor;
    return true;
}

static bool read_number(span value, uint32_t *number)
{
    uint32_t found = 0;
    for (size_t i = 0; i < value.length; i++) {
        if (!isdigit((unsigned char)value.start[i]) || __builtin_mul_overflow(found, 10, &found) ||
            __builtin_add_overflow(found, (uint32_t)(value.start[i] - '0'), &found))
            return false;
    }
    *number = found;
    return value.length > 0;
}

static bool read_flag(span value, bool *flag)
{
    static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (same(value, words[i])) {
            *flag = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static int store(const option *entry, span value, failure error)
{
    switch (entry->kind) {
    case OPTION_TEXT:
        if (value.length >= entry->room)
            return fail(error, "%s is %zu bytes long: at most %zu are right", entry->key, value.length,
                        entry->room - 1);
        memcpy(entry->value, value.start, value.length);
        ((char *)entry->value)[value.length] = '\0';
        return 0;
    case OPTION_SIZE:
        if (read_size(value, entry->value))
            return 0;
        return fail(error,
                    "%s=%.*s is not a size: a number of bytes, or one with a unit such as 64 MiB or 64 MB, is right",
                    entry->key, shown(value), value.start);
    case OPTION_NUMBER:
        if (read_number(value, entry->value))
            return 0;
        return fail(error, "%s=%.*s is not a number: 0 to %u is right", entry->key, shown(value), value.start,
                    UINT32_MAX);
    case OPTION_FLAG:
        if (read_flag(value, entry->value))
            return 0;
        return fail(error, "%s=%.*s is neither 1 (true, yes, on) nor 0 (false, no, off)", entry->key, shown(value),
                    value.start);
    }
    return fail(error, "%s has no kind", entry->key);
}

/* ---- Entries ---- */

static int unknown(span key, const option *table, size_t count, failure error)
{
    char keys[512] = "";
    size_t used = 0;
    for (size_t i = 0; i < count && used < sizeof keys; i++)
        used += (size_t)snprintf(keys + used, sizeof keys - used, "%s%s", i > 0 ? ", " : "", table[i].key);
    return fail(error, "unknown key \"%.*s\": %s are known", shown(key), key.start, keys);
}

/* Cuts the value off the text at *at, which moves behind it. */
static int cut_value(const char **at, span key, span *value, failure error)
{
    const char *start = *at;
    if (*start != '\'' && *start != '"') {
        *value = (span){start, strcspn(start, ":")};
        *at = start + value->length;
        return 0;
    }
    const char *end = strchr(start + 1, *start);
    if (end == NULL)
        return fail(error, "the value of %.*s has no closing %c", shown(key), key.start, *start);
    *value = (span){start + 1, (size_t)(end - start - 1)};
    *at = end + 1;
    if (**at != ':' && **at != '\0')
        return fail(error, "after the closing %c of %.*s a colon is expected, not \"%.20s\"", *start, shown(key),
                    key.start, *at);
    return 0;
}

/* Bit i of *seen: the table's key i came already. */
static int read_entry(const char **at, const option *table, size_t count, uint64_t *seen, failure error)
{
    span key = {*at, strcspn(*at, "=:")};
    if (key.start[key.length] != '=')
        return fail(error, "\"%.*s\" has no value: key=value is right", shown(key), key.start);
    *at += key.length + 1;
    span value = {NULL, 0};
    if (cut_value(at, key, &value, error) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (key.length != strlen(table[i].key) || strncmp(key.start, table[i].key, key.length) != 0)
            continue;
        if (*seen >> i & 1)
            return fail(error, "%s is given twice, the second time as \"%.*s\": once is right", table[i].key,
                        shown(value), value.start);
        *seen |= UINT64_C(1) << i;
        return store(&table[i], value, error);
    }
    return unknown(key, table, count, error);
}

int options_parse(const char *text, const option *table, size_t count, char *error, size_t error_size)
{
    const char *at = text != NULL ? text : "";
    uint64_t seen = 0;
    while (*at != '\0') {
        if (*at == ':')
            at++;
        else if (read_entry(&at, table, count, &seen, (failure){error, error_size}) < 0)
            return -1;
    }
    return 0;
}

void options_help(const option *table, size_t count, char *buffer, size_t size)
{
    size_t used = 0;
    if (size > 0)
        *buffer = '\0';
    for (size_t i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(buffer + used, size - used, "  %-16s %s\n", table[i].key, table[i].help);
}
