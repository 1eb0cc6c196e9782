/* One pool in several processes that did not inherit it: they attach by a handle; pages, states, traps and ends are one. */
#include "guests.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t page; /* that the parent has allocated */

static bufpool_pool *open_shared(const char *trap)
{
    bufpool_config config = attach_config();
    bufpool_pool *pool = NULL;
    config.capacity = 16 * MIB;
    config.memory = "shared";
    config.trap = trap;
    config.name = "buffers";
    config.fork = "exclude"; /* the children attach */
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    return pool;
}

/* ---- What one does, the other sees ---- */

static void guest(void *argument)
{
    (void)argument;
    bufpool_pool *pool = attach();
    char *address = bufpool_address(pool, page);
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
    CHECK_STRING(address, "a row");
    strcpy(address, "A row");
    CHECK_OK(bufpool_allocate_at(pool, page + 1, "guest", 6));
    CHECK(traps_at(bufpool_address(pool, 99), NULL));
    CHECK(traps_at(bufpool_address(pool, 99), NULL)); /* the first has not filled it */
    read_byte(bufpool_address(pool, 98));             /* diverted here, and only here */
    CHECK_OK(bufpool_free(pool, page));
    CHECK(traps_at(address, NULL));
    CHECK_IS(stats_of(pool).allocations, ==, 2);
    CHECK_STRING(stats_of(pool).name, "buffers");
    CHECK_OK(bufpool_close(pool));
}

static void one_pool(void)
{
    bufpool_pool *pool = open_shared("uffd");
    CHECK_OK(bufpool_allocate(pool, "a row", 6, &page));
    passes(guest, NULL);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, page), &fault)); /* freed there */
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
    CHECK_STRING((char *)bufpool_address(pool, page + 1), "guest");
    CHECK(traps_at(bufpool_address(pool, 98), NULL));
    CHECK(traps_at(bufpool_address(pool, 99), NULL));
    bufpool_statistics stats = stats_of(pool);
    CHECK_IS(stats.allocated, ==, 1);
    CHECK_IS(stats.frees, ==, 1);
    CHECK_OK(bufpool_allocate_at(pool, 98, NULL, 0)); /* the guest's scratch granule withholds it no more */
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

/* ---- Who ends what ---- */

static void close_and_leave(void *argument)
{
    (void)argument;
    bufpool_pool *pool = attach();
    CHECK_OK(bufpool_close(pool));
}

/* Attaching tries the trap on a free page, wherever it is; and without one, too. */
static void crowded(void)
{
    enum { PAGES = 3 * 4096 };
    static uint64_t pages[PAGES];
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.capacity = (uint64_t)PAGES * GRANULE;
    config.memory = "shared";
    config.trap = "uffd";
    config.on_fault = "resume";
    config.fork = "exclude";
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    passes(close_and_leave, NULL);
    CHECK_OK(bufpool_free(pool, 3));
    char *view = mmap(NULL, config.capacity, PROT_READ | PROT_WRITE, MAP_SHARED, handle.memory, 0);
    CHECK(view != MAP_FAILED);
    view[3 * GRANULE] = 'x'; /* past the pool: of the only free page that is taken back */
    CHECK_OK(munmap(view, config.capacity));
    passes(close_and_leave, NULL);
    CHECK(traps_at(bufpool_address(pool, 3), NULL));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(page, ==, 3);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

static void survive(void *argument)
{
    (void)argument;
    bufpool_pool *pool = attach();
    await_close();
    uint64_t number;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &number), ==, BUFPOOL_ECLOSED);
    CHECK_HAS(last_error(), "by the process that opened it");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, page), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    CHECK_OK(bufpool_close(pool));
}

static void ends(void)
{
    bufpool_pool *pool = open_shared("uffd");
    CHECK_OK(bufpool_allocate(pool, "a row", 6, &page));
    passes(close_and_leave, NULL);
    CHECK_STRING((char *)bufpool_address(pool, page), "a row");
    close_amid(pool, survive);
}

