/*
 * The kernel refuses: each request of open, populate and zap fails at its n-th time, for every n. The error is of the
 * right class, nothing is leaked, and pool and process are usable afterwards.
 *
 * Linked with --wrap, so that the library's calls of bp_kernel_NAME arrive at __wrap_bp_kernel_NAME here.
 */
#include "harness.h"
#include "kernel.h"
#include "pool.h"
#include "ways.h"

/* ---- The requests, and which of them fails ---- */

enum request {
    MMAP,
    MMAP_FILE,
    MPROTECT,
    MADVISE,
    MEMFD,
    UFFD_OPEN,
    UFFD_REGISTER,
    UFFD_COPY,
    UFFD_ZERO,
    UFFD_MOVE,
    PWRITE,
    PUNCH,
    DISCARD,
    DISCARD_MANY,
    OPEN_LOG,
    REQUESTS
};

static enum request failing = REQUESTS;
static int countdown; /* the request fails when this has come down to 0 */
static int failure;   /* with this -errno */
static bool for_ever; /* and ever after */

static bool fails(enum request request)
{
    if (request != failing || countdown < 0) {
        return false;
    }
    if (countdown > 0) {
        countdown--;
    }
    bool now = countdown == 0;
    if (now && !for_ever) {
        countdown = -1;
    }
    return now;
}

#define WRAP(request, name, parameters, arguments) \
    int __real_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters \
    { \
        return fails(request) ? failure : __real_bp_kernel_##name arguments; \
    }

WRAP(MMAP, mmap, (void *hint, size_t length, int protection, int flags, int fd, void **address),
     (hint, length, protection, flags, fd, address))
WRAP(MPROTECT, mprotect, (void *address, size_t length, int protection), (address, length, protection))
WRAP(MADVISE, madvise, (void *address, size_t length, int advice), (address, length, advice))
WRAP(MEMFD, memfd, (const char *name, uint64_t length, uint64_t granule), (name, length, granule))
WRAP(UFFD_OPEN, uffd_open, (void), ())
WRAP(UFFD_REGISTER, uffd_register, (int uffd, uintptr_t address, size_t length), (uffd, address, length))
WRAP(MMAP_FILE, mmap_file,
     (void *hint, size_t length, int protection, int flags, int fd, uint64_t offset, void **address),
     (hint, length, protection, flags, fd, offset, address))
WRAP(PWRITE, pwrite, (int fd, const void *data, size_t size, uint64_t offset), (fd, data, size, offset))
WRAP(PUNCH, punch, (int fd, uint64_t offset, uint64_t length), (fd, offset, length))
WRAP(DISCARD, discard, (void *address, size_t length), (address, length))
WRAP(OPEN_LOG, open_log, (const char *path), (path))

/* These fail midway, as the kernel's do: half of it is done. */
int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    if (!fails(UFFD_COPY)) {
        return __real_bp_kernel_uffd_copy(uffd, to, from, length, done);
    }
    *done = 0;
    if (length > GRANULE) {
        __real_bp_kernel_uffd_copy(uffd, to, from, length / 2 / GRANULE * GRANULE, done);
        countdown = 0; /* the remainder, tried again, gives the reason */
    }
    return length > GRANULE ? -EAGAIN : failure;
}

int __real_bp_kernel_uffd_zero(int uffd, uintptr_t to, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_zero(int uffd, uintptr_t to, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_zero(int uffd, uintptr_t to, size_t length, size_t *done)
{
    *done = 0;
    return fails(UFFD_ZERO) ? failure : __real_bp_kernel_uffd_zero(uffd, to, length, done);
}

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    *done = 0;
    return fails(UFFD_MOVE) ? failure : __real_bp_kernel_uffd_move(uffd, to, from, length, done);
}

int __real_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);
int __wrap_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);
int __wrap_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done)
{
    if (!fails(DISCARD_MANY)) {
        return __real_bp_kernel_discard_many(ranges, count, done);
    }
    __real_bp_kernel_discard_many(ranges, count / 2, done);
    return failure;
}

/* ---- What a process has ---- */

static long mapped_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long pages = -1;
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return pages * 4096;
}

/* ---- The life of a pool, with one refusal somewhere ---- */

#define PAGES 24
#define PAGE_SIZE (3 * (uint64_t)GRANULE)
#define WHOLE(bytes) ((long)((bytes) + 4095) / 4096 * 4096)

static const char *memory, *trap;
static uint32_t flags;
static char *data;
static char log_path[] = "/tmp/bufpool-inject-XXXXXX";
static int refusals; /* errors seen in this life */

/* An error has to be that of the refusal, or the library's word for it. */
static bool refused(int code)
{
    if (code == 0) {
        return false;
    }
    CHECK(code == failure || code == BUFPOOL_EUNSUPPORTED || code == BUFPOOL_EEXHAUSTED);
    CHECK(failure == -ENOMEM || failure == -ENOSPC || code != BUFPOOL_EEXHAUSTED);
    CHECK(last_error()[0] != 0);
    refusals++;
    return true;
}

