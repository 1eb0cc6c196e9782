/*
 * test_pins_reclaim.c: an access that its pins allow is never reported, and finds its content, while the kernel takes
 * frames away and moves them under the pool: reclaim of a memory cgroup to a swap file, MADV_PAGEOUT, MADV_COLLAPSE
 * and compaction, beside threads that pin and unpin, and one that reads what it has pinned for long. Under "abort" any
 * report ends the test. What was swapped and collapsed is printed.
 */
#include "pins.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define CAPACITY (16 * MIB)
#define SWAP (64 * MIB)
#define ROUNDS 1000      /* of each thread at least, */
#define DISTURBANCES 9   /* and until there were so many of these, */
#define FOR_COLLAPSES 60 /* or so many, where none has collapsed a huge page yet that might */
#define THREADS 3        /* that pin and unpin, beside the reader and the one that disturbs */

/* ---- A cgroup and a swap file ---- */

static char swap_file[64];
static char group[64];

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    int code = errno;
    if (fd >= 0) {
        close(fd);
    }
    errno = code;
    return written;
}

static bool write_group(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", group, name);
    return write_text(path, text);
}

/* As mkswap(8) writes it: a header of one page; and no holes. */
static bool open_swap(void)
{
    static char zeros[MIB];
    char header[GRANULE] = {0};
    memcpy(header + 1024, (uint32_t[]){1, SWAP / GRANULE - 1, 0}, 12);
    memcpy(header + sizeof header - 10, "SWAPSPACE2", 10);
    int fd = open(swap_file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool on = fd >= 0;
    for (uint64_t at = 0; at < SWAP && on; at += MIB) {
        on = write(fd, zeros, MIB) == (ssize_t)MIB;
    }
    on = on && pwrite(fd, header, sizeof header, 0) == (ssize_t)sizeof header && fsync(fd) == 0 &&
         swapon(swap_file, 0) == 0;
    int code = errno;
    if (fd >= 0) {
        close(fd);
    }
    errno = code;
    return on;
}

/* The kernel takes from the group what it can. A limit would do the same, and its OOM killer would come whenever
 * compaction holds what could be reclaimed. */
static bool reclaim(void)
{
    return write_group("memory.force_empty", "0") /* version 1 */ || write_group("memory.reclaim", "16M") ||
           errno == EAGAIN /* not all of it */ || errno == EBUSY || errno == EINTR;
}

/* Takes both away when this process has ended, however that is. Returns what to close for it to begin. */
static int start_guardian(pid_t *guardian)
{
    bool first = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0;
    snprintf(group, sizeof group, "/sys/fs/cgroup%s/bufpool-test-%d", first ? "/memory" : "", (int)getpid());
    snprintf(swap_file, sizeof swap_file, "/tmp/bufpool-swap-%d", (int)getpid());
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    *guardian = fork();
    CHECK(*guardian >= 0);
    if (*guardian == 0) {
        char byte;
        setsid();
        close(ends[1]);
        while (read(ends[0], &byte, 1) < 0 && errno == EINTR) {
        }
        for (int patience = 0; rmdir(group) < 0 && errno == EBUSY && patience < 1000; patience++) {
            sleep_ms(10);
        }
        swapoff(swap_file);
        unlink(swap_file);
        _exit(0);
    }
    close(ends[0]);
    return ends[1];
}

static long long count_of(const char *event)
{
    FILE *file = fopen("/proc/vmstat", "r");
    char line[128];
    long long count = -1;
    size_t length = strlen(event);
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL && count < 0) {
        count = strncmp(line, event, length) == 0 && line[length] == ' ' ? atoll(line + length) : -1;
    }
    fclose(file);
    return count;
}

/* Pages of this process that the kernel has in its page tables as swapped out, of one range. */
static uint64_t swapped_in_range(const void *address, size_t length)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t count = 0;
    uint64_t entry;
    for (size_t at = 0; at < length; at += GRANULE) {
        off_t place = (off_t)(((uintptr_t)address + at) / GRANULE * sizeof entry);
        count += pread(pagemap, &entry, sizeof entry, place) == sizeof entry && entry >> 62 & 1;
    }
    close(pagemap);
    return count;
}

/* ---- The work ---- */

