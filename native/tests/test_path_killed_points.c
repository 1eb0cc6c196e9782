/* The last process that has a pool on a path, whose opener was killed, is killed itself while it closes the pool, after each
 * store: who has a handle finds the pool whole or closed, and who opens the path again gets a new one. */
#include "clean.h"
#include "paths.h"
#include "point.h"

#include <string.h>
#include <sys/wait.h>

#define CLOSED "closed for all by the last"

static char path[400];
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;
static struct shared {
    uint64_t countdown; /* 0: immortal */
    char name[32];      /* after which the last one was killed */
} *shared;

int __real_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    return __real_bp_kernel_punch(fd, offset, length);
}

void bp_stored(const struct bp_point *point)
{
    if (shared != NULL && shared->countdown > 0 && --shared->countdown == 0) {
        memcpy(shared->name, point->name, sizeof shared->name);
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    }
}

static pid_t begin(int ready[2])
{
    CHECK_OK(pipe2(ready, O_CLOEXEC));
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
    }
    return pid;
}

static void await_and_kill(pid_t pid)
{
    CHECK_OK(kill(pid, SIGKILL));
    CHECK_IS(waitpid(pid, NULL, 0), ==, pid);
}

/* false: it lived to the end. */
static bool close_and_die(uint64_t nth)
{
    int ready[2];
    char byte = 0;
    pid_t opener = begin(ready);
    if (opener == 0) {
        bufpool_config config = path_config(path, 4, BUFPOOL_DISCARD);
        bufpool_pool *pool = NULL;
        config.trap = "uffd";
        config.fork = "exclude";
        CHECK_OK(bufpool_open(&config, &pool));
        CHECK_OK(bufpool_allocate_at(pool, 0, "kept", 5));
        CHECK_IS(write(ready[1], &byte, 1), ==, 1);
        for (;;) {
            pause();
        }
    }
    CHECK_IS(read(ready[0], &byte, 1), ==, 1);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.memory = path;
    config.fork = "exclude";
    config.on_fault = "resume";
    CHECK_OK(
        bufpool_attach(&config, NULL, &pool)); /* for its handle, which keeps nobody among those who have the pool */
    CHECK_OK(bufpool_share(pool, &handle));
    CHECK_OK(bufpool_close(pool));
    int attached[2];
    pid_t last = begin(attached);
    if (last == 0) {
        CHECK_OK(bufpool_attach(&config, &handle, &pool));
        CHECK_IS(write(attached[1], &byte, 1), ==, 1);
        CHECK_IS(read(ready[0], &byte, 1), ==, 1); /* until the opener is gone */
        shared->countdown = nth;
        CHECK_OK(bufpool_close(pool));
        shared->countdown = 0;
        _exit(0);
    }
    CHECK_IS(read(attached[0], &byte, 1), ==, 1);
    await_and_kill(opener);
    CHECK_IS(write(ready[1], &byte, 1), ==, 1);
    int status;
    CHECK_IS(waitpid(last, &status, 0), ==, last);
    CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(attached[i]);
    }
    return status != 0;
}

/* What those find who come now. */
static void look_after(bool killed)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.fork = "exclude";
    config.on_fault = "resume";
    int code = bufpool_attach(&config, &handle, &pool);
    bool closed = !killed || strcmp(shared->name, CLOSED) == 0;
    CHECK_IS(code, ==, closed ? BUFPOOL_ECLOSED : 0);
    if (code == 0) {
        CHECK_STRING((char *)bufpool_address(pool, 0), "kept");
        check_clean(pool, 1);
        CHECK_OK(bufpool_close(pool)); /* the last one now */
    }
    CHECK_OK(bufpool_handle_close(&handle));
    bool emptied = code == 0 || !killed;
    CHECK_IS(look_at(path).st_blocks == 0, ==, emptied);
    CHECK_IS(try_path(path, 4, 0, &pool), ==, emptied ? 0 : BUFPOOL_EARGUMENT);
    pool = emptied ? pool : open_path(path, 4, BUFPOOL_DISCARD);
    CHECK(traps_at(bufpool_address(pool, 0), NULL));
    use_pool(pool);
    CHECK_OK(bufpool_close(pool));
}

static int body(void)
{
    if (no_huge_directory()) {
        return HARNESS_SKIP;
    }
    if (bufpool_probe(huge_directory, "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("path/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    snprintf(path, sizeof path, "%s", path_of("killed"));
    int killed = 0;
    int after_closed = 0;
    for (bool dies = true; dies;) {
        dies = close_and_die((uint64_t)killed + 1);
        look_after(dies);
        killed += dies;
        after_closed += dies && strcmp(shared->name, CLOSED) == 0;
    }
    printf("%d killed while they closed the pool as the last one, %d of them after it was closed for all\n", killed,
           after_closed);
    CHECK_IS(after_closed, ==, 1);
    CHECK_OK(unlink(path));
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
