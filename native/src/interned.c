/* interned.c: threads by a number of 16 bits, see interned.h. */
#include "interned.h"

#include "kernel.h"
#include "lazy.h"
#include "point.h"
#include "syscalls.h"
#include "thread.h"

#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PROBES 64 /* entries looked at for an ended thread, each by a system call */
#define OWN 0     /* the member, in the process's own table */

static _Atomic(void *) own;

int bp_interned_prepare(struct bp_threads **threads)
{
    void *place;
    int code = bp_lazy_once(&own, sizeof **threads, &place);
    if (code == 0) {
        *threads = place;
    }
    return code;
}

static void describe_self(struct bp_interned_who *who)
{
    *who = (struct bp_interned_who){.thread = bp_thread_id(), .pid = (int32_t)getpid()};
    prctl(PR_GET_NAME, who->name);
    bp_process_name(who->pid, who->process_name);
}

/* The entry is the caller's, by its serial. who NULL: the running thread. */
static void write_entry(struct bp_interned *entry, uint32_t member, uint32_t serial, uint64_t now,
                        const struct bp_interned_who *who)
{
    struct bp_interned_who self;
    uint64_t names[4];
    if (who == NULL) {
        describe_self(&self);
        who = &self;
    }
    memcpy(names, who->name, sizeof who->name);
    memcpy(names + 2, who->process_name, sizeof who->process_name);
    atomic_store_explicit(&entry->thread, who->thread, memory_order_release);
    BP_STORED("thread: id");
    atomic_store_explicit(&entry->pid, who->pid, memory_order_release);
    BP_STORED("thread: pid");
    atomic_store_explicit(&entry->since, now, memory_order_release);
    BP_STORED("thread: since");
    atomic_store_explicit(&entry->space, member == OWN ? 0 : bp_kernel_pid_space(), memory_order_release);
    BP_STORED("thread: space");
    for (int i = 0; i < 2; i++) {
        atomic_store_explicit(&entry->name[i], names[i], memory_order_release);
        BP_STORED("thread: name");
        atomic_store_explicit(&entry->process_name[i], names[i + 2], memory_order_release);
        BP_STORED("thread: process name");
    }
    atomic_store_explicit(&entry->serial, serial, memory_order_release);
    BP_STORED("thread: written");
}

/* May the thread live? Another process's threads are not looked for in the process's own table, where they are a
 * parent's, and taken for living where their ids mean nothing here. */
static bool is_alive(const struct bp_interned *entry, uint32_t member)
{
    int32_t pid = atomic_load(&entry->pid);
    int32_t thread = atomic_load(&entry->thread);
    if (thread <= 0) {
        return false;
    }
    if (member == OWN) {
        return pid == (int32_t)getpid() && bp_kernel_thread_alive(thread);
    }
    uint64_t space = atomic_load(&entry->space);
    return space == 0 || space != bp_kernel_pid_space() || bp_kernel_thread_of(pid, thread);
}

/* Makes the entry the caller's, over what it was: its next serial, or 0. */
static uint32_t claim(struct bp_interned *entry, uint32_t serial, uint32_t member)
{
    uint32_t writer = member == OWN ? 1 : member & BP_INTERNED_WRITER;
    uint32_t next = (serial & ~BP_INTERNED_WRITER) + BP_INTERNED_ONE;
    next = next == 0 ? 2 * BP_INTERNED_ONE : next; /* wrapped: no more its first thread */
    bool done = atomic_compare_exchange_strong(&entry->serial, &serial, next | writer);
    BP_STORED("thread: claimed");
    return done ? next : 0;
}

static uint32_t take_over(struct bp_threads *threads, uint32_t member, uint64_t now, const struct bp_interned_who *who)
{
    for (int i = 0; i < PROBES; i++) {
        uint32_t number = 1 + atomic_fetch_add(&threads->cursor, 1) % (BP_INTERNED_THREADS - 1);
        BP_STORED("threads: cursor");
        struct bp_interned *entry = &threads->entries[number];
        uint32_t serial = atomic_load(&entry->serial);
        uint32_t next;
        if ((serial & BP_INTERNED_WRITER) == 0 && !is_alive(entry, member) &&
            (next = claim(entry, serial, member)) != 0) {
            write_entry(entry, member, next, now, who);
            return number;
        }
    }
    return 0;
}

uint16_t bp_interned_enter(struct bp_threads *threads, uint32_t member, uint64_t now, const struct bp_interned_who *who)
{
    uint32_t used = atomic_load(&threads->used);
    while (used < BP_INTERNED_THREADS - 1) {
        if (!atomic_compare_exchange_weak(&threads->used, &used, used + 1)) {
            continue;
        }
        BP_STORED("threads: used");
        uint32_t next = claim(&threads->entries[used + 1], 0, member);
        if (next != 0) {
            write_entry(&threads->entries[used + 1], member, next, now, who);
            return (uint16_t)(used + 1);
        }
        used++; /* a peer has ruined the count */
    }
    return (uint16_t)take_over(threads, member, now, who);
}

uint16_t bp_interned_self(uint64_t now, uint32_t *serial)
{
    struct bp_threads *threads = atomic_load_explicit(&own, memory_order_acquire);
    bp_thread_id(); /* forgets what was a parent's */
    if (bp_thread.interned == 0) {
        bp_thread.interned = bp_interned_enter(threads, OWN, now, NULL);
    }
    *serial = atomic_load_explicit(&threads->entries[bp_thread.interned].serial, memory_order_relaxed);
    return bp_thread.interned;
}

void bp_interned_release(struct bp_threads *threads, uint32_t member)
{
    uint32_t used = atomic_load(&threads->used);
    for (uint32_t number = 1; number <= used && number < BP_INTERNED_THREADS; number++) {
        struct bp_interned *entry = &threads->entries[number];
        uint32_t serial = atomic_load(&entry->serial);
        if ((serial & BP_INTERNED_WRITER) == member) {
            atomic_store(&entry->thread, 0);
            BP_STORED("thread: cleared");
            atomic_compare_exchange_strong(&entry->serial, &serial, serial & ~BP_INTERNED_WRITER);
            BP_STORED("thread: released");
        }
    }
}

bool bp_interned_find(struct bp_threads *threads, uint16_t number, uint64_t tick, struct bp_interned_who *who)
{
    if (number == 0 || threads == NULL) {
        return false;
    }
    struct bp_interned *entry = &threads->entries[number];
    uint32_t serial = atomic_load_explicit(&entry->serial, memory_order_acquire);
    uint64_t names[4];
    for (int i = 0; i < 2; i++) {
        names[i] = atomic_load_explicit(&entry->name[i], memory_order_acquire);
        names[i + 2] = atomic_load_explicit(&entry->process_name[i], memory_order_acquire);
    }
    uint64_t since = atomic_load_explicit(&entry->since, memory_order_acquire);
    who->thread = atomic_load_explicit(&entry->thread, memory_order_acquire);
    who->pid = atomic_load_explicit(&entry->pid, memory_order_acquire);
    memcpy(who->name, names, sizeof who->name);
    memcpy(who->process_name, names + 2, sizeof who->process_name);
    who->name[sizeof who->name - 1] = 0;
    who->process_name[sizeof who->process_name - 1] = 0;
    if (serial == 0 || serial & BP_INTERNED_WRITER || atomic_load(&entry->serial) != serial || who->thread <= 0 ||
        who->pid <= 0) {
        return false;
    }
    /* In the tick in which the entry changed hands it may have been either's. */
    return serial == BP_INTERNED_ONE || tick > since;
}
