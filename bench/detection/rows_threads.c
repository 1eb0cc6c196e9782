/* rows_threads.c: who strays: another thread, a signal handler; and threads that rely on each other's pins. */
#include "rows.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

static struct layer *pool;

static void *scan(void *argument)
{
    pthread_setname_np(pthread_self(), "scanner");
    bug_here(VICTIM, argument);
    look(argument);
    bug_over();
    return NULL;
}

static void second_thread(bool bug)
{
    pool = begin();
    pin(pool, VICTIM, false);
    if (bug) {
        unpin(pool, VICTIM);
        layer_free(pool, VICTIM);
    }
    in_thread(scan, layer_at(pool, VICTIM) + 5);
}

static char *for_handler;

static void handler(int signo)
{
    (void)signo;
    look(for_handler);
}

static void in_a_handler(bool bug)
{
    pool = begin();
    for_handler = layer_at(pool, VICTIM) + 5;
    if (bug) {
        layer_free(pool, VICTIM);
    } else {
        pin(pool, VICTIM, false);
    }
    MUST(signal(SIGUSR1, handler) != SIG_ERR);
    bug_here(VICTIM, for_handler);
    MUST(raise(SIGUSR1) == 0);
    bug_over();
}

static sem_t has_read, is_unpinned;

/* Reads twice under a pin that is not its own. */
static void *reader(void *argument)
{
    look(argument);
    sem_post(&has_read);
    sem_wait(&is_unpinned);
    bug_here(VICTIM, argument);
    look(argument);
    bug_over();
    return NULL;
}

static void unpinned_by_another(bool bug)
{
    pool = begin();
    MUST(sem_init(&has_read, 0, 0) == 0 && sem_init(&is_unpinned, 0, 0) == 0);
    pin(pool, VICTIM, false);
    if (!bug) {
        pin(pool, VICTIM, false); /* the reader's own */
    }
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, reader, layer_at(pool, VICTIM) + 5) == 0);
    sem_wait(&has_read);
    unpin(pool, VICTIM);
    sem_post(&is_unpinned);
    MUST(pthread_join(thread, NULL) == 0);
}

static sem_t is_pinned;

/* Was there before the pin: a thread gets the rights that its creator has at that moment. */
static void *writer(void *argument)
{
    const bool *has_pin = argument;
    char *at = layer_at(pool, VICTIM) + 5;
    sem_wait(&is_pinned);
    if (*has_pin) {
        pin(pool, VICTIM, true);
    }
    bug_here(VICTIM, at);
    put(at, 'x');
    bug_over();
    if (*has_pin) {
        unpin(pool, VICTIM);
    }
    return NULL;
}

static void written_by_another(bool bug)
{
    pool = begin();
    bool has_pin = !bug;
    MUST(sem_init(&is_pinned, 0, 0) == 0);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, writer, &has_pin) == 0);
    pin(pool, VICTIM, true);
    sem_post(&is_pinned);
    MUST(pthread_join(thread, NULL) == 0);
}

const struct row thread_rows[] = {
    {21, second_thread}, {22, in_a_handler}, {29, unpinned_by_another}, {36, written_by_another}, ROWS_END,
};
