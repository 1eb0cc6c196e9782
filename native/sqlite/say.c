/* say.c: keeps the last error's sentence for each thread. */
#include "say.h"

#include "bufpool_sqlite.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 1024

static pthread_key_t key;
static bool have_key;

static void make_key(void)
{
    have_key = pthread_key_create(&key, free) == 0;
}

/* On the heap: thread-local storage of a library that is loaded late is scarce. Without memory, threads share one
 * sentence. */
static char *own_sentence(void)
{
    static char shared[SIZE];
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    char *own = have_key ? pthread_getspecific(key) : shared;
    if (own == NULL) {
        own = calloc(1, SIZE);
        if (own == NULL || pthread_setspecific(key, own) != 0) {
            free(own);
            own = shared;
        }
    }
    return own;
}

int sq_say(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *sentence = own_sentence();
    vsnprintf(sentence, SIZE, format, arguments);
    va_end(arguments);
    return code;
}

int sq_say_bufpool(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *sentence = own_sentence();
    vsnprintf(sentence, SIZE, format, arguments);
    va_end(arguments);
    size_t used = strlen(sentence);
    if (used + 3 < SIZE) {
        memcpy(sentence + used, ": ", 3);
        if (bufpool_last_error(sentence + used + 2, SIZE - used - 2) == 0)
            snprintf(sentence + used + 2, SIZE - used - 2, "%s", bufpool_strerror(code));
    }
    return code;
}

int bufpool_sqlite_last_error(char *buffer, size_t size)
{
    if (buffer != NULL && size > 0)
        snprintf(buffer, size, "%s", own_sentence());
    return (int)strlen(own_sentence());
}