static void check_page(bufpool_pool *pool, uint64_t page, uint64_t source)
{
    if (data != NULL) {
        CHECK(memcmp(bufpool_address(pool, page), data + source * PAGE_SIZE, PAGE_SIZE) == 0);
    }
}

/* After a refused call everything is as it was: counted, and trapping. */
static void check_counts(bufpool_pool *pool, uint64_t allocated, uint64_t evicted)
{
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, allocated);
    CHECK_IS(s.evicted, ==, evicted);
    enum request keep = failing;
    failing = REQUESTS;
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_IS(traps_at((char *)bufpool_address(pool, page) + page % 3 * GRANULE, NULL), ==,
                 state_of(pool, page) != BUFPOOL_STATE_ALLOCATED);
    }
    failing = keep;
}

static void live(bufpool_pool *pool)
{
    uint64_t one, many[8];
    if (refused(bufpool_allocate(pool, data, data == NULL ? 0 : PAGE_SIZE, &one))) {
        check_counts(pool, 0, 0);
        CHECK_OK(bufpool_allocate(pool, data, data == NULL ? 0 : PAGE_SIZE, &one));
    }
    check_page(pool, one, 0);
    if (refused(bufpool_allocate_at(pool, 20, data, data == NULL ? 0 : 5000))) { /* short: in parts */
        check_counts(pool, 1, 0);
        CHECK_OK(bufpool_allocate_at(pool, 20, data, data == NULL ? 0 : 5000));
    }
    int code = data == NULL ? bufpool_allocate_many(pool, 8, many) : bufpool_allocate_filled(pool, 8, data, many);
    if (refused(code)) {
        check_counts(pool, 2, 0);
        CHECK_OK(data == NULL ? bufpool_allocate_many(pool, 8, many) : bufpool_allocate_filled(pool, 8, data, many));
    }
    for (uint64_t i = 0; i < 8; i++) {
        check_page(pool, many[i], i);
    }
    uint64_t scattered[] = {many[7], many[0], many[2], many[4]};
    if (refused(bufpool_evict_many(pool, 4, scattered))) {
        size_t done = bufpool_last_done();
        check_counts(pool, 10 - done, done);
        CHECK_OK(bufpool_evict_many(pool, 4 - done, scattered + done));
    }
    if (refused(bufpool_populate_many(pool, 4, scattered, data))) {
        check_counts(pool, 6, 4);
        CHECK_OK(bufpool_populate_many(pool, 4, scattered, data));
    }
    for (uint64_t i = 0; i < 4; i++) {
        check_page(pool, scattered[i], i);
    }
    if (refused(bufpool_free(pool, one))) {
        check_counts(pool, 10, 0);
        CHECK_OK(bufpool_free(pool, one));
    }
    if (refused(bufpool_free_many(pool, 8, many))) {
        size_t done = bufpool_last_done();
        check_counts(pool, 9 - done, 0);
        CHECK_OK(bufpool_free_many(pool, 8 - done, many + done));
    }
    if (refused(bufpool_free(pool, 20))) {
        CHECK_OK(bufpool_free(pool, 20));
    }
    check_counts(pool, 0, 0);
}

static void life(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * PAGE_SIZE;
    config.page_size = PAGE_SIZE;
    config.memory = memory;
    config.trap = trap;
    config.flags = flags;
    config.log = failing == OPEN_LOG ? log_path : NULL;
    bufpool_pool *const unset = (bufpool_pool *)&config;
    bufpool_pool *pool = unset;
    int fds = count_fds();
    long before = mapped_bytes();
    long rests = WHOLE(sizeof *pool); /* a descriptor, for this pool or the next */
    refusals = 0;
    if (refused(bufpool_open(&config, &pool))) {
        CHECK(pool == unset);
    } else {
        live(pool);
        CHECK_OK(bufpool_close(pool));
        /* A closed pool keeps its addresses, its log, and what it remembers of its faults. */
        rests += (long)config.capacity + WHOLE(BP_FAULT_RING * sizeof(struct bp_ring_entry));
        fds += config.log != NULL;
    }
    CHECK_IS(refusals, <=, 1);
    CHECK_IS(count_fds(), <=, fds);
    if (!SANITIZED) {
        CHECK_IS(mapped_bytes(), <=, before + rests);
    }
}

