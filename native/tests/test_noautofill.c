/*
 * Trap noautofill. On a kernel without that mount option: asking for it is refused, clearly. Where
 * BUFPOOL_TEST_NOAUTOFILL names a directory that is to be such a mount (tests/noautofill runs this under a kernel of its
 * own, and under a stock one as the control): what it has to do, one line "check NAME: passed" or "failed: why" each.
 *
 * Linked with --wrap, so that the library may be told that there is no userfaultfd.
 */
#include "kernel.h"
#include "pins_life.h"

#include <stdatomic.h>
#include <sys/mman.h>

static bool no_userfaultfd;

int __real_bp_kernel_uffd_open(void);
int __wrap_bp_kernel_uffd_open(void);
int __wrap_bp_kernel_uffd_open(void)
{
    return no_userfaultfd ? -EPERM : __real_bp_kernel_uffd_open();
}

int __real_bp_kernel_uffd_open_closing(int file, int huge);
int __wrap_bp_kernel_uffd_open_closing(int file, int huge);
int __wrap_bp_kernel_uffd_open_closing(int file, int huge)
{
    return no_userfaultfd ? -EPERM : __real_bp_kernel_uffd_open_closing(file, huge);
}

static const char *directory;
static bufpool_pool *inherited;
static char path[300];
static char *content;

static bufpool_pool *open_here(const char *trap, const char *on_fault, uint64_t pages)
{
    snprintf(path, sizeof path, "%s/pool-%d", directory, (int)getpid());
    bufpool_pool *pool = open_pool(path, trap, on_fault, pages * HUGE_PAGE, 0);
    unlink(path); /* it stays as long as it is open; opened again through /proc */
    return pool;
}

static void check_hole(bufpool_pool *pool, uint64_t page, bufpool_state state)
{
    static const uint64_t offsets[] = {0, 1, 4096, HUGE_PAGE / 2 + 3, HUGE_PAGE - 1};
    char *at = bufpool_address(pool, page);
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        char byte = 1;
        bool write = i % 2 == 1;
        CHECK_IS(write ? bufpool_guarded_copy(at + offsets[i], &byte, 1, &fault)
                       : bufpool_guarded_copy(&byte, at + offsets[i], 1, &fault),
                 ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.signal, ==, SIGBUS);
        CHECK_IS(fault.page, ==, page);
        CHECK_IS(fault.offset, ==, offsets[i]);
        CHECK_IS(fault.access, ==, write ? BUFPOOL_WRITE : BUFPOOL_READ);
        CHECK_IS(fault.state, ==, state);
    }
}