struct work {
    bufpool_pool *pool;
    uint64_t pages;
    uint64_t page_size;
    atomic_int running; /* of the threads that pin and unpin */
    atomic_int disturbances;
    char *
        alias; /* the pool's file, mapped once more: what is collapsed there is unmapped in the pool; NULL: it has none */
    uint64_t most_swapped;
    atomic_int collapsed;
};

struct worker {
    struct work *work;
    uint64_t number;
};

static char *page_at(const struct work *work, uint64_t page)
{
    return bufpool_address(work->pool, page);
}

static bool is_enough(struct work *work)
{
    int disturbances = atomic_load(&work->disturbances);
    bool collapses = work->alias == NULL || atomic_load(&work->collapsed) > 0;
    return disturbances >= (collapses ? DISTURBANCES : FOR_COLLAPSES);
}

/* Each has a word of its own in every page, in which is how often it wrote there. */
static void use_pages(const struct worker *self)
{
    struct work *work = self->work;
    uint64_t seed = self->number;
    uint32_t *counts = calloc(work->pages, sizeof *counts);
    CHECK(counts != NULL);
    for (int i = 0; i < ROUNDS || !is_enough(work); i++) {
        uint64_t page = next_random(&seed) % work->pages;
        bool write = next_random(&seed) % 2;
        volatile uint64_t *word = (uint64_t *)page_at(work, page) + 8 + self->number;
        CHECK_OK(bufpool_pin(work->pool, page, write));
        CHECK_IS(*word, ==, counts[page]);
        if (i % 16 == 0) { /* while it is open */
            madvise(page_at(work, page), work->page_size, MADV_PAGEOUT);
        }
        if (write) {
            *word = ++counts[page];
        }
        CHECK_IS(*word, ==, counts[page]);
        CHECK_IS(*(uint64_t *)page_at(work, page), ==, page);
        CHECK_OK(bufpool_unpin_for(work->pool, page, write));
    }
    free(counts);
    atomic_fetch_sub(&work->running, 1);
}

/* Reads pages that it has pinned all the time. */
static void read_pages(const struct worker *self)
{
    struct work *work = self->work;
    uint64_t seed = self->number;
    uint64_t pinned[64];
    uint64_t count = work->pages < 64 ? work->pages : 64;
    for (uint64_t i = 0; i < count; i++) {
        pinned[i] = i * (work->pages / count);
    }
    CHECK_OK(bufpool_pin_many(work->pool, count, pinned, false));
    while (atomic_load(&work->running) > 0) {
        uint64_t page = pinned[next_random(&seed) % count];
        CHECK_IS(*(volatile uint64_t *)page_at(work, page), ==, page);
        CHECK_IS(read_byte(page_at(work, page) + work->page_size - 1), ==, 0);
    }
    CHECK_OK(bufpool_unpin_many(work->pool, count, pinned, false));
}

static char *align(char *at)
{
    return at + (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE;
}

/* The mapping is one of a file, whatever the pool calls its memory? Then this is another mapping of it. */
static char *map_alias(char *base)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    char path[128] = "";
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL && path[0] == 0) {
        unsigned long from;
        unsigned long to;
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from <= (uintptr_t)base && (uintptr_t)base < to) {
            snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", from, to);
        }
    }
    fclose(maps);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    char *room = mmap(NULL, CAPACITY + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED);
    char *alias = mmap(align(room), CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    CHECK(alias != MAP_FAILED);
    close(fd);
    return alias;
}

static void disturb(const struct worker *self)
{
    struct work *work = self->work;
    uint64_t seed = 99;
    for (int i = 0; atomic_load(&work->running) > 0; i++) {
        uint64_t chosen = next_random(&seed) % (CAPACITY / HUGE_PAGE) * HUGE_PAGE;
        char *at = i % 4 < 2 || work->alias == NULL ? page_at(work, 0) : work->alias;
        if (i % 2 == 0) {
            madvise(at + chosen, HUGE_PAGE, MADV_PAGEOUT);
        } else {
            atomic_fetch_add(&work->collapsed, madvise(align(at) + chosen, HUGE_PAGE, MADV_COLLAPSE) == 0);
        }
        CHECK(i % 8 != 0 || reclaim());
        if (i % 8 == 0) {
            uint64_t swapped = swapped_in_range(page_at(work, 0), CAPACITY);
            work->most_swapped = swapped > work->most_swapped ? swapped : work->most_swapped;
        }
        if (i % 64 == 1) {
            write_text("/proc/sys/vm/compact_memory", "1");
        }
        atomic_fetch_add(&work->disturbances, 1);
        sleep_ms(2);
    }
}

