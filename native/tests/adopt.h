/* adopt.h: what the tests of adopted memory share: a mapping of the program's own, with data, adopted and given back. */
#ifndef ADOPT_H
#define ADOPT_H

#include "pins.h"

#include <sys/mman.h>

#define PAGES 8
#define UNTOUCHED 6 /* a page without a frame when it is adopted */

struct mapping {
    char *base;
    size_t page; /* bytes */
    int fd;      /* or -1 */
    const char *memory;
    const char *backing;
    bool stays_cut; /* the kernel does not join its areas again that have been cut by mprotect */
};

/* Maps PAGES pages. */
typedef struct mapping (*map_function)(void);

MAYBE_UNUSED static struct mapping map_memory(size_t page, int flags, int fd, const char *memory, const char *backing)
{
    struct mapping mapping = {NULL, page, fd, memory, backing, page > GRANULE};
    mapping.base = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(mapping.base != MAP_FAILED);
    return mapping;
}

static char content(uint64_t page, size_t offset)
{
    return page == UNTOUCHED ? 0 : (char)(page + 1 + offset % 61);
}

MAYBE_UNUSED static void fill_mapping(const struct mapping *mapping)
{
    for (size_t page = 0; page < PAGES; page++) {
        for (size_t at = 0; at < mapping->page && page != UNTOUCHED; at++) {
            mapping->base[page * mapping->page + at] = content(page, at);
        }
    }
}

static bool has_content(const struct mapping *mapping, uint64_t page)
{
    for (size_t at = 0; at < mapping->page; at++) {
        if (read_byte(mapping->base + page * mapping->page + at) != content(page, at)) {
            return false;
        }
    }
    return true;
}

MAYBE_UNUSED static bufpool_config adopt_config(const struct mapping *mapping, const char *trap, const char *pins)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.page_size = mapping->page;
    config.trap = trap;
    config.pins = pins;
    config.report_limit = UINT32_MAX;
    return config;
}

MAYBE_UNUSED static bufpool_pool *adopt_with(const struct mapping *mapping, const bufpool_config *config)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_adopt(mapping->base, PAGES * mapping->page, mapping->fd, config, &pool));
    CHECK(pool != NULL);
    return pool;
}

MAYBE_UNUSED static bufpool_pool *adopt(const struct mapping *mapping, const char *trap, const char *pins)
{
    bufpool_config config = adopt_config(mapping, trap, pins);
    return adopt_with(mapping, &config);
}

/* How many areas the kernel has the range as, and whether they have one of the flags of a userfaultfd. */
MAYBE_UNUSED static void look_at_mapping(const struct mapping *mapping, int *areas, bool *registered, char rights[5])
{
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[1024];
    bool within = false;
    CHECK(file != NULL);
    *areas = 0;
    *registered = false;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long start, end;
        char found[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, found) == 3) {
            within = start < (uintptr_t)mapping->base + PAGES * mapping->page && (uintptr_t)mapping->base < end;
            *areas += within;
            if (within) {
                memcpy(rights, found, sizeof found);
            }
        } else if (within && strncmp(line, "VmFlags:", 8) == 0) {
            *registered = *registered || strstr(line, " um") || strstr(line, " uw") || strstr(line, " ui");
        }
    }
    fclose(file);
}

/* ---- What an adopted pool has to do ---- */

/* The kernel itself, on the program's behalf. */
MAYBE_UNUSED static void check_system_call(void *page, bool readable, bool writable)
{
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    ssize_t wrote = write(ends[1], page, 16);
    CHECK(readable ? wrote == 16 : wrote == -1 && errno == EFAULT);
    if (!readable) {
        CHECK_IS(write(ends[1], "sixteen bytes...", 16), ==, 16);
    }
    ssize_t got = read(ends[0], page, 16);
    CHECK(writable ? got == 16 : got == -1 && errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
}

static void check_state(bufpool_pool *pool, uint64_t page, bool write, bufpool_state state)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    char *at = (char *)bufpool_address(pool, page) + 5;
    CHECK(write ? !writes_at(at, 1, &fault) : !reads_at(at, &fault));
    CHECK_IS(fault.state, ==, state);
    CHECK_IS(fault.page, ==, page);
    CHECK_IS(fault.offset, ==, 5);
    CHECK_IS(fault.access, ==, write ? BUFPOOL_WRITE : BUFPOOL_READ);
}