static void exact(void *unused)
{
    (void)unused;
    bufpool_pool *pool = open_here("noautofill", "abort", 8);
    CHECK_STRING(stats_of(pool).trap, "noautofill");
    uint64_t page;
    check_hole(pool, 5, BUFPOOL_STATE_UNALLOCATED);
    CHECK_OK(bufpool_allocate(pool, content, HUGE_PAGE, &page));
    CHECK(memcmp(bufpool_address(pool, page), content, HUGE_PAGE) == 0);
    CHECK_OK(bufpool_evict(pool, page));
    check_hole(pool, page, BUFPOOL_STATE_EVICTED);
    CHECK_OK(bufpool_populate(pool, page, content, 5));
    CHECK(memcmp(bufpool_address(pool, page), content, 5) == 0);
    CHECK_IS(((char *)bufpool_address(pool, page))[HUGE_PAGE - 1], ==, 0);
    CHECK_OK(bufpool_free(pool, page));
    check_hole(pool, page, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    CHECK_IS(((char *)bufpool_address(pool, page))[4097], ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void without_userfaultfd(void *argument)
{
    no_userfaultfd = true;
    exact(argument);
}

static void by_auto(void *unused)
{
    (void)unused;
    bufpool_pool *pool = open_here("auto", "abort", 2);
    CHECK_STRING(stats_of(pool).trap, "noautofill");
    CHECK_STRING(stats_of(pool).trap_note, "");
    CHECK_OK(bufpool_close(pool));
}

/* A process that maps the file and registers nothing: reads what is allocated, and dies on a hole. */
static void stranger(void *argument)
{
    const char *file = argument;
    int fd = open(file, O_RDWR);
    CHECK(fd >= 0);
    char *at = mmap(NULL, 4 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    CHECK(at != MAP_FAILED);
    CHECK(memcmp(at, content, HUGE_PAGE) == 0);
    fprintf(stderr, "read the page\n");
    fprintf(stderr, "and the hole: %d\n", at[2 * HUGE_PAGE + 9]);
}

static void never_attached(void *argument)
{
    no_userfaultfd = argument != NULL;
    bufpool_pool *pool = open_here("noautofill", "abort", 4);
    CHECK_OK(bufpool_allocate_at(pool, 0, content, HUGE_PAGE));
    char file[64] = "";
    for (int fd = 3; fd < 8192; fd++) { /* the pool's file, by the only descriptor of it */
        char link[64];
        char target[300];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, target, sizeof target - 1);
        if (length > 0 && strncmp(target, path, strlen(path)) == 0) {
            snprintf(file, sizeof file, "/proc/%d/fd/%d", (int)getpid(), fd);
        }
    }
    CHECK(file[0] != 0);
    struct child child = run_child(stranger, file);
    CHECK_CHILD(strstr(child.text, "read the page") != NULL, child);
    CHECK_DIED(child, SIGBUS);
    check_hole(pool, 2, BUFPOOL_STATE_UNALLOCATED); /* nobody has filled it for us */
    CHECK_OK(bufpool_close(pool));
}

/* A process that attaches: has what the other has allocated, traps where it has not, and its free traps in both. */
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static void guest(void *unused)
{
    (void)unused;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.fork = "exclude";
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK_STRING(stats_of(pool).trap, "noautofill");
    CHECK_IS(stats_of(pool).members, ==, 2);
    CHECK(memcmp(bufpool_address(pool, 0), content, HUGE_PAGE) == 0);
    check_hole(pool, 2, BUFPOOL_STATE_UNALLOCATED);
    CHECK_OK(bufpool_allocate_at(pool, 1, content, HUGE_PAGE));
    CHECK_OK(bufpool_free(pool, 0));
    check_hole(pool, 0, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_close(pool));
}

static void attached(void *argument)
{
    no_userfaultfd = argument != NULL;
    snprintf(path, sizeof path, "%s/pool-%d", directory, (int)getpid());
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.capacity = 4 * HUGE_PAGE;
    config.page_size = 0;
    config.memory = path;
    config.trap = "noautofill";
    config.fork = "exclude"; /* the child attaches */
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    CHECK_OK(bufpool_allocate_at(pool, 0, content, HUGE_PAGE));
    struct child child = run_child(guest, NULL);
    CHECK_PASSED(child);
    check_hole(pool, 0, BUFPOOL_STATE_FREED);
    check_hole(pool, 3, BUFPOOL_STATE_UNALLOCATED);
    CHECK(memcmp(bufpool_address(pool, 1), content, HUGE_PAGE) == 0);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
    unlink(path);
}

static void heir(void *unused)
{
    (void)unused;
    check_hole(inherited, 3, BUFPOOL_STATE_UNALLOCATED);
    CHECK(memcmp(bufpool_address(inherited, 0), content, HUGE_PAGE) == 0);
}

static void forked(void *argument)
{
    no_userfaultfd = argument != NULL;
    inherited = open_here("noautofill", "abort", 4);
    CHECK_OK(bufpool_allocate_at(inherited, 0, content, HUGE_PAGE));
    struct child child = run_child(heir, NULL);
    CHECK_PASSED(child);
    check_hole(inherited, 3, BUFPOOL_STATE_UNALLOCATED);
    CHECK_OK(bufpool_close(inherited));
}

/* ---- Pins: pages that have frames are closed, too, by mprotect where userfaultfd cannot ---- */

static const char *const modes[] = {"write", "all"};

static void pinned(void *argument)
{
    no_userfaultfd = argument != NULL;
    CHECK_OK(bufpool_close(open_here("noautofill", "abort", 2))); /* opens what stays open from then on */
    for (int all = 0; all < 2; all++) {
        check_mode(directory, "noautofill", modes[all], 0, 1);
        check_mode(directory, "noautofill", modes[all], BUFPOOL_SCRUB | BUFPOOL_RED_ZONES, 1);
    }
}

/* Page 0 has a write pin, 1 a read pin, 2 none, and 3 is a hole. */
static void check_rights(bufpool_pool *pool, bool all)
{
    CHECK_OPEN(pool, 0, true, true, 'a');
    CHECK_OPEN(pool, 1, true, false, 'b');
    CHECK_OPEN(pool, 2, !all, false, 'c');
    CHECK(!reads_at(bufpool_address(pool, 3), NULL));
}

static void heir_of_pins(void *all)
{
    check_rights(inherited, all != NULL);
    CHECK_OK(bufpool_unpin(inherited, 0));
    CHECK_OPEN(inherited, 0, all == NULL, false, 'a');
    CHECK_OK(bufpool_allocate_at(inherited, 3, "d", 1));
    CHECK_OPEN(inherited, 3, all == NULL, false, 'd');
    CHECK_OK(bufpool_pin(inherited, 3, true));
    CHECK_OPEN(inherited, 3, true, true, 'd');
    CHECK_OK(bufpool_unpin(inherited, 3));
    CHECK_OPEN(inherited, 3, all == NULL, false, 'd');
    CHECK_OK(bufpool_free(inherited, 3));
}

static void pinned_and_forked(void *argument)
{
    no_userfaultfd = argument != NULL;
    for (int all = 0; all < 2; all++) {
        bufpool_config config = pins_config(directory, "noautofill", modes[all]);
        inherited = open_config(&config);
        for (uint64_t page = 0; page < 3; page++) {
            CHECK_OK(bufpool_allocate_at(inherited, page, &"abc"[page], 1));
        }
        CHECK_OK(bufpool_pin(inherited, 0, true));
        CHECK_OK(bufpool_pin(inherited, 1, false));
        struct child child = run_child(heir_of_pins, all ? inherited : NULL);
        CHECK_PASSED(child);
        check_rights(inherited, all);
        CHECK_OK(bufpool_close(inherited));
    }
}

/* An unpinned page shows the pattern to a stray access that is answered, and is closed again. */
static void pinned_and_diverted(void *argument)
{
    no_userfaultfd = argument != NULL;
    bufpool_config config = pins_config(directory, "noautofill", "all");
    config.on_fault = "resume";
    bufpool_pool *pool = open_config(&config);
    char *at = bufpool_address(pool, 1);
    CHECK_OK(bufpool_allocate_at(pool, 1, "b", 1));
    for (int i = 0; i < 3; i++) {
        CHECK_IS((unsigned char)read_byte(at + 77), ==, BUFPOOL_POISON);
        write_byte(at, 1);
        CHECK_OK(bufpool_pin(pool, 1, false));
        CHECK_IS(read_byte(at), ==, 'b');
        CHECK_OK(bufpool_unpin(pool, 1));
    }
    CHECK_OPEN(pool, 1, false, false, 'b');
    CHECK_OK(bufpool_close(pool));
}

/* A page that is filled with data shows all of it, or traps: never half. */
static atomic_bool done;

static void *reader(void *argument)
{
    const char *at = argument;
    for (uint64_t n = 0; !atomic_load(&done); n++) {
        uint64_t offset = n * 4099 * 61 % HUGE_PAGE;
        char byte;
        int code = bufpool_guarded_copy(&byte, at + offset, 1, NULL);
        CHECK(code == BUFPOOL_ESTRAY || (code == 0 && byte == content[offset]));
    }
    return NULL;
}

static void appears_whole(void *argument)
{
    no_userfaultfd = argument != NULL;
    bufpool_pool *pool = open_here("noautofill", "abort", 2);
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, reader, bufpool_address(pool, 1)));
    for (int i = 0; i < 100; i++) {
        CHECK_OK(bufpool_allocate_at(pool, 1, content, HUGE_PAGE));
        CHECK_OK(bufpool_free(pool, 1));
    }
    atomic_store(&done, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(bufpool_close(pool));
}

static void diverted(void *argument)
{
    no_userfaultfd = argument != NULL;
    bufpool_pool *pool = open_here("noautofill", "resume", 4);
    unsigned char *at = bufpool_address(pool, 3);
    CHECK_IS((unsigned char)read_byte(at + 77), ==, BUFPOOL_POISON);
    write_byte(at + 78, 1);
    CHECK_OK(bufpool_allocate_at(pool, 3, content, HUGE_PAGE));
    CHECK(memcmp(at, content, HUGE_PAGE) == 0);
    CHECK_OK(bufpool_free(pool, 3));
    check_hole(pool, 3, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_close(pool));
}

static void by_kernel(void *unused)
{
    (void)unused;
    bufpool_pool *pool = open_here("noautofill", "abort", 2);
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK_IS(write(ends[1], bufpool_address(pool, 1), 64), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    check_hole(pool, 1, BUFPOOL_STATE_UNALLOCATED);
    CHECK_OK(bufpool_close(pool));
}

static void exhausted(void *argument)
{
    no_userfaultfd = argument != NULL;
    uint64_t pages = (uint64_t)read_setting(FREE_HUGEPAGES) + 4;
    bufpool_pool *pool = open_here("noautofill", "abort", pages);
    uint64_t page;
    uint64_t count = 0;
    int code;
    while ((code = bufpool_allocate(pool, content, HUGE_PAGE, &page)) == 0) {
        count++;
    }
    CHECK_IS(code, ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(count, ==, pages - 4);
    for (uint64_t i = 0; i < count; i++) {
        CHECK(memcmp(bufpool_address(pool, i), content, HUGE_PAGE) == 0);
    }
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_OK(bufpool_allocate(pool, content, HUGE_PAGE, &page));
    CHECK_OK(bufpool_close(pool));
}

/* Runs one check in a child; false if it failed. */
static bool run(const char *name, void (*function)(void *), void *argument)
{
    struct child child = run_child(function, argument);
    if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0) {
        printf("check %s: passed\n", name);
        return true;
    }
    for (char *at = child.text; (at = strchr(at, '\n')) != NULL;) {
        *at = '|'; /* one line a check */
    }
    printf("check %s: failed: status 0x%x, %.700s\n", name, child.status, child.text);
    return false;
}

static int checks(void)
{
    static char yes[] = "without userfaultfd";
    bool passed = run("trap is taken by auto", by_auto, NULL);
    passed &= run("trap is exact to the byte", exact, NULL);
    passed &= run("trap is exact without userfaultfd", without_userfaultfd, NULL);
    passed &= run("trap holds in a process that never attached", never_attached, NULL);
    passed &= run("trap holds there without userfaultfd", never_attached, yes);
    passed &= run("trap holds in a process that attaches", attached, NULL);
    passed &= run("trap holds there, too, without userfaultfd", attached, yes);
    passed &= run("trap holds in a forked child", forked, NULL);
    passed &= run("trap holds in a forked child without userfaultfd", forked, yes);
    passed &= run("trap gives way to whole pages only", appears_whole, NULL);
    passed &= run("trap gives way so without userfaultfd", appears_whole, yes);
    passed &= run("trap is armed again after a diversion", diverted, NULL);
    passed &= run("trap is armed again without userfaultfd", diverted, yes);
    passed &= run("trap holds for pages that pins close", pinned, NULL);
    passed &= run("trap holds for those without userfaultfd", pinned, yes);
    passed &= run("trap holds for those in a forked child", pinned_and_forked, NULL);
    passed &= run("trap holds for those there without userfaultfd", pinned_and_forked, yes);
    passed &= run("trap is armed again at those", pinned_and_diverted, NULL);
    passed &= run("trap is armed again at those without userfaultfd", pinned_and_diverted, yes);
    passed &= run("trap answers system calls with EFAULT", by_kernel, NULL);
    passed &= run("trap and exhaustion of huge pages", exhausted, NULL);
    passed &= run("trap and exhaustion without userfaultfd", exhausted, yes);
    return passed ? 0 : 1;
}

/* On a kernel that has not the option. */
static int refusals(void)
{
    if (huge_directory[0] == 0) {
        printf("no hugetlbfs mount to ask on (reason above)\n");
        return HARNESS_SKIP;
    }
    directory = huge_directory;
    bufpool_pool *pool;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 4 * HUGE_PAGE;
    config.page_size = 0;
    config.memory = huge_directory;
    config.trap = "noautofill";
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "option noautofill");
    CHECK_HAS(last_error(), "pagesize=2M");
    config.trap = "auto";
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_HAS(stats_of(pool).trap_note, "noautofill: ");
    CHECK_OK(bufpool_close(pool));
    config.trap = "noautofill";
    config.memory = "hugetlb";
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "a path on one");
    return 0;
}

int main(void)
{
    content = malloc(HUGE_PAGE);
    CHECK(content != NULL);
    for (size_t i = 0; i < HUGE_PAGE; i++) {
        content[i] = (char)(1 + (i * 7 + i / 4096) % 251);
    }
    directory = getenv("BUFPOOL_TEST_NOAUTOFILL");
    if (directory == NULL) {
        return with_huge_pages(8, refusals);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    return checks();
}
