/* Tables that are not what they should be hurt nobody who attaches: headers in which anything may stand, and a peer that
 * keeps changing words of the tables and pages of the memory while others attach, allocate, free, stray and repair. No
 * crash, no hang. BUFPOOL_TEST_HEADERS and BUFPOOL_TEST_SECONDS say how much of it. */
#include "forged.h"
#include "harness.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define CHUNK 2000 /* headers that a child tries */
#define PAGES 512  /* of the pool whose tables are forged */

static struct shared {
    uint64_t seed;
    uint64_t headers;
    uint64_t attached;
    uint64_t calls;
    uint64_t refused; /* calls */
    uint64_t strays;
    int64_t longest; /* ns that a call took */
    _Atomic uint64_t words;
} *shared;

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static uint64_t wanted(const char *variable, uint64_t otherwise)
{
    const char *given = getenv(variable);
    return given == NULL ? otherwise : strtoull(given, NULL, 10);
}

/* ---- Headers ---- */

static uint64_t edge(uint64_t *random)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     4095,
                                     4096,
                                     4097,
                                     8192,
                                     UINT64_C(1) << 20,
                                     UINT64_C(1) << 21,
                                     UINT64_C(1) << 30,
                                     (UINT64_C(1) << 31) - 1,
                                     UINT64_C(1) << 31,
                                     UINT32_MAX,
                                     UINT64_C(1) << 32,
                                     UINT64_C(1) << 44,
                                     (UINT64_C(1) << 47) - 4096,
                                     UINT64_C(1) << 47,
                                     UINT64_C(1) << 63,
                                     UINT64_MAX - 4095,
                                     UINT64_MAX};
    return edges[next_random(random) % (sizeof edges / sizeof *edges)];
}

/* The length that the tables of such a pool have to have, as tables.c takes it. */
static uint64_t length_of(const struct bp_constants *constants)
{
    uint64_t pages = constants->page_size == 0 ? 0 : constants->capacity / constants->page_size;
    if (pages == 0 || pages > (UINT64_C(1) << 32)) {
        return constants->file_size;
    }
    uint64_t members = (BP_MAX_MEMBERS + 1) * sizeof(struct bp_member);
    return (4096 + (members + 4095) / 4096 * 4096 + bp_pages_size(pages, constants->rest) + 4095) / 4096 * 4096;
}

static void mutate(struct bp_constants *constants, uint64_t *random)
{
    uint64_t *fields[] = {&constants->file_size, &constants->capacity,  &constants->page_size,
                          &constants->granule,   &constants->base,      &constants->file[0],
                          &constants->file[1],   &constants->pid_space, &constants->rest};
    uint32_t *small[] = {&constants->version, &constants->size, &constants->members, &constants->member_size,
                         &constants->flags};
    for (uint64_t count = 1 + next_random(random) % 3; count > 0; count--) {
        switch (next_random(random) % 5) {
        case 0:
            ((unsigned char *)constants)[next_random(random) % sizeof *constants] ^= 1 << next_random(random) % 8;
            break;
        case 1:
            *fields[next_random(random) % 9] = edge(random);
            break;
        case 2:
            *fields[next_random(random) % 9] += next_random(random) % 3 * 4096 - 4096;
            break;
        case 3:
            *small[next_random(random) % 5] = (uint32_t)edge(random);
            break;
        default:
            constants->page_size = constants->granule << next_random(random) % 8;
        }
    }
    if (next_random(random) % 4 != 0) {
        constants->file_size = length_of(constants);
    }
    if (next_random(random) % 8 != 0) {
        constants->checksum = checksum(constants);
    }
}

static int other_file(uint64_t *random)
{
    int ends[2];
    switch (next_random(random) % 6) {
    case 0:
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    case 1:
        return open("/", O_RDONLY | O_CLOEXEC);
    case 2:
        return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    case 3:
        CHECK_OK(pipe2(ends, O_CLOEXEC));
        close(ends[1]);
        return ends[0];
    case 4:
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    default:
        return memfd_create("empty", MFD_CLOEXEC);
    }
}