static void *run_one(void *argument)
{
    struct worker *self = argument;
    void (*const rest[])(const struct worker *) = {read_pages, disturb};
    (self->number < THREADS ? use_pages : rest[self->number - THREADS])(self);
    return NULL;
}

static void run_work(struct work *work, const char *name)
{
    struct worker workers[THREADS + 2];
    for (uint64_t i = 0; i < THREADS + 2; i++) {
        workers[i] = (struct worker){work, i};
    }
    struct rusage before;
    struct rusage after;
    long long out = count_of("pswpout");
    long long in = count_of("pswpin");
    CHECK_OK(getrusage(RUSAGE_SELF, &before));
    run_threads(THREADS + 2, run_one, workers, sizeof *workers);
    CHECK_OK(getrusage(RUSAGE_SELF, &after));
    out = count_of("pswpout") - out;
    in = count_of("pswpin") - in;
    printf(
        "  %s: %lld pages swapped out, %lld in, %llu of %llu at once in the mapping, %ld major faults, %d collapsed\n",
        name, out, in, (unsigned long long)work->most_swapped, (unsigned long long)(CAPACITY / GRANULE),
        after.ru_majflt - before.ru_majflt, atomic_load(&work->collapsed));
    CHECK_IS(out, >, 0); /* or nothing was proved */
    CHECK_IS(in, >, 0);
}

static void test_mode(const char *memory, const char *trap, const char *pins, uint32_t sample)
{
    bufpool_config config = pins_config(memory, trap, pins);
    config.capacity = CAPACITY;
    config.sample = sample;
    struct work work = {.pool = open_config(&config), .page_size = config.page_size};
    work.pages = CAPACITY / config.page_size;
    work.running = THREADS;
    for (uint64_t page = 0; page < work.pages; page++) {
        CHECK_OK(bufpool_allocate_at(work.pool, page, &page, sizeof page));
    }
    work.alias = map_alias(page_at(&work, 0));
    run_work(&work, sample > 0 ? "sample" : pins);
    if (work.alias != NULL) {
        CHECK_OK(munmap(work.alias, CAPACITY));
    }
    CHECK_IS(stats_of(work.pool).faults, ==, 0);
    CHECK_IS(stats_of(work.pool).pins, ==, 0);
    if (sample == 0) { /* what is closed still is */
        CHECK(!writes_at(page_at(&work, 6), 1, NULL));
        CHECK_IS(reads_at(page_at(&work, 7), NULL), ==, strcmp(pins, "write") == 0);
    }
    CHECK_OK(bufpool_close(work.pool));
}

static void test_cell(const char *memory, const char *trap)
{
    if (can_close(memory, trap)) {
        test_mode(memory, trap, "write", 0);
        test_mode(memory, trap, "all", 0);
    }
    test_mode(memory, trap, "off", 2);
}

static void in_group(void *unused)
{
    (void)unused;
    CHECK(write_group("cgroup.procs", "0"));
    CHECK_IS(for_each_cell(test_cell, false), ==, 0);
    for_each_trap("thp", test_cell, false);
}

int main(void)
{
    harness_begin();
    pid_t guardian;
    int end = start_guardian(&guardian);
    bool group_is_there = mkdir(group, 0700) == 0 && reclaim();
    bool ready = group_is_there && open_swap();
    char reason[64];
    snprintf(reason, sizeof reason, "%s", strerror(errno));
    struct child child;
    if (ready) {
        child = run_child(in_group, NULL);
    }
    close(end);
    CHECK_IS(waitpid(guardian, NULL, 0), ==, guardian);
    if (!ready) {
        printf("%s cannot be had: %s\n", group_is_there ? "a swap file" : "a memory cgroup of its own", reason);
        return HARNESS_SKIP;
    }
    CHECK_PASSED(child);
    return 0;
}
