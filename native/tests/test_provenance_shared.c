/* Who did it, of a pool that several processes have: reports name the true one, whichever it is and whether it lives. */
#include "depot.h"
#include "guests.h"
#include "interned.h"
#include "pool.h"
#include "tables.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The thread sanitizer's runtime maps memory of its own where a child's pool is to be. */
#if defined(__SANITIZE_THREAD__)
#define INHERITS false
#else
#define INHERITS true
#endif

static bufpool_pool *pool; /* the parent's */
static const char *kept = "last";

static int32_t self(void)
{
    return (int32_t)syscall(SYS_gettid);
}

static void open_it(const char *fork)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16 * MIB;
    config.memory = "shared";
    config.trap = "uffd";
    config.on_fault = "resume";
    config.provenance = kept;
    config.fork = fork;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
}

static void close_it(void)
{
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

static bufpool_origin freed_of(const bufpool_pool *of, uint64_t page)
{
    bufpool_origin freed;
    CHECK_OK(bufpool_page_history(of, page, NULL, &freed));
    return freed;
}

/* ---- The other process is named ---- */

static bufpool_pool *used;
static int pids[2]; /* a pipe: who it was */

static void *free_7(void *argument)
{
    (void)argument;
    prctl(PR_SET_NAME, "worker");
    CHECK_OK(bufpool_free(used, 7));
    int32_t ids[2] = {(int32_t)getpid(), self()};
    CHECK_IS(write(pids[1], ids, sizeof ids), ==, sizeof ids);
    return NULL;
}

static void engine(void *attached)
{
    prctl(PR_SET_NAME, "engine");
    used = attached != NULL ? attach() : pool;
    CHECK_STRING(stats_of(used).provenance, kept);
    CHECK_IS(freed_of(used, 6).pid, ==, getppid()); /* the parent's, in the child's view */
    CHECK_STRING(freed_of(used, 6).process_name, "test_provenance");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(used, 6), &fault));
    CHECK_IS(fault.freed.thread_id, ==, getppid());
    CHECK_STRING(fault.process_name, "engine");
    CHECK_OK(bufpool_allocate_at(used, 7, "y", 1));
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, free_7, NULL));
    CHECK_OK(pthread_join(thread, NULL));
}

static void truth(bool attached)
{
    open_it(attached ? "exclude" : "inherit");
    for (uint64_t page = 6; page <= 7; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, "x", 1));
        CHECK_OK(bufpool_free(pool, page)); /* older events of the parent's own */
    }
    uint64_t before = freed_of(pool, 7).sequence;
    CHECK_OK(pipe2(pids, O_CLOEXEC));
    passes(engine, attached ? pool : NULL);
    int32_t ids[2];
    CHECK_IS(read(pids[0], ids, sizeof ids), ==, sizeof ids);
    close(pids[0]);
    close(pids[1]);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, 7), &fault)); /* whose process has ended */
    CHECK_IS(fault.freed.pid, ==, ids[0]);
    CHECK_IS(fault.freed.thread_id, ==, ids[1]);
    CHECK_STRING(fault.freed.thread_name, "worker");
    CHECK_STRING(fault.freed.process_name, "engine");
    CHECK_IS(fault.freed.sequence, ==, before + 2);
    CHECK_IS(fault.allocated.thread_id, ==, ids[0]);
    CHECK_STRING(fault.process_name, "test_provenance");
    CHECK_IS(fault.freed.time_ns, >=, fault.allocated.time_ns - 1000000);
    CHECK_IS(fault.freed.time_ns, <=, fault.time_ns + 1000000);
    char text[32768];
    char line[256];
    bufpool_format_text(&fault, text, sizeof text);
    snprintf(line, sizeof line, "  freed by thread %d \"worker\" of process %d \"engine\", 2", ids[1], ids[0]);
    CHECK_HAS(text, line);
    snprintf(line, sizeof line, "  allocated by thread %d \"engine\" of process %d, 2", ids[0], ids[0]);
    CHECK_HAS(text, line);
    bufpool_format_json(&fault, text, sizeof text);
    snprintf(line, sizeof line, "\"thread_id\":%d,\"thread_name\":\"worker\",\"pid\":%d,\"process_name\":\"engine\",",
             ids[1], ids[0]);
    CHECK_HAS(text, line);
    close_it();
    CHECK(traps_at(bufpool_address(pool, 7), &fault)); /* closed, and still known */
    CHECK_IS(fault.freed.pid, ==, ids[0]);
}

