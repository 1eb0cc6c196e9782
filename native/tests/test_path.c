/* A pool over a file on hugetlbfs: created, closed, opened again, locked while open, and what a dead owner leaves. */
#include "paths.h"

#include <signal.h>

static const char *trap;

static bufpool_pool *open_trapped(const char *path, uint64_t granules)
{
    bufpool_config config = path_config(path, granules, 0);
    config.trap = trap;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

/* Created, used, closed, opened again. */
static void lifecycle(const char *memory, const char *by_trap)
{
    (void)memory;
    trap = by_trap;
    const char *path = path_of("cycle");
    for (int round = 0; round < 3; round++) {
        bufpool_pool *pool = open_trapped(path, 6);
        CHECK_IS(look_at(path).st_size, ==, 6 * HUGE_PAGE);
        CHECK_IS(look_at(path).st_blocks, ==, 0);
        CHECK_IS(look_at(path).st_mode, ==, S_IFREG | 0600);
        bufpool_statistics statistics = stats_of(pool);
        CHECK_STRING(statistics.trap, trap);
        CHECK_IS(statistics.granule, ==, HUGE_PAGE);
        CHECK_IS(statistics.page_size, ==, HUGE_PAGE);
        CHECK_IS(statistics.pages, ==, 6);
        CHECK_STRING(statistics.backing, "file of huge pages");
        CHECK_STRING(statistics.memory_note, "");
        CHECK(strncmp(statistics.memory, path, sizeof statistics.memory - 1) == 0);
        use_pool(pool);
        CHECK_IS(stats_of(pool).huge_fills, ==, 3);
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "stays", 6, &page));
        CHECK_IS(look_at(path).st_blocks, ==, HUGE_PAGE / 512);
        char *at = bufpool_address(pool, page);
        CHECK_OK(bufpool_close(pool));
        CHECK_IS(look_at(path).st_size, ==, 6 * HUGE_PAGE);
        CHECK_IS(look_at(path).st_blocks, ==, 0);
        CHECK(traps_at(at, NULL));
    }
    CHECK_OK(unlink(path));
}

static void modes(void)
{
    static const mode_t masks[] = {0, 077, 0777};
    for (int i = 0; i < 3; i++) {
        const char *path = path_of("mode");
        mode_t before = umask(masks[i]);
        bufpool_pool *pool = open_path(path, 1, 0);
        umask(before);
        CHECK_IS(look_at(path).st_mode, ==, S_IFREG | (0600 & ~masks[i]));
        CHECK_OK(bufpool_close(pool));
        CHECK_OK(unlink(path));
    }
}

static void other_capacity(void)
{
    const char *path = path_of("capacity");
    static const uint64_t capacities[] = {2, 4, 1, 100};
    bufpool_pool *pool = open_path(path, 3, 0);
    CHECK_OK(bufpool_close(pool));
    for (int frames = 0; frames < 2; frames++) {
        for (int i = 0; i < 4; i++) {
            for (int discard = 0; discard < 2; discard++) { /* of another geometry: not ours to drop */
                CHECK_IS(try_path(path, capacities[i], discard ? BUFPOOL_DISCARD : 0, &pool), ==, BUFPOOL_EARGUMENT);
                char expected[32];
                snprintf(expected, sizeof expected, " %llu", (unsigned long long)(3 * HUGE_PAGE));
                CHECK_HAS(last_error(), expected);
                snprintf(expected, sizeof expected, " %llu", (unsigned long long)(capacities[i] * HUGE_PAGE));
                CHECK_HAS(last_error(), expected);
                CHECK_HAS(last_error(), path);
                CHECK_IS(look_at(path).st_size, ==, 3 * HUGE_PAGE);
            }
        }
        if (frames == 0) {
            write_frames(path, 3, 42);
        }
        check_frames(path, 3, 42);
    }
    CHECK_OK(unlink(path));
}

static void make_frames(void *path)
{
    write_frames(path, 3, 17);
}

static void holds_data(void)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("data"));
    struct child child = run_child(make_frames, path);
    CHECK_PASSED(child);
    bufpool_pool *pool;
    CHECK_IS(try_path(path, 3, 0, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), path);
    CHECK_HAS(last_error(), "6291456 bytes of data");
    CHECK_HAS(last_error(), "BUFPOOL_DISCARD");
    check_frames(path, 3, 17);
    pool = open_path(path, 3, BUFPOOL_DISCARD);
    CHECK_IS(look_at(path).st_blocks, ==, 0);
    for (uint64_t page = 0; page < 3; page++) {
        CHECK(traps_at(bufpool_address(pool, page), NULL));
    }
    use_pool(pool);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));

    pool = open_path(path, 3, BUFPOOL_DISCARD); /* which a new file does not mind */
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

static void open_in_use(void *path)
{
    for (int discard = 0; discard < 2; discard++) {
        bufpool_pool *pool;
        CHECK_IS(try_path(path, 4, discard ? BUFPOOL_DISCARD : 0, &pool), ==, -EWOULDBLOCK);
        CHECK_HAS(last_error(), path);
        CHECK_HAS(last_error(), "in use");
    }
}

static void two_opens(void)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("two"));
    bufpool_pool *pool = open_path(path, 4, 0);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "mine", 5, &page));
    open_in_use(path);
    struct child child = run_child(open_in_use, path);
    CHECK_PASSED(child);
    CHECK_STRING(bufpool_address(pool, page), "mine");
    CHECK_IS(look_at(path).st_blocks, ==, HUGE_PAGE / 512);
    use_pool(pool);

    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

/* Trap mprotect works in one process only. */
static bool is_heritable(const bufpool_pool *pool)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(bufpool_stats(pool, &statistics));
    return strcmp(statistics.trap, "mprotect") != 0;
}