/* A child of the dead process lives on, and has its descriptors and mappings: they keep nothing of it alive. */
static void killed_parent(const char *fork_option)
{
    bufpool_pool *pool = open_shared("uffd");
    open_pipes();
    pid_t pid = fork();
    CHECK_IS(pid, >=, 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        bufpool_config config = attach_config();
        bufpool_pool *attached = NULL;
        config.fork = fork_option;
        CHECK_OK(bufpool_attach(&config, &handle, &attached));
        char byte = 0;
        if (fork() == 0) {
            alarm(CHILD_LIMIT);
            CHECK_IS(write(to_host[1], &byte, 1), ==, 1);
            _exit(read(to_guest[0], &byte, 1) != 1);
        }
        for (;;) {
            pause();
        }
    }
    char byte;
    uint32_t heirs = strcmp(fork_option, "inherit") == 0;
    CHECK_IS(read(to_host[0], &byte, 1), ==, 1);
    CHECK_IS(stats_of(pool).members, ==, 2 + heirs);
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_IS(waitpid(pid, NULL, 0), ==, pid);
    CHECK_IS(stats_of(pool).members, ==, 1 + heirs);
    CHECK_IS(write(to_guest[1], &byte, 1), ==, 1);
    close_pipes();
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

/* ---- At the same address ---- */

static void *wanted;

static void same_place(void *argument)
{
    (void)argument;
    bufpool_config config = attach_config();
    config.flags = BUFPOOL_FIXED_ADDRESS;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK(bufpool_address(pool, 0) == wanted);
    CHECK_OK(bufpool_close(pool));
}

static void place_taken(void *argument)
{
    (void)argument;
    bufpool_config config = attach_config();
    bufpool_pool *pool = NULL;
    CHECK(mmap((char *)wanted + 5 * GRANULE, GRANULE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
          MAP_FAILED);
    config.flags = BUFPOOL_FIXED_ADDRESS;
    int fds = count_fds();
    CHECK_IS(bufpool_attach(&config, &handle, &pool), ==, -EEXIST);
    CHECK_HAS(last_error(), "is taken in this process");
    CHECK_IS(count_fds(), ==, fds);
}

static void fixed_address(void)
{
    bufpool_pool *pool = open_shared("uffd");
    wanted = bufpool_address(pool, 0);
    passes(same_place, NULL);
    passes(place_taken, NULL);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *other = NULL;
    config.capacity = MIB;
    config.flags = BUFPOOL_FIXED_ADDRESS;
    CHECK_IS(bufpool_open(&config, &other), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "bufpool_attach()");
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

/* ---- What is refused ---- */

static void refuse_share(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "resume", MIB, GRANULE);
    bufpool_handle none = BUFPOOL_HANDLE_INIT;
    bool shareable = strcmp(memory, "shared") == 0 && strcmp(trap, "uffd") == 0;
    CHECK_IS(bufpool_share(pool, &none), ==, shareable ? 0 : BUFPOOL_EUNSUPPORTED);
    if (!shareable) {
        CHECK_HAS(last_error(), "cannot be shared");
        CHECK_IS(none.memory, ==, -1);
    } else {
        CHECK(fcntl(none.memory, F_GETFD) & FD_CLOEXEC);
        CHECK(fcntl(none.tables, F_GETFD) & FD_CLOEXEC);
        CHECK_OK(bufpool_handle_close(&none));
        CHECK_IS(none.tables, ==, -1);
    }
    CHECK_OK(bufpool_close(pool));
}

static void refuse_attach(bufpool_handle given, int code, const char *words)
{
    bufpool_config config = attach_config();
    bufpool_pool *pool = NULL;
    int fds = count_fds();
    CHECK_IS(bufpool_attach(&config, &given, &pool), ==, code);
    CHECK_HAS(last_error(), words);
    CHECK(pool == NULL);
    CHECK_IS(count_fds(), ==, fds);
}

static void refusals(void)
{
    bufpool_pool *pool = open_shared("uffd");
    bufpool_pool *other = open_pool("shared", "uffd", "resume", 16 * MIB, GRANULE);
    bufpool_handle another = BUFPOOL_HANDLE_INIT;
    CHECK_OK(bufpool_share(other, &another));
    refuse_attach((bufpool_handle)BUFPOOL_HANDLE_INIT, BUFPOOL_EARGUMENT, "no descriptors");
    refuse_attach((bufpool_handle){0, handle.memory, handle.tables}, BUFPOOL_EARGUMENT, "BUFPOOL_HANDLE_INIT");
    refuse_attach((bufpool_handle){sizeof handle, handle.memory, handle.memory}, BUFPOOL_EARGUMENT, "not the tables");
    refuse_attach((bufpool_handle){sizeof handle, handle.tables, handle.tables}, BUFPOOL_EARGUMENT, "another file");
    refuse_attach((bufpool_handle){sizeof handle, another.memory, handle.tables}, BUFPOOL_EARGUMENT, "another file");
    refuse_attach((bufpool_handle){sizeof handle, 998, handle.tables}, -ENOENT, "cannot be opened");
    refuse_attach((bufpool_handle){sizeof handle, handle.memory, 998}, -EBADF, "cannot be read");
    bufpool_config config = attach_config();
    bufpool_pool *refused = NULL;
    config.trap = "guard";
    CHECK_IS(bufpool_attach(&config, &handle, &refused), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_IS(bufpool_attach(NULL, &handle, &refused), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_attach(&config, NULL, &refused), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_attach(&config, &handle, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_share(pool, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_OK(bufpool_handle_close(&another));
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(other));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(refuse_share, true);
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    one_pool();
    crowded();
    ends();
    killed_parent("inherit");
    killed_parent("exclude");
    fixed_address();
    refusals();
    return code;
}
