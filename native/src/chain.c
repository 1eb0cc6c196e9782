/*
 * chain.c: being one of several handlers of SIGBUS and SIGSEGV.
 *
 * Whoever had the signal when we were installed is remembered, and gets what is not ours with the same arguments. When
 * a later open finds that somebody else has put itself in front (faulthandler, a language runtime), we go in front of
 * that and remember it too. Such a handler often "restores" ours and raises the signal again, so a signal that we
 * passed on may come back while the older handler is still running: then it is the turn of the next older one, and in
 * the end of the default action. An older handler may also leave by longjmp and never return; the frame address tells
 * that.
 *
 * While our handler runs, signals are blocked whose handlers could leave it by longjmp, with a report half written, or
 * pile up on a small alternate stack. The host's own code (older handlers, callbacks) is called with the signal mask that
 * it would have without us.
 *
 * The default action is taken by queueing the very siginfo to this thread with the signal blocked: it is delivered when
 * the handler returns, at the instruction that was interrupted, so that the core dump shows that frame and that
 * address.
 */
#include "chain.h"

#include "error.h"
#include "machine.h"
#include "postmortem.h"
#include "probe.h"
#include "stack.h"
#include "thread.h"

#include <bufpool/bufpool.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define OLDER 8
#define PATIENCE 1000

struct chain {
    struct sigaction older[OLDER]; /* oldest first; an entry is written before count admits it */
    atomic_int count;
};

static struct chain chains[2];

static int index_of(int signo)
{
    return signo == SIGBUS ? 0 : 1;
}

/* All signals but faults: the kernel kills a thread that blocks its own. */
static void fill_mask(sigset_t *mask)
{
    static const int faults[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT, SIGKILL, SIGSTOP};
    sigfillset(mask);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        sigdelset(mask, faults[i]);
    }
}

/* While our handler runs. What ends a process from its terminal goes through: a report may wait for a reader of stderr.
 */
static void fill_handler_mask(sigset_t *mask)
{
    fill_mask(mask);
    sigdelset(mask, SIGINT);
    sigdelset(mask, SIGQUIT);
    sigdelset(mask, SIGTERM);
    sigdelset(mask, SIGHUP);
}

void bp_signal_block(sigset_t *before)
{
    sigset_t mask;
    fill_mask(&mask);
    pthread_sigmask(SIG_BLOCK, &mask, before);
}

void bp_signal_restore(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

void bp_signal_open_mask(const void *context, sigset_t *before)
{
    sigset_t ours;
    fill_handler_mask(&ours);
    pthread_sigmask(SIG_BLOCK, NULL, before);
    for (int signo = 1; signo < NSIG; signo++) {
        if (sigismember(&ours, signo) == 1 && !sigismember(before, signo)) {
            return; /* it is the handler of somebody else that has called us, and the mask is his */
        }
    }
    pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
    int keep = errno;
    if (!bufpool_handle_signal(signo, info, context)) {
        bp_signal_pass_on(signo, info, context);
    }
    errno = keep;
}

static bool same(const struct sigaction *a, const struct sigaction *b)
{
    return a->sa_handler == b->sa_handler && (a->sa_flags & SA_SIGINFO) == (b->sa_flags & SA_SIGINFO);
}

static bool is_ours(const struct sigaction *action)
{
    return action->sa_flags & SA_SIGINFO && action->sa_sigaction == on_signal;
}

/* Remembers a handler that we displace. An earlier entry of the same handler stays: it has its turn after those that
 * came between. */
static void remember(struct chain *chain, const struct sigaction *action)
{
    int count = atomic_load(&chain->count);
    if (count > 0 && same(&chain->older[count - 1], action)) {
        return;
    }
    if (count == OLDER) {
        count--; /* the newest makes room: those before it were there first */
    }
    chain->older[count] = *action;
    atomic_store(&chain->count, count + 1);
}

static int install(int signo)
{
    struct sigaction current;
    struct sigaction ours = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    fill_handler_mask(&ours.sa_mask);
    if (sigaction(signo, NULL, &current) != 0) {
        return bp_error(-errno, "cannot read the handler of signal %d: %s", signo, strerror(errno));
    }
    if (is_ours(&current)) {
        return 0;
    }
    remember(&chains[index_of(signo)], &current);
    if (sigaction(signo, &ours, NULL) != 0 || sigaction(signo, NULL, &current) != 0) {
        return bp_error(-errno, "cannot install the handler of signal %d: %s", signo, strerror(errno));
    }
    if (!is_ours(&current)) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "something in this process keeps the handler of signal %d to itself, without an error "
                        "(AddressSanitizer does so with handle_segv=2 and handle_sigbus=2: set them to 1); or let the "
                        "host's own handler call bufpool_handle_signal() and open the pool with BUFPOOL_HOST_HANDLER",
                        signo);
    }
    return 0;
}

