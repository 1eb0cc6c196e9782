/* notes.c: each thread's notes, see notes.h. */
#include "notes.h"

#include <pthread.h>
#include <stdlib.h>

static pthread_key_t key;
static bool have_key;

static void make_key(void)
{
    have_key = pthread_key_create(&key, free) == 0;
}

struct bp_notes *bp_notes(void)
{
    static struct bp_notes shared;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    if (!have_key) {
        return &shared;
    }
    struct bp_notes *notes = pthread_getspecific(key);
    if (notes != NULL) {
        return notes;
    }
    notes = calloc(1, sizeof *notes);
    if (notes == NULL || pthread_setspecific(key, notes) != 0) {
        free(notes);
        return &shared;
    }
    return notes;
}
