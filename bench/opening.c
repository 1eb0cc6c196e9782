/*
 * opening.c: what a pool costs that is open and empty: the time to open and close it, and the memory it takes, by the
 * kernel's own word. "plain" stands for an anonymous mapping of the same length.
 */
#include "must.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

bool pool_on(const char *memory, const char *trap, const char *pins, uint64_t pages, uint64_t size,
             bufpool_pool **pool);

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

struct opened {
    bufpool_pool *pool;
    char *plain;
};

static bool open_on(const char *memory, uint64_t capacity, uint64_t page, struct opened *opened)
{
    *opened = (struct opened){NULL, NULL};
    if (strcmp(memory, "plain") != 0) {
        return pool_on(memory, "auto", "off", capacity / page, page, &opened->pool);
    }
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    opened->plain = mmap(NULL, capacity, PROT_READ | PROT_WRITE, flags, -1, 0);
    return opened->plain != MAP_FAILED && madvise(opened->plain, capacity, MADV_NOHUGEPAGE) == 0;
}

static void close_again(const struct opened *opened, uint64_t capacity)
{
    if (opened->pool != NULL) {
        must(bufpool_close(opened->pool));
    } else {
        must_call(munmap(opened->plain, capacity), "munmap");
    }
}

/* The ns that opening and closing takes; negative if it is refused. */
double open_close(const char *memory, uint64_t capacity, uint64_t page)
{
    struct opened opened;
    double start = now();
    if (!open_on(memory, capacity, page, &opened)) {
        return -1;
    }
    close_again(&opened, capacity);
    return now() - start;
}

/* The sum, in bytes, of the lines of a file in /proc that begin with one of two words. */
static double bytes(const char *path, const char *word, const char *other)
{
    double total = 0;
    char line[256];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        abort();
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, word, strlen(word)) == 0 || strncmp(line, other, strlen(other)) == 0) {
            total += strtod(strchr(line, ':') + 1, NULL) * 1024;
        }
    }
    fclose(file);
    return total;
}

static void look(double *found)
{
    found[0] = bytes("/proc/self/smaps_rollup", "Private_Clean:", "Private_Dirty:");
    found[1] = bytes("/proc/self/status", "VmPTE:", "VmPTE:");
}

/* found: by how much private memory and page tables grow with the opening, and then with `spread` pages at equal
 * distances over the whole, their frames not counted. */
bool open_memory(const char *memory, uint64_t capacity, uint64_t page, uint64_t spread, double *found)
{
    struct opened opened;
    double before[2];
    look(before); /* the first look opens its files, and allocates for that */
    look(before);
    if (!open_on(memory, capacity, page, &opened)) {
        return false;
    }
    look(found);
    for (uint64_t i = 0; i < spread; i++) {
        uint64_t number = capacity / page / spread * i;
        if (opened.pool != NULL) {
            must(bufpool_allocate_at(opened.pool, number, "x", 1));
        } else {
            opened.plain[number * page] = 'x';
        }
    }
    look(found + 2);
    for (int i = 0; i < 4; i++) {
        found[i] -= before[i % 2];
    }
    found[2] -= (double)(spread * page);
    close_again(&opened, capacity);
    return true;
}

/* The bytes that a page's state and the free list take: private memory beyond the frames, of so many pages that are all
 * allocated, by the page. */
double state_bytes(uint64_t pages)
{
    struct opened opened;
    double before[2];
    double after[2];
    uint64_t numbers[512]; /* batches, so that no array of theirs counts as the pool's */
    look(before);
    look(before);
    if (!open_on("anon", pages * 4096, 4096, &opened)) {
        abort();
    }
    for (uint64_t i = 0; i < pages; i += 512) {
        must(bufpool_allocate_many(opened.pool, 512, numbers));
    }
    look(after);
    close_again(&opened, pages * 4096);
    return (after[0] - before[0]) / (double)pages - 4096;
}