static void check_pins(bufpool_pool *pool, const struct mapping *mapping, const char *pins)
{
    bool all = strcmp(pins, "all") == 0;
    bool closes = all || strcmp(pins, "write") == 0;
    for (uint64_t page = 0; page < PAGES; page++) {
        void *at = mapping->base + page * mapping->page;
        check_system_call(at, !all, !closes);
        if (all) {
            check_state(pool, page, false, BUFPOOL_STATE_UNPINNED);
        }
        if (closes) {
            check_state(pool, page, true, all ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY);
        }
        CHECK_OK(bufpool_pin(pool, page, false));
        CHECK(has_content(mapping, page));
        if (closes) {
            check_state(pool, page, true, BUFPOOL_STATE_READ_ONLY);
        }
        check_system_call(at, true, !closes);
        CHECK_OK(bufpool_pin(pool, page, true));
        CHECK(writes_at(at, content(page, 0), NULL));
        check_system_call(at, true, true);
        CHECK_OK(bufpool_unpin_for(pool, page, false));
        CHECK(writes_at(at, content(page, 0), NULL) && has_content(mapping, page));
        CHECK_OK(bufpool_unpin_for(pool, page, true));
    }
    for (uint64_t page = 0; all && page < PAGES; page++) {
        check_state(pool, page, false, BUFPOOL_STATE_UNPINNED);
    }
}

/* A page that goes, and comes again; and one that is evicted. */
static void check_holes(bufpool_pool *pool, const struct mapping *mapping)
{
    char *data = malloc(mapping->page);
    CHECK(data != NULL);
    CHECK_OK(bufpool_free(pool, 3));
    check_state(pool, 3, false, BUFPOOL_STATE_FREED);
    check_state(pool, 3, true, BUFPOOL_STATE_FREED);
    check_system_call(mapping->base + 3 * mapping->page, false, false);
    CHECK_IS(bufpool_free(pool, 3), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_evict(pool, 4));
    check_state(pool, 4, false, BUFPOOL_STATE_EVICTED);
    CHECK_IS(stats_of(pool).allocated, ==, PAGES - 2);
    for (size_t at = 0; at < mapping->page; at++) {
        data[at] = content(4, at);
    }
    CHECK_OK(bufpool_populate(pool, 4, data, mapping->page));
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(page, ==, 3);
    CHECK_OK(bufpool_pin(pool, 3, true));
    CHECK(read_byte(mapping->base + 3 * mapping->page) == 0 && read_byte(mapping->base + 4 * mapping->page - 1) == 0);
    for (size_t at = 0; at < mapping->page; at++) {
        mapping->base[3 * mapping->page + at] = content(3, at);
    }
    CHECK_OK(bufpool_unpin_for(pool, 3, true));
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    free(data);
}

/* Everything as it was, but for the page that was freed. */
static void check_given_back(const struct mapping *mapping, int areas)
{
    int areas_now;
    bool registered;
    char rights[5] = "";
    look_at_mapping(mapping, &areas_now, &registered, rights);
    CHECK(areas_now == areas || (mapping->stays_cut && areas_now > areas));
    CHECK(!registered);
    CHECK(strncmp(rights, "rw-", 3) == 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK(page == 7 || has_content(mapping, page));
        CHECK(page != 7 || read_byte(mapping->base + page * mapping->page) == 0);
        write_byte(mapping->base + page * mapping->page, content(page, 0));
    }
}

struct straying {
    const struct mapping *mapping;
    const char *trap;
    const char *pins;
};

