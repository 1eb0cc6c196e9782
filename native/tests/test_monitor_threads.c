/* Threads that stray in system calls and by themselves on few pages at once, while others allocate and free these: every
 * access ends, every access outside of the moments that the header names is reported, and no content is ever lost. */
#include "monitor.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define THREADS 4
#define TOGETHER 24
#define PAGES 8

static bufpool_pool *pool;
static atomic_bool stop;
static atomic_ulong strays;
static pthread_barrier_t barrier;
static char *hole;

/* Each thread writes from the same page at the same time: all get EFAULT, and all are reported. */
static void *together(void *argument)
{
    int ends[2];
    (void)argument;
    CHECK_OK(pipe(ends));
    pthread_barrier_wait(&barrier);
    CHECK_IS(write(ends[1], hole + 1, 10), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    close(ends[0]);
    close(ends[1]);
    return NULL;
}

static void at_once(void)
{
    uint64_t page;
    pool = open_monitored("anon", "resume", MIB, GRANULE);
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_evict(pool, page));
    hole = bufpool_address(pool, page);
    char arguments[TOGETHER];
    CHECK_OK(pthread_barrier_init(&barrier, NULL, TOGETHER));
    run_threads(TOGETHER, together, arguments, 1);
    unsigned long seen = stats_of(pool).faults;
    printf("%lu of %d calls at once on one page were reported\n", seen, TOGETHER);
    CHECK(seen >= 1 && seen <= TOGETHER); /* while one call ends, others may fail unseen */
    CHECK_OK(bufpool_close(pool));
}

/* Reads and writes pages that come and go: by hand, and by calls. */
static void *stray(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument;
    int ends[2];
    CHECK_OK(pipe2(ends, O_NONBLOCK));
    char buffer[64];
    while (!atomic_load(&stop)) {
        char *at = (char *)bufpool_address(pool, next_random(&state) % PAGES) + next_random(&state) % (GRANULE - 64);
        if (next_random(&state) % 2) {
            ssize_t written = write(ends[1], at, 32);
            CHECK(written == 32 || (written == -1 && errno == EFAULT));
            atomic_fetch_add(&strays, written == -1);
            CHECK(written == -1 || read(ends[0], buffer, 32) == 32);
        } else {
            char byte;
            int code = bufpool_guarded_copy(&byte, at, 1, NULL);
            CHECK(code == 0 || code == BUFPOOL_ESTRAY);
            atomic_fetch_add(&strays, code != 0);
            CHECK(code != 0 || byte == 0x11 || (unsigned char)byte == BUFPOOL_POISON);
        }
    }
    close(ends[0]);
    close(ends[1]);
    return NULL;
}

static void *own(void *argument)
{
    char content[GRANULE];
    char copy[GRANULE];
    int fd = (int)(intptr_t)argument;
    memset(content, 0x11, sizeof content);
    for (int i = 0; i < 3000; i++) {
        uint64_t page;
        if (bufpool_allocate(pool, content, sizeof content, &page) != 0) {
            continue; /* all numbers taken, or just being re-armed */
        }
        char *at = bufpool_address(pool, page);
        CHECK_OK(memcmp(at, content, sizeof content));
        CHECK_IS(pwrite(fd, at, GRANULE, 0), ==, GRANULE); /* its own, so every call on it succeeds */
        CHECK_IS(pread(fd, copy, GRANULE, 0), ==, GRANULE);
        CHECK_OK(memcmp(copy, content, sizeof content));
        CHECK_OK(bufpool_free(pool, page));
    }
    atomic_store(&stop, true);
    return NULL;
}

static void coming_and_going(const char *memory)
{
    pthread_t threads[THREADS];
    pool = open_monitored(memory, "resume", PAGES * GRANULE, GRANULE);
    atomic_store(&stop, false);
    atomic_store(&strays, 0);
    int fd = memfd_create("data", MFD_CLOEXEC);
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(pthread_create(&threads[i], NULL, i == 0 ? own : stray, (void *)(intptr_t)(i == 0 ? fd : i)));
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    bufpool_statistics statistics = stats_of(pool);
    printf("memory %s: %lu strays seen by the threads, %llu reported, %llu repeats\n", memory, atomic_load(&strays),
           (unsigned long long)statistics.faults, (unsigned long long)statistics.repeats);
    CHECK(statistics.faults > 0);
    CHECK_OK(bufpool_close(pool));
    close(fd);
}

int main(void)
{
    harness_begin();
    if (!can_monitor()) {
        return HARNESS_SKIP;
    }

    at_once();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer takes a mapping that is renewed for written, and who strays there for a race\n");
        return 0;
    }
    coming_and_going("anon");
    coming_and_going("shared");
    return 0;
}