/* A file with this header, and nothing else but what makes it as long as it should be. */
static int forge(const struct bp_constants *constants, uint64_t *random)
{
    int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint64_t length = constants->file_size;
    CHECK(fd >= 0);
    if (next_random(random) % 16 == 0) {
        length = next_random(random) % 2 ? next_random(random) % 8192 : length - 4096;
    }
    length = length > GIB ? 4096 : length;
    CHECK_OK(ftruncate(fd, (off_t)length));
    size_t size = length < sizeof *constants ? length : sizeof *constants;
    CHECK_IS(pwrite(fd, constants, size, 0), ==, size);
    if (next_random(random) % 16 != 0) {
        CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    }
    return fd;
}

/* ---- What one does who has attached ---- */

static bool touch(bufpool_pool *pool, uint64_t page)
{
    const char *address = bufpool_address(pool, page);
    return address != NULL && traps_at(address, NULL);
}

static void do_something(bufpool_pool *pool, uint64_t *random)
{
    uint64_t pages[64];
    size_t found;
    size_t count = 1 + next_random(random) % 64;
    uint64_t page = next_random(random) % (PAGES + 1);
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    bufpool_origin allocated;
    bufpool_origin freed;
    struct timespec before;
    struct timespec after;
    int code = 0;
    clock_gettime(CLOCK_MONOTONIC, &before);
    switch (next_random(random) % 16) {
    case 0:
    case 1:
        code = bufpool_allocate(pool, "data", 4, &page);
        break;
    case 2:
        code = bufpool_allocate_many(pool, count, pages);
        break;
    case 3:
        code = bufpool_allocate_many(pool, PAGES, (uint64_t[PAGES]){0});
        break;
    case 4:
        code = bufpool_allocate_at(pool, page, NULL, 0);
        break;
    case 5:
    case 6:
        code = bufpool_free(pool, page);
        break;
    case 7:
        for (size_t i = 0; i < count; i++) {
            pages[i] = (page + i) % PAGES;
        }
        code = bufpool_free_many(pool, count, pages);
        break;
    case 8:
        code = bufpool_evict(pool, page);
        break;
    case 9:
        code = bufpool_populate(pool, page, "back", 4);
        break;
    case 10:
        code = bufpool_list(pool, BUFPOOL_STATE_ALLOCATED, next_random(random) % PAGES, 64, pages, &found);
        CHECK(code < 0 || found <= 64);
        break;
    case 11:
        code = bufpool_stats(pool, &statistics);
        break;
    case 12:
        code = next_random(random) % 8 == 0
                   ? bufpool_inspect(pool, next_random(random) % 2 ? BUFPOOL_REPAIR : 0, &findings)
                   : 0;
        break;
    case 13:
        if (page < PAGES) {
            code = bufpool_page_history(pool, page, &allocated, &freed);
        }
        break;
    default:
        shared->strays += touch(pool, page);
    }
    clock_gettime(CLOCK_MONOTONIC, &after);
    int64_t took = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    shared->longest = took > shared->longest ? took : shared->longest;
    shared->calls++;
    shared->refused += code < 0;
}

static bool attach(const bufpool_handle *given, uint64_t *random, int calls)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.on_fault = "resume";
    config.report_limit = 1;
    config.provenance = next_random(random) % 4 == 0 ? "stacks" : NULL;
#if !defined(__SANITIZE_THREAD__) /* which makes 0 of addresses that it does not like */
    config.flags = next_random(random) % 8 == 0 ? BUFPOOL_FIXED_ADDRESS : 0;
#endif
    if (bufpool_attach(&config, given, &pool) < 0) {
        CHECK(pool == NULL);
        CHECK(last_error()[0] != 0);
        return false;
    }
    for (; calls > 0; calls--) {
        do_something(pool, random);
    }
    CHECK_OK(bufpool_close(pool));
    return true;
}

