/* monitor.c: reading the faults of sleeping threads, see monitor.h. */
#include "monitor.h"

#include "chain.h"
#include "error.h"
#include "freeze.h"
#include "poison.h"
#include "record.h"
#include "scratch.h"
#include "syscalls.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BATCH 32
#define WAKES 256
#define LOOK_NS 20000000     /* how often one looks for a wish that a frozen thread may go on */
#define CHECK_NS 2000000000  /* how often one looks whether the host has closed the descriptors, which wakes nobody */
#define FOREIGN_NS 100000000 /* another process's call that was answered is over by then */
#define LATE_NS 1000000000   /* an order that its thread has not taken by then will not be taken */
#define SPINS 8              /* a thread that never sleeps while it faults so often in a row is in a system call */
#define STACK_SIZE (256u << 10)
#define REPORTS 16 /* that wait for stderr; more messages are read when they are out */

/* A system call that was answered without its thread's knowing. */
struct answered {
    struct bp_order order;
    int64_t since_ns;
    int64_t cpu_ns; /* what the thread had used; -1: of another process */
};

/* A call whose message is to come a second time, in a later round. */
struct asked {
    struct bp_order order;
    unsigned round;
};

/* A thread whose messages come one after the other. */
struct spinner {
    int32_t thread;
    unsigned times;
    unsigned round; /* of the last one, and */
    int64_t last_ns;
};

/* A report that has yet to go to stderr. */
struct report {
    bufpool_fault fault;
    struct bp_more more;
};

struct bp_monitor {
    bufpool_pool *pool;
    pthread_t thread;
    int stop; /* an eventfd */
    struct bp_spare spare;
    unsigned next_spinner;
    struct spinner spinners[BATCH];
    unsigned next_asked;
    struct asked asked[BATCH];
    unsigned round; /* counts how often the threads were woken whose messages had been read */
    unsigned to_wake;
    uintptr_t wake[2 * WAKES];
    unsigned answered;
    struct answered calls[BATCH];
    unsigned untold;
    struct report reports[REPORTS];
};

/* Reports whose threads have their answers, and which are yet to be written to stderr: by all monitors. */
static _Atomic uint32_t untold;

/* The program ends, perhaps by the thread that was just answered. */
static void wait_for_reports(void)
{
    for (int patience = 0; patience < 1000 && atomic_load(&untold) > 0; patience++) {
        bp_kernel_sleep_ns(1000000);
    }
}

static void prepare_for_the_end(void)
{
    atexit(wait_for_reports); /* without memory for it the last reports may only be in the log */
}

/* ---- Answers ---- */

/* Later: to wake one is to wake all who sleep there, and their messages have to be read first. */
static void wake_later(struct bp_monitor *monitor, uint64_t address)
{
    uintptr_t granule = bp_poison_granule(monitor->pool, address);
    for (unsigned i = 0; i < monitor->to_wake; i++) {
        if (monitor->wake[i] == granule) {
            return;
        }
    }
    monitor->wake[monitor->to_wake++] = granule;
}

static void wake(struct bp_monitor *monitor)
{
    for (unsigned i = 0; i < monitor->to_wake; i++) {
        bp_kernel_uffd_wake(monitor->pool->space.uffd, monitor->wake[i], bp_poison_size(monitor->pool));
    }
    monitor->to_wake = 0;
}

/* Writes the reports to stderr, once the threads have their answers and the pool is left: whoever does not read stderr
 * holds up nobody. */
static void tell(struct bp_monitor *monitor)
{
    for (unsigned i = 0; i < monitor->untold; i++) {
        const struct report *report = &monitor->reports[i];
        if (report->fault.flags & BUFPOOL_FAULT_LIMITED) {
            bp_report_more_stderr(&report->more);
        } else if (bp_report_stderr_soon(&report->fault) < 0) {
            atomic_fetch_add(&monitor->pool->reports_lost, 1);
        }
    }
    atomic_fetch_sub(&untold, monitor->untold);
    monitor->untold = 0;
}

static bool has_room(const struct bp_monitor *monitor)
{
    return monitor->to_wake < WAKES && monitor->untold < REPORTS;
}

