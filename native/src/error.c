/* error.c: codes, their texts, and each thread's last error. */
#include "error.h"

#include <bufpool/bufpool.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_text[1024];
static _Thread_local size_t last_done;

int bp_error(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char text[sizeof last_text]; /* the old sentence may be among the arguments */
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(last_text, text, sizeof text);
    last_done = 0;
    return code;
}

const char *bp_error_text(void)
{
    return last_text;
}

void bp_error_set_done(size_t done)
{
    last_done = done;
}

int bufpool_last_error(char *buffer, size_t size)
{
    if (buffer != NULL && size > 0) {
        snprintf(buffer, size, "%s", last_text);
    }
    return (int)strlen(last_text);
}

size_t bufpool_last_done(void)
{
    return last_done;
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