static void refuse_each(void)
{
    life(); /* what the process maps once and for all is not meant */
    static const int codes[REQUESTS][3] = {[MMAP] = {-ENOMEM},
                                           [MMAP_FILE] = {-ENOMEM},
                                           [MPROTECT] = {-ENOMEM},
                                           [MADVISE] = {-ENOMEM, -EINVAL},
                                           [MEMFD] = {-EMFILE, -ENOMEM, -ENOSYS},
                                           [UFFD_OPEN] = {-EPERM, -EMFILE, -ENOSYS},
                                           [UFFD_REGISTER] = {-ENOMEM, -EINVAL},
                                           [UFFD_COPY] = {-ENOMEM, -ENOSPC},
                                           [UFFD_ZERO] = {-ENOMEM},
                                           [UFFD_MOVE] = {-EBUSY, -ENOENT},
                                           [PWRITE] = {-ENOSPC, -ENOMEM},
                                           [PUNCH] = {-ENOMEM, -EPERM},
                                           [DISCARD] = {-ENOMEM},
                                           [DISCARD_MANY] = {-ENOSYS, -EAGAIN},
                                           [OPEN_LOG] = {-EACCES, -EMFILE}};
    for (int request = 0; request < REQUESTS; request++) {
        for (int c = 0; c < 3 && codes[request][c] != 0; c++) {
            failure = codes[request][c];
            int n = 0;
            do { /* until a life makes fewer than n such requests */
                failing = (enum request)request;
                countdown = ++n;
                for_ever = false;
                life();
                CHECK_IS(n, <, 500); /* it ends */
            } while (countdown <= 0);
            failing = REQUESTS;
            life();
            CHECK_IS(refusals, ==, 0);
        }
    }
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    char *content = malloc(8 * PAGE_SIZE);
    for (size_t i = 0; i < 8 * PAGE_SIZE; i++) {
        content[i] = (char)(i % 253 + i / 4096);
    }
    char *const sources[] = {content, NULL};
    static const uint32_t settings[] = {0, BUFPOOL_LAZY_ZERO};
    for (int i = 0; i < 3; i++) {
        data = sources[i > 0];
        flags = settings[i > 1];
        refuse_each();
    }
    free(content);
}

/* "auto" goes on where a mechanism is not supported, says why, and stops where resources are lacking. */
static void automatic(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    bufpool_pool *pool;
    static const int unsupported[] = {-EPERM, -ENOSYS, -EINVAL};
    for (int i = 0; i < 3; i++) {
        failing = UFFD_OPEN;
        failure = unsupported[i];
        countdown = 1;
        for_ever = true;
        CHECK_OK(bufpool_open(&config, &pool));
        bufpool_statistics s = stats_of(pool);
        CHECK(strcmp(s.trap, "uffd") != 0);
        CHECK_HAS(s.trap_note, "uffd: ");
        CHECK_HAS(s.trap_note, failure == -EPERM ? "seccomp" : failure == -ENOSYS ? "CONFIG_USERFAULTFD" : "5.11");
        CHECK(traps_at(bufpool_address(pool, 3), NULL));
        CHECK_OK(bufpool_close(pool));
    }
    failing = MADVISE; /* no guards either */
    failure = -EINVAL;
    countdown = 1;
    CHECK_IS(bufpool_open(&config, &pool), <, 0);
    failing = UFFD_OPEN;
    failure = -EMFILE;
    countdown = 1;
    CHECK_IS(bufpool_open(&config, &pool), ==, -EMFILE);
    CHECK_HAS(last_error(), "RLIMIT_NOFILE");
    failing = REQUESTS;
    for_ever = false;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_close(pool));
}

/* Where no scratch granule can be had, "resume" and "raise" end as "abort" does. */
static void no_scratch(void *argument)
{
    const char *on_fault = argument;
    bufpool_pool *pool = open_pool(memory, trap, on_fault, 8 * GRANULE, GRANULE);
    bool uffd = strcmp(trap, "uffd") == 0;
    failing = !uffd ? PWRITE : strcmp(memory, "anon") == 0 ? UFFD_COPY : MMAP; /* what others may have is pasted over */
    failure = -ENOMEM;
    countdown = 1;
    for_ever = true;
    read_byte(bufpool_address(pool, 3));
    fprintf(stderr, "went through\n");
}

static void scratch_cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    char *policies[] = {"resume", "raise"};
    for (int i = 0; i < 2; i++) {
        struct child child = run_child(no_scratch, policies[i]);
        CHECK_DIED(child, signal_of(trap));
        CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
        CHECK_CHILD(strstr(child.text, "went through") == NULL, child);
    }
}

int main(void)
{
    harness_begin();
    int fd = mkstemp(log_path);
    CHECK(fd >= 0);
    close(fd);
    bp_ways_choice = BP_CHOSEN | BP_FILL_KEPT | BP_ZAP_OUT; /* whatever is quicker on this machine */
    int code = for_each_cell(cell, false);
    if (code == 0 && bufpool_probe("anon", "uffd", NULL, 0) == 0) {
        bp_ways_choice = BP_CHOSEN | BP_ZAP_OUT;
        cell("anon", "uffd");
        bp_ways_choice = BP_CHOSEN;
        cell("anon", "uffd");
    }
    if (code == 0) {
        automatic();
        for_each_cell(scratch_cell, false);
    }
    unlink(log_path);
    return code;
}
