/* error.c: codes, their texts, and each thread's last error. */
#include "error.h"

#include "notes.h"

#include <bufpool/bufpool.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int bp_error(int code, const char *format, ...)
{
    struct bp_notes *notes = bp_notes();
    char text[sizeof notes->text]; /* the old sentence may be among the arguments */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(notes->text, text, sizeof text);
    notes->done = 0;
    return code;
}

const char *bp_error_text(void)
{
    return bp_notes()->text;
}

void bp_error_set_done(size_t done)
{
    bp_notes()->done = done;
}

int bufpool_last_error(char *buffer, size_t size)
{
    if (buffer != NULL && size > 0) {
        snprintf(buffer, size, "%s", bp_error_text());
    }
    return (int)strlen(bp_error_text());
}

size_t bufpool_last_done(void)
{
    return bp_notes()->done;
}

const char *bufpool_version(void)
{
    return BUFPOOL_VERSION;
}

const char *bufpool_strerror(int code)
{
    switch (code) {
    case 0:
        return "success";
    case BUFPOOL_EARGUMENT:
        return "bad argument";
    case BUFPOOL_EEXHAUSTED:
        return "pool exhausted";
    case BUFPOOL_ESTATE:
        return "wrong page state";
    case BUFPOOL_EUNSUPPORTED:
        return "not supported by this kernel or these rights";
    case BUFPOOL_ECLOSED:
        return "pool is closed";
    case BUFPOOL_ESTRAY:
        return "stray access";
    default:
        return code < 0 && code > -4096 ? strerror(-code) : "unknown code";
    }
}