/* ---- Who closed it ---- */

static void outlive(void *argument)
{
    (void)argument;
    bufpool_pool *attached = attach();
    await_close();
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(attached, 9), &fault));
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_CLOSE);
    CHECK_IS(fault.freed.pid, ==, getppid());
    CHECK_OK(bufpool_close(attached));
    CHECK(traps_at((char *)bufpool_address(attached, 9) + 1, &fault));
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_CLOSE);
    CHECK_IS(fault.freed.pid, ==, getpid()); /* here by this process itself */
}

static void closing(void)
{
    open_it("exclude");
    CHECK_OK(bufpool_allocate_at(pool, 9, NULL, 0));
    close_amid(pool, outlive);
}

/* ---- Where, in another process ---- */

__attribute__((noinline)) static void make_room(bufpool_pool *of, uint64_t page)
{
    CHECK_OK(bufpool_free(of, page));
    __asm__ volatile("");
}

static void free_8(void *attached)
{
    bufpool_pool *mine = attached != NULL ? attach() : pool;
    CHECK_OK(bufpool_set_caller("engine.py:7 in make_room"));
    make_room(mine, 8);
}

/* It runs this very program, elsewhere in memory. */
static void execute(void *argument)
{
    char memory[16];
    char tables[16];
    snprintf(memory, sizeof memory, "%d", dup(handle.memory));
    snprintf(tables, sizeof tables, "%d", dup(handle.tables));
    execl(argument, argument, memory, tables, (char *)NULL);
    _exit(1);
}

static void check_stack(void (*function)(void *), void *argument)
{
    CHECK_OK(bufpool_allocate_at(pool, 8, NULL, 0));
    passes(function, argument);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, 8), &fault));
    CHECK_IS(fault.freed.pid, !=, getpid());
    CHECK_IS(fault.freed.stack_depth, >=, 2);
    CHECK_STRING(fault.freed.caller, "engine.py:7 in make_room");
    char text[32768];
    char line[256];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_HAS(text, "      engine.py:7 in make_room\n");
    if (fault.freed.foreign & 1) { /* a C library whose loader does not tell without a lock */
        snprintf(line, sizeof line, "    #0 0x%llx in process %d\n", (unsigned long long)fault.freed.stack[0],
                 fault.freed.pid);
    } else {
        uint64_t inside = fault.freed.stack[0] - (uint64_t)(uintptr_t)make_room;
        CHECK_IS(inside, <, 4096); /* the same place in this process, wherever it was in that one */
        snprintf(line, sizeof line, "    #0 0x%llx (/", (unsigned long long)fault.freed.stack[0]);
    }
    CHECK_HAS(text, line);
}

static void stacks(const char *program)
{
    kept = "stacks";
    open_it("inherit");
    if (INHERITS) {
        check_stack(free_8, NULL);
    }
    check_stack(free_8, pool);
    check_stack(execute, (void *)(uintptr_t)program);
    /* A module that this process has not got: the address as it was. */
    struct bp_provenance *mine = &pool->provenance;
    uint32_t module = bp_depot_text(mine->depot, "0x5000 /no/such/engine", 23);
    uint64_t frames[] = {0x7f0000001234, (uint64_t)module << 42 | 0x1234};
    atomic_store(&mine->stacks[8].id[BP_TAKEN], bp_depot_stack(mine->depot, frames, 2, 0));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at((char *)bufpool_address(pool, 8) + 1, &fault));
    CHECK_IS(fault.freed.stack_depth, ==, 1);
    CHECK_IS(fault.freed.foreign, ==, 1);
    char text[32768];
    char line[256];
    bufpool_format_text(&fault, text, sizeof text);
    snprintf(line, sizeof line, "    #0 0x7f0000001234 in process %d\n", fault.freed.pid);
    CHECK_HAS(text, line);
    bufpool_format_json(&fault, text, sizeof text);
    CHECK_HAS(text, "\"native_stack\":[\"0x7f0000001234\"]");
    close_it();
    kept = "last";
}