void bp_signal_stay(void)
{
    static atomic_bool done;
    Dl_info info;
    if (!atomic_exchange(&done, true) && dladdr((void *)(uintptr_t)on_signal, &info) != 0 && info.dli_fname != NULL) {
        void *self = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
        if (self != NULL) {
            dlclose(self); /* its count is as it was, and the mark stays */
        }
    }
}

int bp_signal_install(void)
{
    int code = install(SIGBUS);
    return code < 0 ? code : install(SIGSEGV);
}

void bp_signal_default(int signo, const siginfo_t *info)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signo);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigemptyset(&action.sa_mask);
    sigaction(signo, &action, NULL);
    siginfo_t copy = *info;
    /* A process may queue any siginfo to itself (kernel/signal.c, do_rt_tgsigqueueinfo). */
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), signo, &copy) != 0) {
        raise(signo);
    }
}

static void call(struct chain *chain, int turn, int signo, siginfo_t *info, void *context)
{
    struct sigaction action = chain->older[turn];
    sigset_t blocked = action.sa_mask;
    if (!(action.sa_flags & SA_NODEFER)) {
        sigaddset(&blocked, signo);
    }
    if (action.sa_flags & (int)SA_RESETHAND) {
        chain->older[turn].sa_handler = SIG_DFL;
        chain->older[turn].sa_flags = 0;
    }
    sigset_t before;
    bp_signal_open_mask(context, &before);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    if (action.sa_flags & SA_SIGINFO) {
        action.sa_sigaction(signo, info, context);
    } else {
        action.sa_handler(signo);
    }
    /* What it has queued, as bp_signal_default() does, is meant for the interrupted instruction, not for here. */
    sigset_t pending;
    if (sigpending(&pending) == 0 && sigismember(&pending, signo)) {
        sigaddset(&before, signo);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool is_accessible(uintptr_t address, bufpool_access access)
{
    volatile unsigned char *byte = (volatile unsigned char *)address;
    sigjmp_buf *outer = bp_thread.probe;
    const size_t outer_size = bp_thread.probe_size;
    sigjmp_buf place;
    if (access == BUFPOOL_EXECUTE || sigsetjmp(place, 0) != 0) {
        bp_thread.probe = outer;
        bp_thread.probe_size = outer_size;
        return false;
    }
    bp_thread.probe_size = 0;
    bp_thread.probe = &place;
    if (access == BUFPOOL_WRITE) {
        __atomic_fetch_or(byte, 0, __ATOMIC_RELAXED); /* changes nothing */
    } else {
        (void)*byte;
    }
    bp_thread.probe = outer;
    bp_thread.probe_size = outer_size;
    return true;
}

/* An older handler has returned from a fault. Has it, time and again, left everything as it was? That is one that was
 * disabled while we stood in front of it (faulthandler): the instruction would fault for ever. */
static bool in_vain(const struct bp_machine *before, const siginfo_t *info, const void *context)
{
    struct bp_machine after;
    bp_machine_read(context, &after);
    uintptr_t address = (uintptr_t)info->si_addr;
    bool same = bp_thread.passed_pc == before->pc && bp_thread.passed_address == address && after.pc == before->pc;
    bp_thread.passed_again = same ? bp_thread.passed_again + 1 : 0;
    bp_thread.passed_pc = before->pc;
    bp_thread.passed_address = address;
    return info->si_code > 0 && bp_thread.passed_again > PATIENCE && !is_accessible(address, after.access);
}

/* Through a pointer, so that it can be found on the stack. */
static void (*const volatile caller)(struct chain *, int, int, siginfo_t *, void *) = call;

void bp_signal_pass_on(int signo, siginfo_t *info, void *context)
{
    int index = index_of(signo);
    struct chain *chain = &chains[index];
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    uint8_t *passing = &bp_thread.passing[index];
    /* Stacks grow downwards: an older handler that still runs has called us from below its own frame. One that left by
     * longjmp may have its frame above us, too, but not on the stack any more. */
    if (*passing > 0) {
        int running = frame < bp_thread.passing_frame[index] ? bp_stack_count((uintptr_t)caller) : 0;
        *passing = running >= 0 && running < *passing ? (uint8_t)running : *passing;
    }
    struct bp_machine before;
    bp_machine_read(context, &before);
    for (int turn = atomic_load(&chain->count) - 1 - *passing;; turn--) {
        bool plain = turn >= 0 && !(chain->older[turn].sa_flags & SA_SIGINFO);
        bool ignored = plain && chain->older[turn].sa_handler == SIG_IGN;
        if (ignored && info->si_code <= 0) {
            return;
        }
        /* The kernel does not let a thread ignore a fault of its own. */
        if (turn < 0 || ignored || (plain && chain->older[turn].sa_handler == SIG_DFL)) {
            bp_postmortem_dump_tables();
            bp_signal_default(signo, info);
            return;
        }
        uintptr_t outer = bp_thread.passing_frame[index];
        bp_thread.passing_frame[index] = frame;
        ++*passing;
        caller(chain, turn, signo, info, context);
        --*passing;
        bp_thread.passing_frame[index] = outer;
        if (!in_vain(&before, info, context)) {
            return;
        }
    }
}
