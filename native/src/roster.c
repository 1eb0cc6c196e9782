/* roster.c: who has a pool, see roster.h. */
#include "roster.h"

#include "kernel.h"
#include "syscalls.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OS_PAGE 4096

static void enter(struct bp_pages *pages, uint32_t member)
{
    struct bp_member *entry = &pages->members[member];
    uint64_t started = 0;
    uint64_t name[2] = {0, 0};
    int32_t pid = (int32_t)getpid();
    bp_kernel_started(pid, &started); /* 0 where /proc is hidden */
    bp_process_name(pid, (char *)name);
    uint32_t last = atomic_load(&pages->counts->last_member);
    while (member > last && !atomic_compare_exchange_weak(&pages->counts->last_member, &last, member)) {
    }
    BP_STORED("last member");
    atomic_store(&entry->pid, pid);
    BP_STORED("entry: pid");
    atomic_store(&entry->started, started);
    BP_STORED("entry: started");
    for (int i = 0; i < 2; i++) {
        atomic_store(&entry->name[i], name[i]);
        BP_STORED("entry: name");
    }
    atomic_store(&entry->faults, 0);
    BP_STORED("entry: faults");
    for (int i = 0; i < BP_MEMBER_SCRATCH; i++) {
        atomic_store(&entry->scratch[i], 0);
        BP_STORED("entry: scratch");
    }
    atomic_store(&entry->present, 1);
    BP_STORED("entry: present");
    pages->busy = BP_BUSY_OF(member);
}

/* Takes the lock of a free number for a description: the number, or -errno. */
static int find_number(const struct bp_pages *pages, int own)
{
    for (int member = 1; member <= BP_MAX_MEMBERS; member++) {
        if (bp_roster_has(pages, (uint32_t)member)) {
            continue;
        }
        int code = bp_kernel_lock_byte(own, (uint64_t)member);
        if (code == 0 && !bp_roster_has(pages, (uint32_t)member)) {
            return member;
        }
        if (code == 0) {
            bp_kernel_unlock_byte(own, (uint64_t)member); /* came and was killed meanwhile */
        } else if (code != -EAGAIN) {
            return code;
        }
    }
    return -EUSERS;
}

static void let_go(struct bp_pages *pages)
{
    if (pages->held != NULL) {
        bp_kernel_munmap(pages->held, OS_PAGE);
        pages->held = NULL;
    }
}

int bp_roster_join(struct bp_pages *pages)
{
    pages->held = NULL; /* in a forked child it was the parent's, and is not mapped */
    int own = bp_kernel_reopen(pages->fd);
    int code = own < 0 ? own : bp_kernel_mmap(NULL, OS_PAGE, PROT_NONE, MAP_SHARED | MAP_NORESERVE, own, &pages->held);
    code = code < 0 ? code : bp_kernel_madvise(pages->held, OS_PAGE, MADV_DONTFORK);
    code = code < 0 ? code : find_number(pages, own);
    if (own >= 0) {
        bp_kernel_close(own);
    }
    if (code < 0) {
        let_go(pages);
        return code;
    }
    enter(pages, (uint32_t)code);
    return 0;
}

void bp_roster_leave(struct bp_pages *pages)
{
    if (pages->members == NULL) {
        return;
    }
    atomic_store(&bp_roster_self(pages)->present, 0);
    BP_STORED("left");
    let_go(pages);
}

uint32_t bp_roster_count(const struct bp_pages *pages)
{
    uint32_t count = pages->members == NULL;
    for (uint32_t member = 1; pages->members != NULL && member <= bp_roster_last(pages); member++) {
        count += bp_roster_has(pages, member);
    }
    return count;
}

/* By the entry's pid. */
static bool is_gone(const struct bp_pages *pages, uint32_t member)
{
    const struct bp_member *entry = &pages->members[member];
    uint64_t wanted = atomic_load(&entry->started);
    uint64_t found;
    if (wanted == 0 || bp_kernel_pid_space() != pages->header->constants.pid_space) {
        return false; /* not known */
    }
    int code = bp_kernel_started(atomic_load(&entry->pid), &found);
    return code == -ESRCH || (code == 0 && found != wanted);
}

bool bp_roster_is_dead(const struct bp_pages *pages, uint32_t member)
{
    return member > 0 && member <= BP_MAX_MEMBERS && BP_BUSY_OF(member) != pages->busy &&
           bp_roster_has(pages, member) && is_gone(pages, member);
}

bool bp_roster_take_over(struct bp_pages *pages, uint32_t member)
{
    if (member == 0 || member > BP_MAX_MEMBERS || BP_BUSY_OF(member) == pages->busy || !bp_roster_has(pages, member)) {
        return false;
    }
    /* Of this process's threads the first: the lock is the process's. */
    if (atomic_exchange(&pages->repairing, true)) {
        return false;
    }
    if (bp_kernel_lock_byte(pages->fd, member) == 0) {
        if (bp_roster_has(pages, member)) {
            return true;
        }
        bp_kernel_unlock_byte(pages->fd, member);
    }
    atomic_store(&pages->repairing, false);
    return false;
}

bool bp_roster_hold_vacant(struct bp_pages *pages, uint32_t member)
{
    if (member > BP_MAX_MEMBERS || atomic_exchange(&pages->repairing, true)) {
        return false;
    }
    if (bp_kernel_lock_byte(pages->fd, member) == 0) {
        if (!bp_roster_has(pages, member)) {
            return true;
        }
        bp_kernel_unlock_byte(pages->fd, member);
    }
    atomic_store(&pages->repairing, false);
    return false;
}

void bp_roster_put_down(struct bp_pages *pages, uint32_t member)
{
    bp_kernel_unlock_byte(pages->fd, member);
    atomic_store(&pages->repairing, false);
}

void bp_roster_bury(struct bp_pages *pages, uint32_t member)
{
    atomic_store(&pages->members[member].present, 0);
    BP_STORED("buried");
    bp_roster_put_down(pages, member);
}

void bp_roster_show(struct bp_pages *pages, size_t slot, uint64_t page)
{
    if (pages->members != NULL) {
        atomic_store(&bp_roster_self(pages)->scratch[slot], page + 1);
        BP_STORED("scratch noted");
    }
}

bool bp_roster_hide(struct bp_pages *pages, size_t slot, uint64_t page)
{
    if (pages->members == NULL) {
        return true;
    }
    atomic_store(&bp_roster_self(pages)->scratch[slot], 0);
    BP_STORED("scratch not noted");
    return !bp_roster_shown_by_others(pages, BP_MEMBER_OF(pages->busy), page);
}

uint32_t bp_roster_next_shower(const struct bp_pages *pages, uint32_t from, uint64_t page)
{
    for (uint32_t member = from; member <= bp_roster_last(pages); member++) {
        for (int i = 0; i < BP_MEMBER_SCRATCH && bp_roster_has(pages, member); i++) {
            if (atomic_load(&pages->members[member].scratch[i]) == page + 1) {
                return member;
            }
        }
    }
    return 0;
}

bool bp_roster_shown_by_others(const struct bp_pages *pages, uint32_t member, uint64_t page)
{
    uint32_t shower = bp_roster_next_shower(pages, 1, page);
    return shower == member && shower != 0 ? bp_roster_next_shower(pages, member + 1, page) != 0 : shower != 0;
}
