/* json.h: a strict reader of JSON, enough to know whether a text is one value; and of a log of such lines. */
#ifndef JSON_H
#define JSON_H

#include "harness.h"

#include <ctype.h>

/* Returns the end of the value that begins at at, or NULL. */
static const char *json_value(const char *at);

MAYBE_UNUSED static const char *json_string(const char *at)
{
    if (at == NULL || *at++ != '"') {
        return NULL;
    }
    for (; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) {
            return NULL;
        }
        if (*at == '\\') {
            at++;
            if (*at == 'u') {
                for (int i = 1; i <= 4; i++) {
                    if (!isxdigit((unsigned char)at[i])) {
                        return NULL;
                    }
                }
                at += 4;
            } else if (*at == 0 || strchr("\"\\/bfnrt", *at) == NULL) {
                return NULL;
            }
        }
    }
    return at + 1;
}

MAYBE_UNUSED static const char *json_list(const char *at, char end, bool keys)
{
    at++;
    if (*at == end) {
        return at + 1;
    }
    for (;;) {
        if (keys) {
            at = json_string(at);
            if (at == NULL || *at++ != ':') {
                return NULL;
            }
        }
        at = json_value(at);
        if (at == NULL || (*at != ',' && *at != end)) {
            return NULL;
        }
        if (*at++ == end) {
            return at;
        }
    }
}

MAYBE_UNUSED static const char *json_value(const char *at)
{
    if (*at == '{' || *at == '[') {
        return json_list(at, *at == '{' ? '}' : ']', *at == '{');
    }
    if (*at == '"') {
        return json_string(at);
    }
    if (strncmp(at, "true", 4) == 0) {
        return at + 4;
    }
    if (strncmp(at, "false", 5) == 0) {
        return at + 5;
    }
    if (strncmp(at, "null", 4) == 0) {
        return at + 4;
    }
    const char *start = at;
    at += *at == '-';
    while (isdigit((unsigned char)*at)) {
        at++;
    }
    return at > start ? at : NULL;
}

MAYBE_UNUSED static bool is_json(const char *text)
{
    const char *end = json_value(text);
    return *text == '{' && end != NULL && *end == 0;
}

MAYBE_UNUSED static void check_json(const char *text)
{
    if (!is_json(text)) {
        fprintf(stderr, "not JSON: %s\n", text);
        harness_fail();
    }
}

/* What a log holds. */
struct log_lines {
    int whole;
    int empty;
    int torn;      /* lines that are no JSON; also a last line without its end */
    long torn_end; /* where in the file the last one of them ends */
};

MAYBE_UNUSED static struct log_lines count_lines(const char *path)
{
    struct log_lines lines = {0, 0, 0, 0};
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    static char line[65536];
    while (fgets(line, sizeof line, file) != NULL) {
        size_t length = strlen(line);
        bool ended = line[length - 1] == '\n';
        line[length - ended] = 0;
        if (ended && length == 1) {
            lines.empty++;
        } else if (ended && is_json(line)) {
            lines.whole++;
        } else {
            lines.torn++;
            lines.torn_end = ftell(file) - ended;
        }
    }
    fclose(file);
    return lines;
}

#endif
