/* choice.c: evicting in batches or by replacing, whichever is cheaper here, see choice.h. */
#include "choice.h"

#include <time.h>

/* Of this thread, in which the processor was its own. */
static uint64_t thread_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void begin_turn(sq_choice *choice, bool replaces)
{
    choice->replaces = replaces;
    choice->left = SQ_TURN;
    choice->thread = pthread_self();
    choice->start = thread_ns();
}

static void end_turn(sq_choice *choice)
{
    /* Another thread's time says nothing. */
    uint64_t took = pthread_equal(choice->thread, pthread_self()) ? thread_ns() - choice->start : 0;
    if (!choice->replaces) {
        choice->batch_took = took;
    } else if (took != 0 && choice->batch_took != 0) {
        choice->won += took < choice->batch_took;
        choice->lost += took >= choice->batch_took;
    }
}

static void settle(sq_choice *choice, sq_evict way)
{
    *choice = (sq_choice){.phase = SQ_SETTLED, .replaces = way == SQ_BY_REPLACE, .left = SQ_CHOICE_LASTS};
}

static void next_phase(sq_choice *choice, _Atomic sq_evict *way)
{
    sq_evict found = SQ_AUTO;
    switch (choice->phase) {
    case SQ_NEW:
        found = atomic_load_explicit(way, memory_order_relaxed);
        *choice = (sq_choice){.phase = SQ_WARMING, .left = SQ_TURN}; /* the first pages cost more */
        break;
    case SQ_WARMING:
    case SQ_SETTLED:
        *choice = (sq_choice){.phase = SQ_MEASURING};
        begin_turn(choice, false);
        break;
    case SQ_MEASURING:
        end_turn(choice);
        if (choice->lost == SQ_TURNS_LOST)
            found = SQ_BY_BATCH;
        else if (choice->won == SQ_TURNS_WON)
            found = SQ_BY_REPLACE;
        begin_turn(choice, !choice->replaces);
        break;
    }
    if (found != SQ_AUTO) {
        settle(choice, found);
        atomic_store_explicit(way, found, memory_order_relaxed);
    }
}

bool sq_choice_replaces(sq_choice *choice, _Atomic sq_evict *way)
{
    if (choice->left == 0)
        next_phase(choice, way);
    choice->left--;
    return choice->replaces;
}