/* The process ends here, as at an access under "abort", but in this thread. */
static void die(struct bp_monitor *monitor, const struct bp_order *order)
{
    siginfo_t info;
    sigset_t set;
    tell(monitor);
    memset(&info, 0, sizeof info);
    info.si_signo = SIGBUS;
    info.si_code = BUS_ADRERR;
    info.si_addr = (void *)(uintptr_t)order->address;
    bp_signal_default(SIGBUS, &info);
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* It is about to go on, and is not frozen any more. */
static void thawed(const struct bp_order *order)
{
    struct bp_frozen_slot *slot = order->thaw == BP_WISH_NONE ? NULL : bp_frozen_asleep(order->thread);
    if (slot != NULL) {
        bp_frozen_remove(slot);
    }
}

/* The thread cannot do it: reports, and lets the access end. */
static void answer_alone(struct bp_monitor *monitor, const struct bp_order *order)
{
    bufpool_pool *pool = monitor->pool;
    struct report *report = &monitor->reports[monitor->untold]; /* there is room: see answer_all() */
    if (order->thaw == BP_WISH_NONE) {
        bp_record_for(pool, order, &report->fault, &report->more);
        monitor->untold++;
        atomic_fetch_add(&untold, 1);
    }
    if ((pool->policy == BP_ABORT && !order->foreign) || order->thaw == BP_WISH_ABORT) {
        die(monitor, order);
        return;
    }
    if (order->in_syscall[0] == 0) {
        if (pool->policy == BP_FREEZE && !order->foreign && order->thaw == BP_WISH_NONE &&
            bp_frozen_add(&report->fault, order->sp, BP_FROZEN_IN_KERNEL) != NULL) {
            return; /* it sleeps already */
        }
        thawed(order);
        if (!bp_scratch_divert(pool, bp_page_at(pool, order->address), order->access, (uintptr_t)order->address)) {
            die(monitor, order);
        }
        wake_later(monitor, order->address);
        return;
    }
    if (monitor->answered == BATCH) { /* the oldest has had its time */
        bp_unpoison(pool, &monitor->calls[0].order);
        memmove(&monitor->calls[0], &monitor->calls[1], (--monitor->answered) * sizeof monitor->calls[0]);
    }
    monitor->calls[monitor->answered++] =
        (struct answered){*order, bp_kernel_monotonic_ns(), bp_kernel_thread_cpu_ns(order->thread)};
    wake_later(monitor, order->address);
}

/* Sends the thread its order, or does without. */
static void answer(struct bp_monitor *monitor, const struct bp_order *order)
{
    if (bp_order_waits(order->thread)) {
        return; /* it has not come to it yet: a signal's handler, or the end of a call, runs before */
    }
    if (order->foreign || bp_thread_blocks(order->thread, SIGBUS, &monitor->spare)) {
        answer_alone(monitor, order);
    } else if (!bp_order_put(order)) {
        bp_kernel_sleep_ns(1000000); /* so many at once: this one will ask again */
        wake_later(monitor, order->address);
    } else if (bp_kernel_queue_sigbus(order->thread, bp_order_marker()) < 0) {
        struct bp_order mine;
        if (bp_order_take(order->thread, &mine)) {
            answer_alone(monitor, order);
        }
    }
}

/* Between a message and the look at its thread a signal may have taken the thread elsewhere, into a call that has nothing to
 * do with it. So a call is answered when its message comes a second time, which it does when the thread is woken. */
static bool is_certain(struct bp_monitor *monitor, const struct bp_order *order)
{
    for (unsigned i = 0; i < BATCH; i++) {
        struct asked *asked = &monitor->asked[i];
        struct bp_order *before = &asked->order;
        if (before->thread != order->thread) {
            continue;
        }
        bool same = before->address == order->address && before->pc == order->pc && before->sp == order->sp &&
                    strcmp(before->in_syscall, order->in_syscall) == 0;
        if (same && asked->round != monitor->round) {
            before->thread = 0;
            return true;
        }
        *asked = (struct asked){*order, monitor->round};
        return false;
    }
    monitor->asked[monitor->next_asked++ % BATCH] = (struct asked){*order, monitor->round};
    return false;
}

/* Is it a call that was answered a moment ago, and tries again? */
static bool is_answered(const struct bp_monitor *monitor, const struct bp_order *order)
{
    for (unsigned i = 0; i < monitor->answered; i++) {
        const struct bp_order *before = &monitor->calls[i].order;
        if (before->thread == order->thread && before->address == order->address) {
            return true;
        }
    }
    return false;
}

static void answer_call(struct bp_monitor *monitor, struct bp_order *order)
{
    bufpool_pool *pool = monitor->pool;
    if (!bp_order_waits(order->thread) && !is_answered(monitor, order) && !is_certain(monitor, order)) {
        wake_later(monitor, order->address);
        return;
    }
    int code = bp_poison(pool, order->address);
    /* Allocated meanwhile, or poisoned for another call: this one has strayed all the same. */
    if (code < 0 && code != -EEXIST) {
        wake_later(monitor, order->address); /* the mapping is being renewed: it will ask again */
        return;
    }
    order->poisoned = code == 0;
    if (is_answered(monitor, order)) {
        atomic_fetch_add(&pool->repeats, 1);
    } else {
        answer(monitor, order);
    }
    wake_later(monitor, order->address); /* not every sleep in a call ends with a signal */
}

/* Some calls (futex, O_DIRECT) have the kernel fetch whole pages: then it is the argument that tells. */
static uint64_t exact(uint64_t address, const struct bp_activity *activity)
{
    for (int i = 0; i < 6 && address % BP_GRANULE == 0; i++) {
        if (activity->arguments[i] - address < BP_GRANULE) {
            return activity->arguments[i];
        }
    }
    return address;
}

static struct spinner *spinner_of(struct bp_monitor *monitor, int32_t thread)
{
    for (unsigned i = 0; i < BATCH; i++) {
        if (monitor->spinners[i].thread == thread) {
            return &monitor->spinners[i];
        }
    }
    struct spinner *spinner = &monitor->spinners[monitor->next_spinner++ % BATCH];
    *spinner = (struct spinner){.thread = thread};
    return spinner;
}

/* A signal has woken the thread. Out of an instruction it runs the signal's handler, and may come back; in a system call it
 * tries again and again until the call is over. */
static bool spins(struct bp_monitor *monitor, int32_t thread)
{
    struct spinner *spinner = spinner_of(monitor, thread);
    int64_t now = bp_kernel_monotonic_ns();
    if (now - spinner->last_ns > LOOK_NS) {
        spinner->times = 0;
    } else if (spinner->round != monitor->round) {
        spinner->times++;
    }
    spinner->round = monitor->round;
    spinner->last_ns = now;
    return spinner->times >= SPINS;
}

/* The thread cannot be looked at, and has been sent an order as for an access of its own. Does it not come to take it? Then
 * it is in a system call. */
static void correct(struct bp_monitor *monitor, struct bp_order *order)
{
    if (monitor->pool->space.sleep != BP_SLEEP_ALL || !spins(monitor, order->thread)) {
        return;
    }
    snprintf(order->in_syscall, sizeof order->in_syscall, "unknown");
    /* The call ends as soon as there is poison, and the thread then takes the order as it is. */
    if (bp_order_correct(order) && bp_poison(monitor->pool, order->address) == 0 && !bp_order_poisoned(order->thread)) {
        order->poisoned = true;
        bp_unpoison(monitor->pool, order);
    }
    wake_later(monitor, order->address);
}

static void take_up(struct bp_monitor *monitor, const struct bp_sleeper *sleeper)
{
    bufpool_pool *pool = monitor->pool;
    if (sleeper->address - pool->space.base >= pool->space.capacity) {
        wake_later(monitor, sleeper->address);
        return;
    }
    struct bp_order order = {.pool = pool,
                             .thread = sleeper->thread,
                             .access = sleeper->write ? BUFPOOL_WRITE : BUFPOOL_READ,
                             .address = sleeper->address};
    struct bp_activity activity;
    bp_activity_read(sleeper->thread, &activity, &monitor->spare);
    order.pc = activity.pc;
    order.sp = activity.sp;
    order.foreign = activity.foreign;
    /* Whoever sleeps in user mode only is not in a call, but may have been taken to one by a signal since. */
    if (pool->space.sleep == BP_SLEEP_USER && activity.doing != BP_DOING_ACCESS && activity.doing != BP_DOING_GONE &&
        activity.doing != BP_DOING_HIDDEN) {
        return;
    }
    struct bp_frozen_slot *slot = pool->policy == BP_FREEZE ? bp_frozen_asleep(order.thread) : NULL;
    switch (activity.doing) {
    case BP_DOING_HIDDEN:
        if (bp_order_waits(order.thread)) {
            correct(monitor, &order);
            break;
        }
        *spinner_of(monitor, order.thread) = (struct spinner){.thread = order.thread};
        /* fall through */
    case BP_DOING_ACCESS:
        if (slot != NULL && slot->address == order.address) {
            return; /* a signal has woken it for a while */
        }
        /* The kernel does not tell; but what an instruction reads does not begin within the instruction itself. */
        if (!sleeper->write && order.address - order.pc < BP_LONGEST_INSTRUCTION) {
            order.access = BUFPOOL_EXECUTE;
        }
        answer(monitor, &order);
        break;
    case BP_DOING_CALL:
        bp_syscall_name(activity.number, order.in_syscall, sizeof order.in_syscall);
        order.address = exact(order.address, &activity);
        answer_call(monitor, &order);
        break;
    case BP_DOING_RUNNING:
        if (bp_order_waits(order.thread) || spins(monitor, order.thread)) {
            snprintf(order.in_syscall, sizeof order.in_syscall, "unknown");
            answer_call(monitor, &order);
        }
        break;
    case BP_DOING_GONE: /* of another process, which is none of our business, but for what it does here */
        if (pool->space.sleep == BP_SLEEP_USER) {
            answer_alone(monitor, &order);
            return;
        }
        snprintf(order.in_syscall, sizeof order.in_syscall, "unknown");
        answer_call(monitor, &order);
        break;
    }
}

/* ---- Afterwards ---- */

/* Has the thread left the call? Nobody says so; when it has used the processor for a while since, sleeps elsewhere, or
 * has ended, it has. What comes too early brings the same message again. */
static bool is_over(struct bp_monitor *monitor, const struct answered *call)
{
    struct bp_activity activity;
    int64_t now = bp_kernel_monotonic_ns();
    if (call->cpu_ns < 0) { /* of another process: nothing tells, and it may have to wait for the processor */
        return now - call->since_ns > FOREIGN_NS;
    }
    int64_t used = bp_kernel_thread_cpu_ns(call->order.thread) - call->cpu_ns;
    int64_t enough_ns = used > 0 ? 20000000 : LATE_NS; /* it may have to wait for the processor */
    if (used < 0 || used > 100000 || now - call->since_ns > enough_ns) {
        return true;
    }
    bp_activity_read(call->order.thread, &activity, &monitor->spare);
    return activity.doing == BP_DOING_ACCESS ||
           (activity.doing == BP_DOING_CALL && (activity.pc != call->order.pc || activity.sp != call->order.sp));
}

static void end_calls(struct bp_monitor *monitor)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < monitor->answered; i++) {
        if (is_over(monitor, &monitor->calls[i])) {
            bp_unpoison(monitor->pool, &monitor->calls[i].order);
        } else {
            monitor->calls[kept++] = monitor->calls[i];
        }
    }
    monitor->answered = kept;
}

