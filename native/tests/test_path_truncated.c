/* Another process truncates or punches the file under an open pool: trapped and reported, never a loop. */
#include "paths.h"

#include <signal.h>

#define GRANULES 4
#define LAST (GRANULES - 1)

static const char *trap;
static char path[400];

enum harm { TRUNCATED, HALVED, PUNCHED };

struct scene {
    const char *on_fault;
    enum harm harm;
};

/* Page 1 is within the half that stays, the last one is not. */
static bufpool_pool *open_full(const char *on_fault)
{
    bufpool_config config = path_config(path, GRANULES, BUFPOOL_DISCARD);
    config.trap = trap;
    config.on_fault = on_fault;
    bufpool_pool *pool;
    uint64_t pages[GRANULES];
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_allocate_many(pool, GRANULES, pages));
    for (uint64_t page = 0; page < GRANULES; page++) {
        CHECK_IS(pages[page], ==, page);
        *(char *)bufpool_address(pool, page) = (char)('a' + page);
    }
    return pool;
}

/* By another process, through a descriptor of its own. */
static void do_harm(enum harm harm)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        int fd = open(path, O_RDWR);
        int code = harm == PUNCHED ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                               (off_t)(LAST * HUGE_PAGE), (off_t)HUGE_PAGE)
                                   : ftruncate(fd, harm == HALVED ? (off_t)(GRANULES / 2 * HUGE_PAGE) : 0);
        _exit(code != 0);
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK_IS(status, ==, 0);
}

/* Guarded calls, and all that can still be done with such a pool. */
static void guarded(void *argument)
{
    const struct scene *scene = argument;
    bool cut = scene->harm != PUNCHED;
    bufpool_pool *pool = open_full(scene->on_fault);
    CHECK_OK(bufpool_evict(pool, 2));
    do_harm(scene->harm);
    for (uint64_t page = 0; page < GRANULES; page++) {
        bool gone = page == LAST || page == 2 || scene->harm == TRUNCATED;
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        char *at = (char *)bufpool_address(pool, page) + (gone ? HUGE_PAGE - 1 : 0);
        CHECK_IS(traps_at(at, &fault), ==, gone);
        if (gone && page != 2) {
            CHECK_IS(fault.page, ==, page);
            CHECK_IS(fault.offset, ==, HUGE_PAGE - 1);
            CHECK_IS(fault.state, ==, BUFPOOL_STATE_ALLOCATED);
            CHECK_IS(fault.signal, ==, SIGBUS);
            CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_LOST);
            char text[8192];
            bufpool_format_text(&fault, text, sizeof text);
            CHECK_HAS(text, "frame is gone");
            bufpool_format_json(&fault, text, sizeof text);
            CHECK_HAS(text, "\"lost\":true");
        } else if (gone) {
            CHECK_IS(fault.state, ==, BUFPOOL_STATE_EVICTED);
            CHECK_IS(fault.flags, ==, 0);
        } else {
            CHECK_IS(*at, ==, (char)('a' + page));
        }
    }
    CHECK_IS(bufpool_guarded_copy(bufpool_address(pool, LAST), "x", 1, NULL), ==, BUFPOOL_ESTRAY);

    int code = bufpool_populate(pool, 2, "new", 4);
    CHECK_IS(code, ==, cut ? -ESTALE : 0);
    if (cut) {
        CHECK_HAS(last_error(), "truncated");
        CHECK_HAS(last_error(), "8388608 bytes");
        CHECK_IS(state_of(pool, 2), ==, BUFPOOL_STATE_EVICTED);
    }
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_free(pool, LAST));
    CHECK(traps_at(bufpool_address(pool, LAST), NULL));
    CHECK_IS(state_of(pool, LAST), ==, BUFPOOL_STATE_FREED);
    uint64_t page;
    for (int data = 0; data < 2; data++) {
        CHECK_IS(bufpool_allocate(pool, data ? "x" : NULL, (size_t)data, &page), ==, cut ? -ESTALE : 0);
    }
    CHECK_IS(bufpool_allocate_at(pool, 2, NULL, 0), ==, cut ? -ESTALE : BUFPOOL_ESTATE);
    CHECK_IS(stats_of(pool).allocated, ==, cut ? 2 : GRANULES);
    CHECK_OK(bufpool_free(pool, 0));
    char *at = bufpool_address(pool, 1);
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(at, NULL));

    /* Closing left the file as it leaves any: empty, and of its length. */
    CHECK_IS(look_at(path).st_size, ==, GRANULES * HUGE_PAGE);
    CHECK_IS(look_at(path).st_blocks, ==, 0);
    CHECK_OK(bufpool_close(open_path(path, GRANULES, 0)));
}

/* An ordinary access ends the process, with one report of a lost frame, whatever on_fault is. */
static void touch(void *argument)
{
    const struct scene *scene = argument;
    bufpool_pool *pool = open_full(scene->on_fault);
    do_harm(scene->harm);
    write_byte((char *)bufpool_address(pool, LAST) + 9, 1);
    _exit(0);
}

static void check_death(struct scene *scene)
{
    struct child child = run_child(touch, scene);
    CHECK_DIED(child, SIGBUS);
    int reports = count_in(child.text, "END of bufpool report");
    int lost = count_in(child.text, "frame is gone");
    CHECK_CHILD(strstr(child.text, path) != NULL || strlen(path) > 62, child);
    CHECK_CHILD(reports == 1 && lost == 1, child);
}

static void cell(const char *memory, const char *by_trap)
{
    (void)memory;
    trap = by_trap;
    bool punch_traps = signal_of(trap) == SIGBUS; /* elsewhere the kernel fills the hole, in the file of another */
    static const char *const policies[] = {"abort", "resume", "raise"};
    for (int harm = TRUNCATED; harm <= (punch_traps ? PUNCHED : HALVED); harm++) {
        for (int i = 0; i < 3; i++) {
            struct scene scene = {policies[i], (enum harm)harm};
            unlink(path); /* there is none in the first round */
            struct child child = run_child(guarded, &scene);
            CHECK_PASSED(child);
            unlink(path);
            check_death(&scene);
        }
    }
    CHECK_OK(unlink(path));
}

static int body(void)
{
    if (no_huge_directory()) {
        return HARNESS_SKIP;
    }
    snprintf(path, sizeof path, "%s", path_of("harmed"));
    CHECK_IS(for_each_trap(huge_directory, cell, false), >, 0);
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
