/* Paths that no pool can be had on: a sentence says why, nothing is created, and nothing that was there goes. */
#include "paths.h"
#include "refuse.h"

#include <sys/resource.h>

static void expect(int code, const char *path, const char *part)
{
    bufpool_pool *pool = NULL;
    CHECK_IS(try_path(path, 2, 0, &pool), ==, code);
    CHECK(pool == NULL);
    CHECK_HAS(last_error(), part);
    CHECK_HAS(last_error(), path);
}

static void elsewhere(void)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/bufpool-test-%d", (int)getpid());
    expect(BUFPOOL_EUNSUPPORTED, path, "not on a hugetlbfs mount");
    CHECK(!is_there(path));
    snprintf(path, sizeof path, "/dev/shm/bufpool-test-%d", (int)getpid());
    expect(BUFPOOL_EUNSUPPORTED, path, "not on a hugetlbfs mount");
    CHECK(!is_there(path));
    expect(BUFPOOL_EUNSUPPORTED, "/dev/shm", "not on a hugetlbfs mount");
    expect(BUFPOOL_EUNSUPPORTED, "./no-such-file", "not on a hugetlbfs mount");
    CHECK(!is_there("./no-such-file"));
    expect(BUFPOOL_EUNSUPPORTED, "/dev/null", "not on a hugetlbfs mount");
    expect(-ENOENT, "/tmp/bufpool-no-such-directory/file", "No such file or directory");
    CHECK(!is_there("/tmp/bufpool-no-such-directory"));
    expect(-ENOTDIR, "/proc/version/file", "Not a directory");

    char far[5000];
    memset(far, 'a', sizeof far - 1);
    far[sizeof far - 1] = 0;
    memcpy(far, "/tmp/", 5);
    bufpool_pool *pool;
    CHECK_IS(try_path(far, 2, 0, &pool), ==, -ENAMETOOLONG);
}

static void other_kinds(void)
{
    /* hugetlbfs itself takes no symbolic links; one from elsewhere leads into it. */
    char link[64];
    const char *target = path_of("target");
    snprintf(link, sizeof link, "/tmp/bufpool-test-link-%d", (int)getpid());
    CHECK_OK(symlink(target, link));
    expect(BUFPOOL_EUNSUPPORTED, link, "not on a hugetlbfs mount"); /* leads to nothing, which is not created */
    CHECK(!is_there(target));
    bufpool_pool *pool = open_path(target, 2, 0);
    CHECK_OK(bufpool_close(pool));
    expect(-ELOOP, link, "symbolic link");
    CHECK_OK(unlink(link));
    CHECK_OK(unlink(target));

    const char *fifo = path_of("fifo");
    CHECK_OK(mkfifo(fifo, 0600));
    expect(BUFPOOL_EARGUMENT, fifo, "not a regular file");
    CHECK(S_ISFIFO(look_at(fifo).st_mode));
    CHECK_OK(unlink(fifo));

    char under[500]; /* a file where a directory has to be */
    const char *file = path_of("file");
    write_frames(file, 1, 3);
    snprintf(under, sizeof under, "%s/below", file);
    expect(-ENOTDIR, under, "Not a directory");
    check_frames(file, 1, 3);
    CHECK_OK(unlink(file));
}

static void geometry(void)
{
    const char *path = path_of("geometry");
    bufpool_pool *pool = NULL;
    static const uint64_t wrong[] = {4096, MIB, 3 * MIB, 2 * MIB + 4096};
    for (int i = 0; i < 4; i++) {
        bufpool_config config = path_config(path, 6, 0);
        config.page_size = wrong[i];
        CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
        char expected[64];
        snprintf(expected, sizeof expected, "page_size is %llu", (unsigned long long)wrong[i]);
        CHECK_HAS(last_error(), expected);
        CHECK_HAS(last_error(), "2097152");
        CHECK(!is_there(path));
    }
    static const uint64_t granules[] = {4096, 1, MIB, GIB};
    for (int i = 0; i < 4; i++) {
        bufpool_config config = path_config(path, 6, 0);
        config.granule = granules[i];
        CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
        char expected[64];
        snprintf(expected, sizeof expected, "granule is %llu", (unsigned long long)granules[i]);
        CHECK_HAS(last_error(), expected);
        CHECK_HAS(last_error(), "2097152");
        CHECK(!is_there(path));
    }
    bufpool_config config = path_config(path, 6, 0);
    config.capacity += 4096;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "whole number of pages");
    CHECK(!is_there(path));
    config.capacity = 6 * HUGE_PAGE;
    config.granule = HUGE_PAGE;
    config.page_size = 2 * HUGE_PAGE;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_IS(stats_of(pool).pages, ==, 3);
    use_pool(pool);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(unlink(path));
}

static void small_files(void *argument)
{
    bufpool_config *config = argument;
    struct rlimit limit = {HUGE_PAGE, RLIM_INFINITY};
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
    bufpool_pool *pool;
    CHECK_IS(bufpool_open(config, &pool), ==, -EFBIG);
    CHECK_HAS(last_error(), "RLIMIT_FSIZE");
}

