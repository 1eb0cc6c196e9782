/* Who has a shared pool, and who has not any more: a process that closes descriptors that are not its own, or whose first
 * thread has ended, has it; one that has become another program has not, nor one that is survived by a child that has its
 * descriptors. */
#include "clean.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;
static int ready[2];

static uint64_t attach_and_begin_a_free(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    uint64_t page;
    config.on_fault = "resume";
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK(bp_pages_claim(&pool->pages, page, BUFPOOL_STATE_ALLOCATED, BP_FREEING));
    return page;
}

static void tell(uint64_t page)
{
    CHECK_IS(write(ready[1], &page, sizeof page), ==, sizeof page);
}

static void sleep_for_ever(void)
{
    for (;;) {
        pause();
    }
}

static pid_t start(void (*function)(void), uint64_t *page)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(CHILD_LIMIT);
        function();
    }
    CHECK_IS(read(ready[0], page, sizeof *page), ==, sizeof *page);
    return pid;
}

static void end(pid_t pid)
{
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_IS(waitpid(pid, NULL, 0), ==, pid);
}

static void open_shared(void)
{
    pool = open_pool_fork("shared", "uffd", "resume", MIB, GRANULE, "exclude");
    CHECK_OK(bufpool_share(pool, &handle));
}

static void close_shared(void)
{
    stats_of(pool);
    check_clean(pool, 1);
    check_all_to_be_had(pool);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

/* Its page is its own, and its number. */
static void lives(void (*function)(void))
{
    uint64_t page;
    open_shared();
    pid_t pid = start(function, &page);
    CHECK_IS(bufpool_allocate_at(pool, page, NULL, 0), ==, BUFPOOL_ESTATE);
    ask_for_too_much(pool);
    CHECK_IS(stats_of(pool).members, ==, 2);
    CHECK(!bp_roster_is_dead(&pool->pages, 2));
    end(pid);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0)); /* its free was finished */
    close_shared();
}

static void without_descriptors(void)
{
    uint64_t page = attach_and_begin_a_free();
    for (int fd = 3; fd < 8192; fd++) {
        if (fd != ready[1]) {
            close(fd);
        }
    }
    tell(page);
    sleep_for_ever();
}

static bool first_has_ended(void)
{
    char state[256] = "";
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && read(fd, state, sizeof state - 1) > 0);
    close(fd);
    return strstr(state, ") Z ") != NULL;
}

static void *second_thread(void *argument)
{
    (void)argument;
    while (!first_has_ended()) {
        sleep_ms(1);
    }
    tell(attach_and_begin_a_free());
    sleep_for_ever();
    return NULL;
}

static void without_its_first_thread(void)
{
    pthread_t second;
    CHECK_OK(pthread_create(&second, NULL, second_thread, NULL));
    pthread_exit(NULL);
}

/* What it has left is repaired, though there is a process of its pid, or one that has its descriptors. */
static void is_gone(void (*function)(void))
{
    uint64_t page;
    uint64_t heir = 0;
    open_shared();
    pid_t pid = start(function, &page);
    if (page & 1ull << 63) { /* a child's pid comes first */
        heir = page & ~(1ull << 63);
        CHECK_IS(read(ready[0], &page, sizeof page), ==, sizeof page);
        end(pid);
    } else { /* it may be amid becoming another program */
        WAIT_FOR(stats_of(pool).members == 1);
    }
    CHECK_IS(stats_of(pool).members, ==, 1);
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    if (heir != 0) {
        CHECK_OK(kill((pid_t)heir, SIGKILL));
    } else {
        end(pid);
    }
    close_shared();
}

static void becomes_another_program(void)
{
    tell(attach_and_begin_a_free());
    execlp("sleep", "sleep", "60", (char *)NULL);
    _exit(1);
}

static void leaves_a_child(void)
{
    uint64_t page = attach_and_begin_a_free();
    pid_t pid = bare_fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        sleep_for_ever();
    }
    tell((uint64_t)pid | 1ull << 63);
    tell(page);
    sleep_for_ever();
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    CHECK_OK(pipe2(ready, O_CLOEXEC));
    lives(without_descriptors);
    lives(without_its_first_thread);
    is_gone(becomes_another_program);
    is_gone(leaves_a_child);
    return 0;
}