static void end_orders(struct bp_monitor *monitor)
{
    struct bp_order order;
    while (has_room(monitor) && bp_order_overdue(monitor->pool, LATE_NS, &order)) {
        answer_alone(monitor, &order);
    }
    wake(monitor);
}

/* Threads that are frozen and are wished to go on. */
static void end_sleep(struct bp_monitor *monitor)
{
    bufpool_pool *pool = monitor->pool;
    struct bp_frozen_slot *slot;
    for (int n = 0; pool->policy == BP_FREEZE && has_room(monitor) && bp_freeze_wished(pool, &n, &slot);) {
        struct bp_order order = {.pool = pool,
                                 .thread = atomic_load(&slot->thread),
                                 .thaw = (enum bp_frozen_wish)atomic_load(&slot->wish),
                                 .address = slot->address,
                                 .sp = slot->sp,
                                 .pc = slot->pc};
        answer(monitor, &order);
    }
    wake(monitor);
}

static int64_t patience(const struct bp_monitor *monitor)
{
    if (monitor->pool->policy == BP_FREEZE && bp_freeze_any(monitor->pool)) {
        return LOOK_NS;
    }
    return monitor->answered > 0 ? 200000 : bp_orders_wait(monitor->pool) ? LATE_NS / 10 : CHECK_NS;
}

