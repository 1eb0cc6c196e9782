/* headroom.c: reading the limits of memory cgroups, see headroom.h. */
#include "headroom.h"

#include "cgroups.h"
#include "kernel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MARGIN ((uint64_t)4 << 20)  /* page tables, what others take meanwhile, what the kernel charges ahead */
#define SMALL_PART 16               /* of a small limit the margin is this part at most */
#define PLENTY ((uint64_t)64 << 20) /* with so much room nobody looks for what could be reclaimed: that is dear */
#define NO_LIMIT ((uint64_t)1 << 62)
#define PATH_ROOM 4096

/* What one cgroup says. */
struct room {
    uint64_t limit, usage, reclaimable;
    bool by_high;
};

/* "max", or what is no number, is no limit. */
static uint64_t number(const char *text)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && value < NO_LIMIT; at++) {
        value = value * 10 + (uint64_t)(*at - '0');
    }
    return at == text ? UINT64_MAX : value;
}

static uint64_t read_number(int fd)
{
    char text[32];
    ssize_t got = fd < 0 ? -1 : bp_kernel_read_again(fd, text, sizeof text - 1);
    if (got <= 0) {
        return UINT64_MAX;
    }
    text[got] = 0;
    return number(text);
}

/* "\nkey number"; 0 if there is no such line. */
static uint64_t field(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            uint64_t value = number(line + length + 1);
            return value == UINT64_MAX ? 0 : value;
        }
    }
    return 0;
}

/* Page cache on the lists that reclaim goes through, but for what has to be written first. */
static uint64_t reclaimable(const struct bp_cgroup *cgroup)
{
    char text[4096];
    ssize_t got = cgroup->stat < 0 ? -1 : bp_kernel_read_again(cgroup->stat, text, sizeof text - 1);
    if (got <= 0) {
        return 0;
    }
    text[got] = 0;
    bool v2 = cgroup->v2;
    uint64_t cache = field(text, v2 ? "inactive_file" : "total_inactive_file") +
                     field(text, v2 ? "active_file" : "total_active_file");
    uint64_t dirty =
        field(text, v2 ? "file_dirty" : "total_dirty") + field(text, v2 ? "file_writeback" : "total_writeback");
    return cache > dirty ? cache - dirty : 0;
}

static uint64_t margin_of(uint64_t limit)
{
    return limit / SMALL_PART < MARGIN ? limit / SMALL_PART : MARGIN;
}

/* How much can be taken until its limit; UINT64_MAX: it has none, or does not say. */
static uint64_t room_of(const struct bp_cgroup *cgroup, struct room *room)
{
    uint64_t high = read_number(cgroup->high);
    room->limit = read_number(cgroup->limit);
    room->by_high = high < room->limit;
    room->limit = room->by_high ? high : room->limit;
    room->usage = read_number(cgroup->usage);
    room->reclaimable = 0;
    if (room->limit >= NO_LIMIT || room->usage >= NO_LIMIT) {
        return UINT64_MAX;
    }
    uint64_t taken = room->usage + margin_of(room->limit);
    if (taken >= room->limit || room->limit - taken < PLENTY) {
        room->reclaimable = reclaimable(cgroup);
        taken -= room->reclaimable < taken ? room->reclaimable : taken;
    }
    return taken < room->limit ? room->limit - taken : 0;
}

/* ---- What is promised ----
 *
 * One word says it all, so that no two threads are promised the same room: granules that fills under way may take
 * (bits 0 to 35), granules that may be had without a look (36 to 47), and how often somebody has looked (48 to 63). Who looks
 * takes back at the same moment what may be had so, and counts as used what was promised before; he grants anew only if
 * nobody has begun to look after him. */

#define UNIT ((uint64_t)4096)
#define PROMISED ((UINT64_C(1) << 36) - 1)
#define GRANTED_SHIFT 36
#define LARGEST_GRANT UINT64_C(4095)
#define LOOKS_SHIFT 48
#define LARGEST_PROMISE (UINT64_C(1) << 30) /* 4 TiB: of more nothing is left anyway */

static uint64_t units(uint64_t length)
{
    uint64_t count = length / UNIT + (length % UNIT != 0);
    return count < LARGEST_PROMISE ? count : LARGEST_PROMISE;
}

static uint64_t granted(uint64_t word)
{
    return word >> GRANTED_SHIFT & LARGEST_GRANT;
}

/* What was there before; the result says itself whether a look is needed. */
static uint64_t promise(struct bp_headroom *headroom, uint64_t count)
{
    uint64_t word = atomic_load_explicit(&headroom->word, memory_order_relaxed);
    uint64_t next;
    do {
        next = granted(word) >= count ? word + count - (count << GRANTED_SHIFT)
                                      : ((word >> LOOKS_SHIFT) + 1) << LOOKS_SHIFT | ((word + count) & PROMISED);
    } while (!atomic_compare_exchange_weak(&headroom->word, &word, next));
    return word;
}

