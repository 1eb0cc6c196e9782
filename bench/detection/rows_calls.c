/* rows_calls.c: buffers that are handed to system calls. */
#include "rows.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define TEXT "of the file"

static void failed(const char *call)
{
    say("failed", "%s: %s", call, strerror(errno));
}

static void two_ends(int ends[2])
{
    MUST(pipe2(ends, O_CLOEXEC) == 0);
}

static void read_into_a_freed_page(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    int ends[2];
    two_ends(ends);
    MUST(write(ends[1], TEXT, sizeof TEXT) == sizeof TEXT);
    if (bug) {
        layer_free(pool, VICTIM);
    } else {
        pin(pool, VICTIM, true);
    }
    bug_here(VICTIM, at);
    if (read(ends[0], at, sizeof TEXT) < 0) {
        failed("read");
        layer_explain(at, sizeof TEXT);
    }
    bug_over();
}

static void write_from_a_freed_page(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    int ends[2];
    two_ends(ends);
    if (bug) {
        layer_free(pool, VICTIM);
    } else {
        pin(pool, VICTIM, false);
    }
    bug_here(VICTIM, at);
    if (write(ends[1], at, 5) < 0) {
        failed("write");
        layer_explain(at, 5);
    }
    bug_over();
}

/* Three pages, the second of which is evicted. A short count is no error: what is left is asked for again. */
static void readv_over_an_evicted_page(bool bug)
{
    struct layer *pool = begin();
    struct iovec parts[3];
    int ends[2];
    two_ends(ends);
    static char content[3 * PAGE];
    MUST(write(ends[1], content, sizeof content) == sizeof content);
    for (int i = 0; i < 3; i++) {
        uint64_t page = (uint64_t)(VICTIM - 1 + i);
        if (i == 1 && bug) {
            MUST(layer_evict(pool, page) == 0);
        } else {
            pin(pool, page, true);
        }
        parts[i] = (struct iovec){layer_at(pool, page), PAGE};
    }
    bug_here(VICTIM, parts[1].iov_base);
    for (int next = 0; next < 3;) {
        ssize_t done = readv(ends[0], parts + next, 3 - next);
        if (done < 0) {
            failed("readv");
            for (int i = next; i < 3; i++) {
                if (layer_explain(parts[i].iov_base, PAGE)) {
                    say("iovec", "%d", i);
                }
            }
            break;
        }
        next += (int)(done / PAGE); /* whole pages: the pipe has so many */
    }
    bug_over();
}

#define BLOCKS 256 /* so that the device has something to do meanwhile */

static void fill_file(int fd)
{
    static char block[PAGE];
    memset(block, 'f', sizeof block);
    for (int i = 0; i < BLOCKS; i++) {
        MUST(write(fd, block, sizeof block) == sizeof block);
    }
    MUST(fsync(fd) == 0);
}

static long events_of(aio_context_t context, long least, struct io_event *event)
{
    struct timespec none = {0, 0};
    return syscall(SYS_io_getevents, context, least, 1L, event, least > 0 ? NULL : &none);
}

/* O_DIRECT by the kernel's asynchronous I/O: the page is freed while the device still writes to its frame. Whether it did,
 * is looked at afterwards; some tries may be needed. */
static void direct_read_in_flight(bool bug)
{
    char path[] = "detection-XXXXXX"; /* where the runner has put us */
    int plain = mkstemp(path);
    MUST(plain >= 0);
    fill_file(plain);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    MUST(unlink(path) == 0);
    if (fd < 0) {
        lacking("the file system of the folder for temporary files has no O_DIRECT: %s", strerror(errno));
    }
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, 1, &context) < 0) {
        lacking("no asynchronous I/O here: %s", strerror(errno));
    }
    struct layer *pool = begin_with("buffers", 1024, BLOCKS, false);
    static struct iovec parts[BLOCKS];
    for (int tries = 0; tries < 200; tries++) {
        uint64_t pages[BLOCKS];
        for (int i = 0; i < BLOCKS; i++) {
            pages[i] = add(pool);
            pin(pool, pages[i], true);
            parts[i] = (struct iovec){layer_at(pool, pages[i]), PAGE};
        }
        struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREADV,
                               .aio_fildes = (uint32_t)fd,
                               .aio_buf = (uintptr_t)parts,
                               .aio_nbytes = BLOCKS};
        struct iocb *requests[] = {&request};
        struct io_event event = {0};
        uint64_t page = pages[BLOCKS - 1];
        if (syscall(SYS_io_submit, context, 1L, requests) != 1) {
            lacking("no asynchronous O_DIRECT here: %s", strerror(errno));
        }
        bool flying;
        if (bug) {
            unpin(pool, page);
            layer_free(pool, page);
            flying = events_of(context, 0, &event) == 0;
        } else {
            flying = true;
        }
        bool last = flying || tries == 199;
        if (last && flying) {
            bug_here(page, layer_at(pool, page));
        }
        if (event.obj == 0) {
            MUST(events_of(context, 1, &event) == 1);
        }
        if ((int64_t)event.res != (int64_t)BLOCKS * PAGE) {
            say("failed", "io_getevents: %lld", (long long)event.res);
        }
        if (last) {
            if (!flying) {
                lacking("each of %d reads was over before its page was freed", tries + 1);
            }
            bug_over();
            return;
        }
        for (int i = 0; i < BLOCKS - 1; i++) {
            unpin(pool, pages[i]);
            layer_free(pool, pages[i]);
        }
    }
}

const struct row call_rows[] = {
    {17, read_into_a_freed_page},
    {18, write_from_a_freed_page},
    {19, readv_over_an_evicted_page},
    {35, direct_read_in_flight},
    ROWS_END,
};