static void answer_all(struct bp_monitor *monitor)
{
    struct bp_sleeper sleeper;
    for (int read = 0; read < WAKES && has_room(monitor) && bp_kernel_uffd_read(monitor->pool->space.uffd, &sleeper);
         read++) {
        take_up(monitor, &sleeper);
    }
    wake(monitor);
    monitor->round++;
    end_calls(monitor);
    end_orders(monitor);
    end_sleep(monitor);
}

static void *run(void *argument)
{
    struct bp_monitor *monitor = argument;
    prctl(PR_SET_NAME, "bufpool-monitor");
    while (!(bp_kernel_wait(monitor->pool->space.uffd, monitor->stop, patience(monitor)) & 2)) {
        if (!bp_pool_visit(monitor->pool)) { /* it is just being opened */
            bp_kernel_sleep_ns(100000);
            continue;
        }
        bool whole = bp_space_check(&monitor->pool->space);
        if (whole) {
            answer_all(monitor);
        }
        bp_pool_leave(monitor->pool);
        tell(monitor);
        if (!whole) { /* the numbers may be the host's by now */
            return NULL;
        }
    }
    /* Not told to stop? The descriptor that it polls is not its own any more. */
    if (!atomic_load(&monitor->pool->closed)) {
        bp_space_check(&monitor->pool->space);
    }
    return NULL;
}