static void try_headers(void *argument)
{
    struct bp_constants genuine;
    uint64_t random = shared->seed;
    (void)argument;
    CHECK_IS(pread(handle.tables, &genuine, sizeof genuine, 0), ==, sizeof genuine);
    CHECK_IS(genuine.checksum, ==, checksum(&genuine));
    CHECK_IS(genuine.file_size, ==, length_of(&genuine));
    int fds = count_fds();
    for (int i = 0; i < CHUNK; i++) {
        struct bp_constants constants = genuine;
        mutate(&constants, &random);
        bufpool_handle forged = {sizeof forged, handle.memory, -1};
        forged.tables = next_random(&random) % 64 == 0 ? other_file(&random) : forge(&constants, &random);
        shared->attached += attach(&forged, &random, 4);
        close(forged.tables);
        shared->headers++;
    }
    CHECK_IS(count_fds(), <=, fds + 1); /* what shows the pattern on huge pages is opened once */
}

static bufpool_pool *open_shared(const char *provenance)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.capacity = PAGES * (uint64_t)GRANULE;
    config.memory = "shared";
    config.trap = "uffd";
    config.fork = "exclude";
    config.provenance = provenance;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    return pool;
}

static void headers(void)
{
    uint64_t goal = wanted("BUFPOOL_TEST_HEADERS", SANITIZED ? 2 * CHUNK : 4 * CHUNK);
    bufpool_pool *pool = open_shared("off");
    while (shared->headers < goal) {
        shared->seed++;
        struct child child = run_child(try_headers, NULL);
        CHECK_PASSED(child);
    }
    printf("%llu headers: %llu attached, %llu refused; %llu calls, %llu of them refused, %llu strays; the longest call "
           "took %.1f ms\n",
           (unsigned long long)shared->headers, (unsigned long long)shared->attached,
           (unsigned long long)(shared->headers - shared->attached), (unsigned long long)shared->calls,
           (unsigned long long)shared->refused, (unsigned long long)shared->strays, (double)shared->longest / 1e6);
    CHECK_IS(shared->attached, >, 0);
    CHECK_IS(shared->attached, <, shared->headers);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

/* ---- A peer that is mad ---- */

/* Any word of the tables, most often of those that steer something. */
static _Atomic uint64_t *pick(char *tables, const struct bp_constants *constants, uint64_t *random)
{
    uint64_t members = (BP_MAX_MEMBERS + 1) * sizeof(struct bp_member);
    uint64_t states = 4096 + (members + 4095) / 4096 * 4096;
    uint64_t index = states + constants->capacity / constants->page_size * sizeof(uint16_t);
    uint64_t from = 0;
    uint64_t to = constants->file_size;
    switch (next_random(random) % 8) {
    case 0:
        from = offsetof(struct bp_header, counts);
        to = sizeof(struct bp_header);
        break;
    case 1:
        from = 4096 + sizeof(struct bp_member);
        to = from + 8 * sizeof(struct bp_member);
        break;
    case 2:
        from = 4096;
        to = states;
        break;
    case 3:
    case 4:
        from = states;
        to = index;
        break;
    case 5:
    case 6:
        from = index;
        to = states + bp_pages_size(constants->capacity / constants->page_size, constants->rest);
        break;
    default:
        from = 4096;
    }
    return (_Atomic uint64_t *)(tables + (from + next_random(random) % (to - from)) / 8 * 8);
}

static uint64_t nonsense(uint64_t before, uint64_t *random)
{
    switch (next_random(random) % 6) {
    case 0:
        return next_random(random);
    case 1:
        return edge(random);
    case 2:
        return before ^ UINT64_C(1) << next_random(random) % 64;
    case 3:
        return next_random(random) % PAGES + 1;
    case 4: /* BUSY with the first members, of various states */
        return (next_random(random) % 5 * 64 + next_random(random) % 64) * UINT64_C(0x0001000100010001);
    default:
        return 0;
    }
}

__attribute__((noreturn)) static void go_mad(void)
{
    uint64_t random = 42;
    struct bp_constants constants;
    CHECK_IS(pread(handle.tables, &constants, sizeof constants, 0), ==, sizeof constants);
    char *tables = mmap(NULL, constants.file_size, PROT_READ | PROT_WRITE, MAP_SHARED, handle.tables, 0);
    CHECK(tables != MAP_FAILED);
    struct bp_header *header = (struct bp_header *)tables;
    for (;;) {
        for (int i = 0; i < 64; i++) {
            _Atomic uint64_t *word = pick(tables, &constants, &random);
            bool closes = (char *)word == (char *)&header->counts.gone - offsetof(struct bp_counts, gone) % 8;
            if (!closes || next_random(&random) % 1024 == 0) {
                atomic_store(word, nonsense(atomic_load(word), &random));
            }
        }
        atomic_store(&header->counts.gone, false);
        if (next_random(&random) % 16 == 0) { /* while somebody is just reading it */
            struct bp_constants wrong = constants;
            mutate(&wrong, &random);
            memcpy(&header->constants, &wrong, sizeof wrong);
        }
        memcpy(&header->constants, &constants, sizeof constants);
        off_t page = (off_t)(next_random(&random) % PAGES) * GRANULE;
        if (next_random(&random) % 4 == 0) {
            CHECK_OK(fallocate(handle.memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, GRANULE));
        } else if (next_random(&random) % 4 == 0) {
            CHECK_IS(pwrite(handle.memory, "mad", 3, page), ==, 3);
        }
        atomic_fetch_add(&shared->words, 64);
        if (next_random(&random) % 8 == 0) {
            sleep_ms((long)(next_random(&random) % 3));
        }
    }
}

static void live_with_it(void *argument)
{
    uint64_t random = shared->seed;
    time_t end = time(NULL) + 2;
    (void)argument;
    while (time(NULL) < end) {
        shared->attached += attach(&handle, &random, (int)(next_random(&random) % 512));
        shared->headers++;
    }
}

static pid_t start(void (*function)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        function();
    }
    return pid;
}