void bp_headroom_settle(struct bp_headroom *headroom, uint64_t length)
{
    uint64_t word = atomic_load_explicit(&headroom->word, memory_order_relaxed);
    uint64_t less;
    do { /* in a forked child it may have begun anew */
        less = units(length) < (word & PROMISED) ? units(length) : word & PROMISED;
    } while (headroom->count > 0 && !atomic_compare_exchange_weak(&headroom->word, &word, word - less));
}

/* An eighth of what is left, unless somebody has looked since. */
static void grant(struct bp_headroom *headroom, uint64_t looks, uint64_t room)
{
    uint64_t word = atomic_load(&headroom->word);
    uint64_t next;
    do {
        uint64_t promised = word & PROMISED;
        uint64_t part = room / UNIT > promised ? (room / UNIT - promised) / 8 : 0;
        if (word >> LOOKS_SHIFT != looks) {
            return;
        }
        part = part < LARGEST_GRANT ? part : LARGEST_GRANT;
        next = (word & ~(LARGEST_GRANT << GRANTED_SHIFT)) | part << GRANTED_SHIFT;
    } while (!atomic_compare_exchange_weak(&headroom->word, &word, next));
}

int bp_headroom_take(struct bp_headroom *headroom, uint64_t length)
{
    if (headroom->count == 0) {
        return 0;
    }
    uint64_t before = promise(headroom, units(length));
    if (granted(before) >= units(length)) {
        return 0;
    }
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < headroom->count; i++) {
        struct room room;
        uint64_t more = room_of(&headroom->cgroups[i], &room);
        least = more < least ? more : least;
    }
    uint64_t promised = (before & PROMISED) * UNIT;
    if (least < length || least - length < promised) {
        bp_headroom_settle(headroom, length);
        return -EDQUOT;
    }
    grant(headroom, ((before >> LOOKS_SHIFT) + 1) & UINT16_MAX, least);
    return 0;
}

void bp_headroom_explain(const struct bp_headroom *headroom, char *text, size_t size)
{
    uint64_t least = UINT64_MAX;
    snprintf(text, size, "the limit of a memory cgroup is gone by now");
    for (int i = 0; i < headroom->count; i++) {
        const struct bp_cgroup *cgroup = &headroom->cgroups[i];
        struct room room;
        uint64_t more = room_of(cgroup, &room);
        if (more < least) {
            least = more;
            snprintf(text, size,
                     "memory cgroup %s uses %llu KiB of its %s of %llu KiB, %llu KiB of that page cache that can be "
                     "reclaimed: free pages, or raise the limit",
                     cgroup->name, (unsigned long long)room.usage / 1024,
                     room.by_high ? "memory.high"
                     : cgroup->v2 ? "memory.max"
                                  : "memory.limit_in_bytes",
                     (unsigned long long)room.limit / 1024, (unsigned long long)room.reclaimable / 1024);
        }
    }
}

/* ---- Opening ---- */

static int open_in(const char *directory, const char *name)
{
    char path[PATH_ROOM + 64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = bp_kernel_open_read(path);
    return fd < 0 ? -1 : bp_kernel_keep_clear(fd);
}

static void give_back(struct bp_cgroup *cgroup)
{
    int fds[] = {cgroup->limit, cgroup->high, cgroup->usage, cgroup->stat};
    for (int i = 0; i < 4; i++) {
        if (fds[i] >= 0) {
            bp_kernel_close_kept(fds[i]);
        }
    }
}

void bp_headroom_watch(struct bp_headroom *headroom, const char *directory, bool v2)
{
    if (headroom->count == BP_CGROUPS) {
        return;
    }
    struct bp_cgroup *cgroup = &headroom->cgroups[headroom->count];
    struct room room;
    cgroup->v2 = v2;
    cgroup->limit = open_in(directory, v2 ? "memory.max" : "memory.limit_in_bytes");
    cgroup->high = v2 ? open_in(directory, "memory.high") : -1;
    cgroup->usage = open_in(directory, v2 ? "memory.current" : "memory.usage_in_bytes");
    cgroup->stat = open_in(directory, "memory.stat");
    size_t length = strlen(directory);
    size_t from = length < sizeof cgroup->name ? 0 : length - sizeof cgroup->name + 1;
    snprintf(cgroup->name, sizeof cgroup->name, "%s", directory + from);
    if (room_of(cgroup, &room) == UINT64_MAX) { /* one without a limit is not watched, in case it gets one */
        give_back(cgroup);
        return;
    }
    headroom->count++;
}

void bp_headroom_close(struct bp_headroom *headroom)
{
    for (int i = 0; i < headroom->count; i++) {
        give_back(&headroom->cgroups[i]);
    }
    headroom->count = 0;
}

static void watch(void *headroom, const char *directory, bool v2)
{
    bp_headroom_watch(headroom, directory, v2);
}

int bp_headroom_open(struct bp_headroom *headroom)
{
    int code = bp_cgroups_each("/proc/thread-self/cgroup", "/proc/thread-self/mountinfo", watch, headroom);
    return code < 0 ? code : headroom->count;
}

void bp_headroom_inherit(struct bp_headroom *headroom)
{
    atomic_store(&headroom->word, 0);
}