/* ---- Starting and stopping ---- */

static int start_thread(struct bp_monitor *monitor)
{
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    int code = pthread_attr_init(&attributes);
    if (code != 0) {
        return -code;
    }
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&monitor->thread, &attributes, run, monitor);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -code;
}

static void drop(bufpool_pool *pool)
{
    bp_kernel_close_kept(pool->monitor->stop);
    bp_spare_close(&pool->monitor->spare);
    bp_kernel_munmap(pool->monitor, sizeof *pool->monitor);
    pool->monitor = NULL;
}

/* Can threads be looked at? Where only accesses sleep, there is nothing to be told apart. */
static int check_sight(struct bp_monitor *monitor)
{
    struct bp_activity activity;
    bp_activity_read(bp_kernel_thread(), &activity, &monitor->spare); /* which leaves the spare one */
    if (monitor->pool->space.sleep == BP_SLEEP_ALL && activity.doing != BP_DOING_CALL &&
        activity.doing != BP_DOING_RUNNING) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "the monitor of pool \"%s\" cannot read /proc/self/task/*/syscall (%s): mount /proc; a process "
                        "that has changed its user needs prctl(PR_SET_DUMPABLE, 1)",
                        monitor->pool->name, strerror(-activity.code));
    }
    return 0;
}

int bp_monitor_start(bufpool_pool *pool)
{
    if (pool->space.sleep == BP_SLEEP_NEVER) {
        return 0;
    }
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare_for_the_end);
    void *place;
    int code =
        bp_kernel_mmap(NULL, sizeof *pool->monitor, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &place);
    if (code == 0) {
        pool->monitor = place;
        pool->monitor->pool = pool;
        pool->monitor->spare.fd = -1;
        pool->monitor->stop = code = bp_kernel_event();
        code = code < 0 ? code : check_sight(pool->monitor);
        code = code < 0 ? code : start_thread(pool->monitor);
        if (code < 0) {
            drop(pool);
        }
    }
    if (code == 0 || code == BUFPOOL_EUNSUPPORTED) {
        return code;
    }
    return bp_error(code, "cannot start the monitor of pool \"%s\": %s", pool->name, strerror(-code));
}

void bp_monitor_stop(bufpool_pool *pool)
{
    if (pool->monitor == NULL) {
        return;
    }
    uint64_t one = 1;
    if (bp_kernel_is_kept(pool->monitor->stop)) { /* else it looks for itself, now and then */
        bp_kernel_write(pool->monitor->stop, &one, sizeof one, 1);
    }
    pthread_join(pool->monitor->thread, NULL);
    drop(pool);
}

void bp_monitor_forget(bufpool_pool *pool)
{
    if (pool->monitor != NULL) {
        bp_orders_forget();
        atomic_store(&untold, 0);
        drop(pool);
    }
}
