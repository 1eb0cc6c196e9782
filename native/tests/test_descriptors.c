/* A host without descriptors 0, 1 and 2, as a daemon is: nothing of ours takes these numbers, so no message to stderr ends
 * up in a page or in the log. */
#include "harness.h"

struct cell {
    const char *memory;
    const char *trap;
    char log[64];
};

/* Ends with the number of the check that failed: there is no stderr to say it. */
static void without_standard_descriptors(void *argument)
{
    const struct cell *cell = argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    uint64_t precious, stray;
    close(0);
    close(1);
    close(2);
    config.capacity = MIB;
    config.memory = cell->memory;
    config.trap = cell->trap;
    config.on_fault = "resume";
    config.log = cell->log;
    if (bufpool_open(&config, &pool) != 0) {
        _exit(2);
    }
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) != -1) {
            _exit(10 + fd);
        }
    }
    if (bufpool_allocate(pool, "precious", 8, &precious) != 0 || bufpool_allocate(pool, NULL, 0, &stray) != 0 ||
        bufpool_free(pool, stray) != 0) {
        _exit(3);
    }
    read_byte(bufpool_address(pool, stray));
    if (memcmp(bufpool_address(pool, precious), "precious", 9) != 0) {
        _exit(4);
    }
    _exit(stats_of(pool).faults == 1 ? 0 : 5);
}

static void try_cell(const char *memory, const char *trap)
{
    struct cell cell = {memory, trap, "/tmp/bufpool-fds-XXXXXX"};
    int log = mkstemp(cell.log);
    CHECK(log >= 0);
    struct child child = run_child(without_standard_descriptors, &cell);
    unlink(cell.log);
    CHECK_PASSED(child);
    char text[16384];
    ssize_t length = read(log, text, sizeof text - 1);
    close(log);
    CHECK_IS(length, >, 0);
    text[length] = 0;
    CHECK_IS(text[0], ==, '{'); /* the one line of JSON, and no text before or after it */
    CHECK_IS(count_in(text, "\n"), ==, 1);
}

int main(void)
{
    harness_begin();
    return for_each_cell(try_cell, false);
}