/* ---- What is in the file ---- */

/* Another mapping of the records: what a peer has. */
static struct bp_provenance peer;

static void map_as_peer(void)
{
    CHECK_OK(bp_provenance_open(&peer, &pool->pages.header->constants.provenance, pool->pages.count, handle.tables,
                                pool->pages.mapped));
}

static void scribble(void *place, size_t size, unsigned char byte)
{
    memset(place, byte, size);
}

static void *freer(void *argument)
{
    uint64_t page = (uint64_t)(uintptr_t)argument;
    CHECK_OK(bufpool_allocate_at(pool, page + 100, NULL, 0));
    usleep(1000); /* in the tick of its first call a number may have been either's */
    CHECK_OK(bufpool_free(pool, page));
    return NULL;
}

static void free_in_thread(uint64_t page)
{
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, freer, (void *)(uintptr_t)page));
    CHECK_OK(pthread_join(thread, NULL));
}

/* The table is full of threads that have ended, of others, and of writers who were killed. */
static void full_table(void)
{
    open_it("inherit");
    map_as_peer();
    for (uint64_t page = 0; page < 4; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    }
    struct bp_threads *threads = peer.threads;
    atomic_store(&threads->used, BP_INTERNED_THREADS - 1);
    for (uint32_t number = 2; number < BP_INTERNED_THREADS; number++) {
        struct bp_interned *entry = &threads->entries[number];
        atomic_store(&entry->pid, (int32_t)getpid());
        atomic_store(&entry->thread, self()); /* lives */
        atomic_store(&entry->space, atomic_load(&threads->entries[1].space));
        atomic_store(&entry->serial, number % 2 == 0 ? BP_INTERNED_ONE : BP_INTERNED_ONE | 5); /* or half written */
    }
    uint64_t lost = stats_of(pool).provenance_lost;
    free_in_thread(0);
    CHECK_IS(stats_of(pool).provenance_lost, ==, lost + 2);
    CHECK_IS(freed_of(pool, 0).thread_id, ==, 0); /* said to be unknown, not to be somebody else's */
    CHECK_IS(freed_of(pool, 0).pid, ==, 0);
    CHECK_IS(freed_of(pool, 0).sequence, >, 0);
    bp_interned_release(threads, 5); /* as when what killed members have left is repaired */
    free_in_thread(1);
    CHECK_IS(freed_of(pool, 1).pid, ==, getpid());
    CHECK_IS(stats_of(pool).provenance_lost, ==, lost + 2);
    for (uint32_t number = 2; number < BP_INTERNED_THREADS; number++) {
        atomic_store(&threads->entries[number].space, 1); /* of another pid namespace: perhaps they live */
        atomic_store(&threads->entries[number].thread, 1 << 30);
    }
    free_in_thread(2);
    CHECK_IS(freed_of(pool, 2).thread_id, ==, 0);
    bp_provenance_close(&peer);
    close_it();
}

/* Killed amid a record: nothing is said of that event, and the next one is recorded. */
static void killed_writer(void)
{
    open_it("inherit");
    map_as_peer();
    CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
    CHECK_OK(bufpool_free(pool, 3));
    atomic_store(&peer.records[3].when[BP_TAKEN], 0);
    CHECK_IS(freed_of(pool, 3).sequence, ==, 0);
    CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_IS(freed_of(pool, 3).sequence, ==, 4);
    bp_provenance_close(&peer);
    close_it();
}