/* A forked child that has the pool keeps the file in use, also when its parent has closed it; one that has it not does
 * not, nor does one made past the fork handlers. */
static void held_by_child(const char *fork_option, bool bare)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("held"));
    bufpool_config config = path_config(path, 4, 0);
    config.fork = fork_option;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    bool held = !bare && strcmp(fork_option, "inherit") == 0 && is_heritable(pool);
    use_pool(pool);
    int ends[2];
    CHECK_OK(pipe(ends));
    pid_t pid = bare ? bare_fork() : fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char byte;
        alarm(CHILD_LIMIT);
        close(ends[1]);
        bool ended = read(ends[0], &byte, 1) == 0;
        _exit(!ended || bufpool_close(pool) != (held ? 0 : BUFPOOL_EUNSUPPORTED));
    }
    close(ends[0]);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(look_at(path).st_blocks, ==, 0);
    int code = bufpool_open(&config, &pool);
    CHECK_IS(code, ==, held ? -EWOULDBLOCK : 0);
    if (!held) {
        use_pool(pool);
        CHECK_OK(bufpool_close(pool));
    }
    close(ends[1]);
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK_IS(status, ==, 0);
    use_pool(pool = open_path(path, 4, 0));
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

/* The child closes its copy, if it has one: what the file holds stays, and so does the file. */
static void close_in_child(void *argument)
{
    CHECK_IS(bufpool_close(argument), ==, is_heritable(argument) ? 0 : BUFPOOL_EUNSUPPORTED);
}

static void closed_in_child(void)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("copy"));
    bufpool_pool *pool = open_path(path, 4, 0);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "kept", 5, &page));
    struct child child = run_child(close_in_child, pool);
    CHECK_PASSED(child);
    CHECK(is_there(path));
    CHECK_STRING(bufpool_address(pool, page), "kept");
    CHECK_IS(look_at(path).st_blocks, ==, HUGE_PAGE / 512);
    open_in_use(path);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

/* The owner dies with its pool open: the lock goes with it, the frames stay. */
static void killed_owner(void)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("killed"));
    int ends[2];
    CHECK_OK(pipe(ends));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        bufpool_pool *pool = open_path(path, 4, 0);
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "orphan", 7, &page));
        CHECK_IS(page, ==, 0);
        CHECK_IS(write(ends[1], "x", 1), ==, 1);
        for (;;) {
            pause();
        }
    }
    close(ends[1]);
    char byte;
    CHECK_IS(read(ends[0], &byte, 1), ==, 1);
    close(ends[0]);
    open_in_use(path);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_IS(waitpid(pid, NULL, 0), ==, pid);

    bufpool_pool *pool;
    CHECK_IS(try_path(path, 4, 0, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "ended without closing its pool");
    CHECK_IS(look_at(path).st_blocks, ==, HUGE_PAGE / 512);
    pool = open_path(path, 4, BUFPOOL_DISCARD);
    CHECK(traps_at(bufpool_address(pool, 0), NULL));
    use_pool(pool);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

static void unnamed(void)
{
    int entries = count_entries(huge_directory);
    char with_slash[300];
    snprintf(with_slash, sizeof with_slash, "%s/", huge_directory);
    bufpool_pool *first = open_path(huge_directory, 3, 0);
    bufpool_pool *second = open_path(with_slash, 2, 0); /* a file of its own */
    CHECK_IS(count_entries(huge_directory), ==, entries);
    use_pool(first);
    use_pool(second);
    CHECK_OK(bufpool_close(first));
    CHECK_OK(bufpool_close(second));
    char found[16] = "";
    CHECK_OK(bufpool_probe(huge_directory, "auto", found, sizeof found));
    CHECK(found[0] != 0);
    CHECK_OK(bufpool_probe(path_of("probe"), "auto", NULL, 0)); /* a probe leaves no file */
    CHECK_IS(count_entries(huge_directory), ==, entries);
}

static void read_hole(void *address)
{
    (void)read_byte(address);
}

/* Reports name the file; its name is data, not lines of their own. */
static void report(void)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("a\"b\nc"));
    bufpool_pool *pool = open_path(path, 2, 0);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_guarded_call(read_hole, (char *)bufpool_address(pool, 1) + 5, &fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.page, ==, 1);
    CHECK_IS(fault.offset, ==, 5);
    CHECK_IS(fault.page_size, ==, HUGE_PAGE);
    CHECK(strncmp(fault.memory, path, sizeof fault.memory - 1) == 0);
    snprintf(fault.memory, sizeof fault.memory, "/x/a\"b\nc"); /* whole, however long the directory is */
    char json[8192];
    char text[8192];
    CHECK_IS(bufpool_format_json(&fault, json, sizeof json), <, sizeof json);
    CHECK_IS(bufpool_format_text(&fault, text, sizeof text), <, sizeof text);
    CHECK_HAS(json, "\"memory\":\"/x/a\\\"b\\u000ac\"");
    CHECK(strchr(json, '\n') == NULL);
    CHECK(strstr(text, "b\nc") == NULL);
    CHECK_HAS(text, "/x/a");
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

static int body(void)
{
    if (no_huge_directory()) {
        return HARNESS_SKIP;
    }
    int fds = count_fds();
    CHECK_IS(for_each_trap(huge_directory, lifecycle, false), >, 0);
    modes();
    other_capacity();
    holds_data();
    two_opens();
    held_by_child("inherit", false);
    held_by_child("exclude", false);
    held_by_child("inherit", true);
    closed_in_child();
    killed_owner();
    unnamed();
    report();
    CHECK_IS(count_fds(), ==, fds + 1); /* the file of the scratch pattern stays */
    return 0;
}

int main(void)
{
    return with_huge_pages(16, body);
}
