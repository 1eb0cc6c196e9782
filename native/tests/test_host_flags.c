/* Handlers of the host with every combination of flags, installed before us, after us with and without handing on, and
 * put behind us again by bufpool_install_handlers(): who gets which fault, and in what state of the thread. */
#include "hosts.h"

#include <setjmp.h>

struct variant {
    int flags;
    const int *mask;
    bool later;     /* installed after us */
    bool hands_on;  /* to us, if it is in front */
    bool installed; /* bufpool_install_handlers() at last */
};

static const struct variant *now;
static struct sigaction ours[NSIG];
static int calls, foreign;
static bool on_alternate;
static char *alternate;
static sigjmp_buf back;

#define ALTERNATE (64 * KIB)

static bool is_on_alternate(const void *frame)
{
    return (const char *)frame >= alternate && (const char *)frame < alternate + ALTERNATE;
}

/* What the kernel would have arranged for it. */
static void check_state(int signo, const void *frame)
{
    calls++;
    on_alternate = is_on_alternate(frame);
    CHECK_IS(is_blocked(signo), ==, !(now->flags & SA_NODEFER) || now->mask != NULL);
    CHECK_IS(is_blocked(SIGUSR2), ==, now->mask != NULL);
    CHECK(!is_blocked(SIGUSR1));
}

static void detailed(int signo, siginfo_t *info, void *context)
{
    check_state(signo, __builtin_frame_address(0));
    CHECK(context != NULL);
    CHECK_IS(info->si_signo, ==, signo);
    if ((char *)info->si_addr == closed_page() + 7) {
        foreign++;
        siglongjmp(back, 1);
    }
    CHECK(now->later && !now->installed);
    if (now->hands_on) {
        ours[signo].sa_sigaction(signo, info, context);
        return;
    }
    siglongjmp(back, 2);
}

static void simple(int signo)
{
    check_state(signo, __builtin_frame_address(0));
    foreign++;
    siglongjmp(back, 1);
}

static void install(void)
{
    static const int signals[] = {SIGBUS, SIGSEGV};
    for (int i = 0; i < 2; i++) {
        struct sigaction action = {.sa_flags = now->flags};
        sigemptyset(&action.sa_mask);
        for (const int *masked = now->mask; masked != NULL && *masked != 0; masked++) {
            sigaddset(&action.sa_mask, *masked);
        }
        if (now->flags & SA_SIGINFO) {
            action.sa_sigaction = detailed;
        } else {
            action.sa_handler = simple;
        }
        CHECK_OK(sigaction(signals[i], &action, &ours[signals[i]]));
    }
}

/* 1: the host got it and knew it for none of ours; 2: it swallowed one of ours; 0: it went through. */
static int touch(const char *at)
{
    int how = sigsetjmp(back, 1);
    if (how == 0) {
        read_byte(at);
    }
    return how;
}

static void run(void *argument)
{
    now = argument;
    alternate = use_alternate_stack(ALTERNATE);
    if (!now->later) {
        install();
    }
    bufpool_pool *pool = open_small("resume");
    if (now->later) {
        install();
    }
    if (now->installed) {
        CHECK_OK(bufpool_install_handlers());
        CHECK_OK(bufpool_install_handlers()); /* changes nothing */
    }
    bool in_front = now->later && !now->installed;
    bool swallows = in_front && (!now->hands_on || !(now->flags & SA_SIGINFO));
    bool once = now->flags & (int)SA_RESETHAND;
    /* One of ours, then one of theirs. A handler in front that is reset by its first call is gone for the second. */
    fprintf(stderr, "ours\n");
    CHECK_IS(touch(hole(pool, 2)), ==, swallows ? now->flags & SA_SIGINFO ? 2 : 1 : 0);
    CHECK_IS(stats_of(pool).faults, ==, !swallows);
    CHECK_IS(calls, ==, in_front);
    if (once && in_front && signal_of(trap) == SIGSEGV) {
        fprintf(stderr, "reset\n");
        touch(closed_page() + 7);
        CHECK(false);
    }
    int before = foreign;
    fprintf(stderr, "theirs\n");
    CHECK_IS(touch(closed_page() + 7), ==, 1);
    CHECK_IS(foreign, ==, before + 1);
    /* Behind us it runs where we run. */
    CHECK_IS(on_alternate, ==, !in_front || now->flags & SA_ONSTACK);
    CHECK(!is_blocked(SIGUSR2) && !is_blocked(SIGBUS) && !is_blocked(SIGSEGV));
    if (once) {
        fprintf(stderr, "reset\n");
        touch(closed_page() + 7);
        CHECK(false);
    }
    CHECK_IS(touch(closed_page() + 7), ==, 1);
    CHECK_IS(touch(hole(pool, 3)), ==, swallows ? now->flags & SA_SIGINFO ? 2 : 1 : 0);
    CHECK(swallows || traps_at(hole(pool, 4), NULL));
    fprintf(stderr, "done\n");
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const int everything[] = {SIGBUS, SIGSEGV, SIGUSR2, 0};
    for (int bits = 0; bits < 32; bits++) {
        for (int place = 0; place < 4; place++) {
            struct variant variant = {.flags = (bits & 1 ? SA_ONSTACK : 0) | (bits & 2 ? SA_NODEFER : 0) |
                                               (bits & 4 ? SA_SIGINFO : 0) | (bits & 8 ? (int)SA_RESETHAND : 0),
                                      .mask = bits & 16 ? everything : NULL,
                                      .later = place > 0,
                                      .hands_on = place == 2,
                                      .installed = place == 3};
            struct child child = run_child(run, &variant);
            if (bits & 8) {
                CHECK_DIED(child, SIGSEGV);
                CHECK_CHILD(strcmp(child.text + child.length - 6, "reset\n") == 0, child);
            } else {
                CHECK_PASSED(child);
                CHECK_HAS(child.text, "done\n");
            }
        }
    }
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, with every signal blocked and on its own stacks\n");
        return HARNESS_SKIP;
    }
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
