/*
 * Two threads read the same page numbers from different files, and a third looks: it finds a hole or a whole page, of one file
 * or the other, never a mixture and never zeros.
 */
#include "harness.h"

#include <stdatomic.h>

#define PAGES 8
#define ROUNDS 2000

static bufpool_pool *pool;
static atomic_bool over;

static int make_file(uint64_t value)
{
    int fd = memfd_create("data", MFD_CLOEXEC);
    CHECK(fd >= 0);
    uint64_t words[GRANULE / 8];
    for (size_t i = 0; i < GRANULE / 8; i++) {
        words[i] = value;
    }
    for (int i = 0; i < PAGES; i++) {
        CHECK_IS(pwrite(fd, words, GRANULE, (off_t)i * GRANULE), ==, GRANULE);
    }
    return fd;
}

struct reader {
    uint64_t value;
    int fd;
};

static void *read_and_free(void *argument)
{
    const struct reader *reader = argument;
    uint64_t pages[PAGES], offsets[PAGES];
    for (uint64_t i = 0; i < PAGES; i++) {
        pages[i] = i;
        offsets[i] = i * GRANULE;
    }
    for (int round = 0; round < ROUNDS; round++) {
        int results[PAGES];
        int code = bufpool_read_from(pool, reader->fd, PAGES, offsets, pages, results);
        CHECK(code == 0 || code == BUFPOOL_ESTATE);
        for (uint64_t i = 0; i < PAGES; i++) {
            CHECK(results[i] == 0 || results[i] == BUFPOOL_ESTATE);
            if (results[i] == 0) { /* ours */
                const uint64_t *words = bufpool_address(pool, i);
                CHECK_IS(words[0], ==, reader->value);
                CHECK_OK(bufpool_free(pool, i));
            }
        }
    }
    return NULL;
}

static void *look(void *argument)
{
    (void)argument;
    for (uint64_t i = 0; !atomic_load(&over); i = (i + 1) % PAGES) {
        uint64_t word;
        const char *page = bufpool_address(pool, i);
        if (bufpool_guarded_copy(&word, page + i * 64, sizeof word, NULL) == 0) {
            CHECK(word == 0x1111 || word == 0x2222);
        }
    }
    return NULL;
}

int main(void)
{
    harness_begin();
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.on_fault = "raise";
    CHECK_OK(bufpool_open(&config, &pool));
    struct reader readers[] = {{0x1111, make_file(0x1111)}, {0x2222, make_file(0x2222)}};
    pthread_t first, second, third;
    CHECK_OK(pthread_create(&third, NULL, look, NULL));
    CHECK_OK(pthread_create(&first, NULL, read_and_free, &readers[0]));
    CHECK_OK(pthread_create(&second, NULL, read_and_free, &readers[1]));
    CHECK_OK(pthread_join(first, NULL));
    CHECK_OK(pthread_join(second, NULL));
    atomic_store(&over, true);
    CHECK_OK(pthread_join(third, NULL));
    CHECK_OK(close(readers[0].fd));
    CHECK_OK(close(readers[1].fd));
    CHECK_OK(bufpool_close(pool));
    return 0;
}