/* The limit came while the pool was open: closing empties the file all the same, and leaves its length. */
static void smaller_files(void *argument)
{
    bufpool_config *config = argument;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(config, &pool));
    struct rlimit limit = {HUGE_PAGE, RLIM_INFINITY};
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(look_at(config->memory).st_size, ==, 8 * HUGE_PAGE);
    CHECK_IS(look_at(config->memory).st_blocks, ==, 0);
}

static void no_userfaultfd(void *argument)
{
    bufpool_config *config = argument;
    REFUSE(REFUSE_USERFAULTFD);
    bufpool_pool *pool;
    config->trap = "uffd";
    CHECK_IS(bufpool_open(config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "EPERM");
}

/* An open that fails late: it removes the file that it created, and no other. */
static void failures(void)
{
    char path[400];
    snprintf(path, sizeof path, "%s", path_of("failures"));
    for (int existing = 0; existing < 2; existing++) {
        if (existing) {
            bufpool_pool *pool = open_path(path, 8, 0);
            CHECK_OK(bufpool_close(pool));
        }
        int fds = count_fds();
        bufpool_config configs[6];
        for (int i = 0; i < 6; i++) {
            configs[i] = path_config(path, 8, 0);
        }
        configs[0].trap = "guard";
        configs[1].trap = "noautofill"; /* which this mount has not */
        configs[2].numa = "99";
        configs[3].log = "/tmp/bufpool-no-such-directory/log";
        configs[4].name = "";
        configs[5].flags = 1u << 30;
        static const int codes[] = {BUFPOOL_EUNSUPPORTED, BUFPOOL_EUNSUPPORTED, BUFPOOL_EARGUMENT, -ENOENT,
                                    BUFPOOL_EARGUMENT,    BUFPOOL_EARGUMENT};
        for (int i = 0; i < 6; i++) {
            bufpool_pool *pool = NULL;
            int code = bufpool_open(&configs[i], &pool);
            if (i == 1 && code == 0) { /* BUFPOOL_TEST_HUGETLBFS may have it */
                CHECK_OK(bufpool_close(pool));
                CHECK_OK(existing ? 0 : unlink(path));
                continue;
            }
            CHECK_IS(code, ==, codes[i]);
            CHECK_IS(is_there(path), ==, existing);
        }
        CHECK_IS(count_fds(), ==, fds);
        bufpool_config config = path_config(path, 8, 0);
        struct child child = run_child(no_userfaultfd, &config);
        CHECK_PASSED(child);
        CHECK_IS(is_there(path), ==, existing);
        child = run_child(small_files, &config);
        CHECK_PASSED(child);
        CHECK_IS(is_there(path), ==, existing);
        CHECK(!existing || look_at(path).st_size == (off_t)(8 * HUGE_PAGE));
        child = run_child(smaller_files, &config);
        CHECK_PASSED(child);
        CHECK_OK(existing ? 0 : unlink(path));
    }
    CHECK_OK(unlink(path));

    /* More than there is: as much as any machine has not, reserved at once. */
    bufpool_config config = path_config(path, TIB / HUGE_PAGE, BUFPOOL_RESERVE);
    bufpool_pool *pool;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "524288");
    CHECK_HAS(last_error(), "bufpool mount");
    CHECK(!is_there(path));
}

static void read_only(void)
{
    char place[300];
    snprintf(place, sizeof place, "%s/bufpool-read-only-%d", huge_directory, (int)getpid());
    CHECK_OK(mkdir(place, 0700));
    if (mount("none", place, "hugetlbfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "pagesize=2M") != 0) {
        printf("skipped the read-only mount: mounting is refused (%s)\n", strerror(errno));
    } else {
        char path[400];
        snprintf(path, sizeof path, "%s/file", place);
        expect(-EROFS, path, "read-only");
        expect(-EROFS, place, "read-only"); /* no unnamed file either */
        CHECK(!is_there(path));
        CHECK_OK(umount(place));
    }
    CHECK_OK(rmdir(place));
}

static void as_nobody(void *argument)
{
    char **paths = argument;
    if (geteuid() != 0 || setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) {
        _exit(HARNESS_SKIP);
    }
    for (int i = 0; i < 3; i++) {
        bufpool_pool *pool;
        CHECK_IS(try_path(paths[i], 2, BUFPOOL_DISCARD, &pool), ==, -EACCES);
        CHECK_HAS(last_error(), "Permission denied");
        CHECK_HAS(last_error(), "right");
    }
}

static void not_allowed(void)
{
    char place[300];
    char there[400];
    char fresh[400];
    snprintf(place, sizeof place, "%s/bufpool-private-%d", huge_directory, (int)getpid());
    snprintf(there, sizeof there, "%s", path_of("private"));
    snprintf(fresh, sizeof fresh, "%s/fresh", place);
    CHECK_OK(mkdir(place, 0755));
    write_frames(there, 2, 5);
    char *paths[] = {there, fresh, place};
    struct child child = run_child(as_nobody, paths);
    if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == HARNESS_SKIP) {
        printf("skipped permissions: this process may not become another user\n");
    } else {
        CHECK_PASSED(child);
    }
    check_frames(there, 2, 5);
    CHECK(!is_there(fresh));
    CHECK_OK(unlink(there));
    CHECK_OK(rmdir(place));
}

static int body(void)
{
    elsewhere();
    if (no_huge_directory()) {
        return HARNESS_SKIP;
    }
    other_kinds();
    geometry();
    failures();
    read_only();
    not_allowed();
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