/* Lives with it, too, and does so until it is killed: what it leaves is repaired by those who live. */
__attribute__((noreturn)) static void live_and_die(void)
{
    uint64_t random = shared->seed * 7;
    dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
    for (;;) {
        attach(&handle, &random, (int)(next_random(&random) % 512));
    }
}

static void mad_peer(void)
{
    time_t end = time(NULL) + (time_t)wanted("BUFPOOL_TEST_SECONDS", 4);
    memset(shared, 0, sizeof *shared);
    bufpool_pool *pool = open_shared("stacks");
    pid_t mad = start(go_mad);
    int lived = 0;
    while (time(NULL) < end || shared->attached == 0 || shared->calls <= shared->refused) {
        shared->seed = (uint64_t)++lived;
        pid_t mortal = start(live_and_die);
        struct child child = run_child(live_with_it, NULL);
        int status;
        CHECK_PASSED(child);
        CHECK_OK(kill(mortal, SIGKILL));
        CHECK_IS(waitpid(mortal, &status, 0), ==, mortal);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    CHECK_OK(kill(mad, SIGKILL));
    CHECK_IS(waitpid(mad, NULL, 0), ==, mad);
    printf(
        "%llu words changed by a peer; %llu times attached of %llu; %llu calls, %llu of them refused, %llu strays; the "
        "longest call took %.1f ms\n",
        (unsigned long long)shared->words, (unsigned long long)shared->attached, (unsigned long long)shared->headers,
        (unsigned long long)shared->calls, (unsigned long long)shared->refused, (unsigned long long)shared->strays,
        (double)shared->longest / 1e6);
    bufpool_close(pool); /* or the mad one has said that it is closed */
    CHECK_OK(bufpool_handle_close(&handle));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    if (getenv("BUFPOOL_TEST_HEADERS") != NULL || getenv("BUFPOOL_TEST_SECONDS") != NULL) {
        alarm(0); /* each child is bounded */
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    headers();
    mad_peer();
    return 0;
}