/* In a child: strays that are answered in place. */
MAYBE_UNUSED static void stray_on(void *argument)
{
    const struct straying *straying = argument;
    const struct mapping *mapping = straying->mapping;
    bufpool_config config = adopt_config(mapping, straying->trap, straying->pins);
    config.on_fault = "resume";
    bufpool_pool *pool = adopt_with(mapping, &config);
    bool all = strcmp(straying->pins, "all") == 0;
    if (all) {
        CHECK(read_byte(mapping->base + 17) == content(0, 17));
    }
    write_byte(mapping->base + 17, 99);
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_IS((unsigned char)read_byte(mapping->base + 2 * mapping->page + 100), ==, BUFPOOL_POISON);
    write_byte(mapping->base + 2 * mapping->page + 100, 1);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(page, ==, 2);
    CHECK_OK(bufpool_pin(pool, 2, false));
    CHECK_IS(read_byte(mapping->base + 2 * mapping->page + 100), ==, 0);
    CHECK_OK(bufpool_unpin(pool, 2));
    check_state(pool, 0, true, all ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(read_byte(mapping->base + 17), ==, 99);
}

MAYBE_UNUSED static void stray_and_die(void *argument)
{
    const struct straying *straying = argument;
    adopt(straying->mapping, straying->trap, straying->pins);
    write_byte(straying->mapping->base + straying->mapping->page + 7, 1);
}

static void check_one(map_function map, const char *trap, const char *pins)
{
    int areas;
    bool registered;
    char rights[5] = "";
    printf("adopted, trap %s, pins %s\n", trap, pins);
    struct mapping mapping = map();
    fill_mapping(&mapping);
    bool closes = strcmp(pins, "all") == 0 || strcmp(pins, "write") == 0;
    if (closes) {
        struct straying straying = {&mapping, trap, pins};
        struct child child = run_child(stray_and_die, &straying);
        CHECK_CHILD(WIFSIGNALED(child.status), child);
        CHECK_HAS(child.text, strcmp(pins, "all") == 0 ? "unpinned" : "read-only");
        CHECK_HAS(child.text, mapping.memory);
        struct child resumed = run_child(stray_on, &straying);
        CHECK_PASSED(resumed);
        CHECK_HAS(resumed.text, "freed");
        fill_mapping(&mapping);
        CHECK_OK(madvise(mapping.base + UNTOUCHED * mapping.page, mapping.page, MADV_NORMAL));
    }
    look_at_mapping(&mapping, &areas, &registered, rights);
    for (int round = 0; round < 2; round++) { /* again, once it has been given back */
        bufpool_pool *pool = adopt(&mapping, trap, pins);
        bufpool_statistics statistics = stats_of(pool);
        CHECK_IS(statistics.allocated, ==, PAGES);
        CHECK_IS(statistics.address, ==, (uintptr_t)mapping.base);
        CHECK_STRING(statistics.memory, mapping.memory);
        CHECK_STRING(statistics.backing, mapping.backing);
        CHECK_STRING(statistics.trap, trap);
        check_pins(pool, &mapping, pins);
        check_holes(pool, &mapping);
        check_pins(pool, &mapping, pins);
        CHECK_OK(bufpool_free(pool, 7));
        CHECK_OK(bufpool_close(pool));
        CHECK_IS(bufpool_pin(pool, 0, false), ==, strcmp(pins, "off") == 0 ? 0 : BUFPOOL_ECLOSED);
        CHECK_IS(stats_of(pool).allocated, ==, 0);
        check_given_back(&mapping, areas);
        fill_mapping(&mapping);
    }
    CHECK_OK(munmap(mapping.base, PAGES * mapping.page));
    if (mapping.fd >= 0) {
        close(mapping.fd);
    }
}

/* Under each trap and with each kind of pins. */
MAYBE_UNUSED static int check_adoption(map_function map)
{
    static const char *const traps[] = {"uffd", "mprotect"};
    static const char *const modes[] = {"off", "count", "write", "all"};
    for (size_t t = 0; t < 2; t++) {
        for (size_t p = 0; p < 4; p++) {
            struct mapping mapping = map();
            bufpool_config config = adopt_config(&mapping, traps[t], modes[p]);
            bufpool_pool *pool;
            int code = bufpool_adopt(mapping.base, PAGES * mapping.page, mapping.fd, &config, &pool);
            if (code == BUFPOOL_EUNSUPPORTED && t == 0) {
                printf("skipped trap %s, pins %s: %s\n", traps[t], modes[p], last_error());
            } else {
                CHECK_OK(code);
                CHECK_OK(bufpool_close(pool));
            }
            CHECK_OK(munmap(mapping.base, PAGES * mapping.page));
            if (mapping.fd >= 0) {
                close(mapping.fd);
            }
            if (code == 0) {
                check_one(map, traps[t], modes[p]);
            }
        }
    }
    return 0;
}

#endif