/* Whatever is written there: no crash, no hang, no foreign memory, and text that ends. */
static void check_read(uint64_t page)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    char text[32768];
    fault.page_size = GRANULE;
    CHECK_OK(bufpool_page_history(pool, page, &fault.allocated, &fault.freed));
    CHECK_IS(fault.freed.stack_depth, <=, BUFPOOL_ORIGIN_DEPTH);
    CHECK(memchr(fault.freed.caller, 0, sizeof fault.freed.caller) != NULL);
    CHECK(memchr(fault.freed.thread_name, 0, sizeof fault.freed.thread_name) != NULL);
    CHECK(memchr(fault.freed.process_name, 0, sizeof fault.freed.process_name) != NULL);
    CHECK_IS(bufpool_format_text(&fault, text, sizeof text), ==, strlen(text));
    CHECK_IS(bufpool_format_json(&fault, text, sizeof text), ==, strlen(text));
}

static atomic_bool enough;

static void *mutate(void *argument)
{
    (void)argument;
    uint64_t random = 88172645463325252U;
    while (!atomic_load(&enough)) {
        for (int i = 0; i < 64; i++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            uint64_t word = random >> 60 == 0 ? UINT64_MAX : random >> 60 == 1 ? 0 : random >> (random & 56);
            uint64_t *places[] = {
                (uint64_t *)peer.records + random % 96,          (uint64_t *)peer.stacks + random % 32,
                (uint64_t *)peer.threads + random % 128,         (uint64_t *)peer.counts + random % 8,
                (uint64_t *)peer.depot->arena + random % 512,    (uint64_t *)peer.depot,
                (uint64_t *)peer.depot->slots + random % 262144,
            };
            atomic_store((_Atomic uint64_t *)places[random % 7], word);
        }
    }
    return NULL;
}

static void hostile(void)
{
    kept = "stacks";
    open_it("inherit");
    map_as_peer();
    CHECK_OK(bufpool_set_caller("a.py:1 in f"));
    for (unsigned byte = 0; byte < 256; byte += 51) {
        CHECK_OK(bufpool_allocate_at(pool, 5, NULL, 0));
        CHECK_OK(bufpool_free(pool, 5));
        scribble(&peer.records[5], sizeof *peer.records, (unsigned char)byte);
        scribble(&peer.stacks[5], sizeof *peer.stacks, (unsigned char)byte);
        check_read(5);
        scribble(peer.threads, 4096, (unsigned char)byte);
        check_read(5);
        scribble(peer.depot, 4096, (unsigned char)byte);
        scribble(peer.depot->arena, 4096, (unsigned char)byte);
        check_read(5);
        CHECK_OK(bufpool_allocate_at(pool, 6, NULL, 0));
        CHECK_OK(bufpool_free(pool, 6));
        check_read(6);
    }
    for (uint32_t id = 0; id < 64; id++) { /* the last bytes of the depot, and past them */
        atomic_store(&peer.stacks[5].id[BP_TAKEN], (uint32_t)(BP_DEPOT_BYTES / 8) + 32 - id);
        check_read(5);
    }
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, mutate, NULL));
    for (int i = 0; i < 3000; i++) {
        uint64_t page = (uint64_t)i % 16;
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
        CHECK_OK(bufpool_free(pool, page));
        check_read(page);
    }
    atomic_store(&enough, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(bufpool_set_caller(NULL));
    bp_provenance_close(&peer);
    close_it();
}

int main(int count, char **words)
{
    if (count == 3) {
        handle.memory = atoi(words[1]);
        handle.tables = atoi(words[2]);
        free_8(&handle);
        return 0;
    }
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd is not to be had: %s\n", last_error());
        return HARNESS_SKIP;
    }
    if (INHERITS) {
        truth(false);
    }
    truth(true);
    closing();
    stacks(words[0]);
    full_table();
    killed_writer();
    hostile();
    return 0;
}
