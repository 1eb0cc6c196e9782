/* layer_bufpool.c: the layer on bufpool, which BUFPOOL_OPTIONS switches, as in any program that opts in. */
#include "layer.h"

#include <bufpool/bufpool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct layer {
    bufpool_pool *pool;
    bufpool_handle handle;
};

static const char *sentence(void)
{
    static _Thread_local char text[1024];
    bufpool_last_error(text, sizeof text);
    return text;
}

/* What the library refuses, it says. */
static int said(int code)
{
    if (code != 0) {
        say("error", "%s", sentence());
    }
    return code == 0 ? 0 : -1;
}

static void must(int code)
{
    if (code == BUFPOOL_EUNSUPPORTED) {
        lacking("%s", sentence());
    }
    if (code != 0) {
        must_failed(__FILE__, __LINE__, sentence());
    }
}

static struct layer *make(void)
{
    struct layer *pool = calloc(1, sizeof *pool);
    MUST(pool != NULL);
    pool->handle = (bufpool_handle)BUFPOOL_HANDLE_INIT;
    return pool;
}

static bufpool_config config_from_environment(const char *name)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.name = name;
    must(bufpool_config_from_environment(&config));
    return config;
}

struct layer *layer_open(const char *name, uint64_t pages, bool shared)
{
    struct layer *pool = make();
    bufpool_config config = config_from_environment(name);
    config.capacity = pages * PAGE;
    config.memory = shared ? "shared" : config.memory;
    must(bufpool_open(&config, &pool->pool));
    return pool;
}

void layer_close(struct layer *pool)
{
    must(bufpool_close(pool->pool));
    free(pool);
}

void layer_send(struct layer *pool, int socket)
{
    must(bufpool_share(pool->pool, &pool->handle));
    char byte = 0;
    struct iovec part = {&byte, 1};
    int fds[] = {pool->handle.memory, pool->handle.tables};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof fds)];
    } control = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fds)};
    memcpy(CMSG_DATA(header), fds, sizeof fds);
    MUST(sendmsg(socket, &message, 0) == 1);
}

struct layer *layer_receive(int socket)
{
    char byte;
    struct iovec part = {&byte, 1};
    int fds[2];
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof fds)];
    } control = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    MUST(recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message) != NULL);
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fds);
    struct layer *pool = make();
    pool->handle.memory = fds[0];
    pool->handle.tables = fds[1];
    bufpool_config config = config_from_environment(NULL);
    must(bufpool_attach(&config, &pool->handle, &pool->pool));
    return pool;
}

uint64_t layer_allocate(struct layer *pool)
{
    uint64_t page;
    must(bufpool_allocate(pool->pool, NULL, 0, &page));
    return page;
}

int layer_free(struct layer *pool, uint64_t page)
{
    return said(bufpool_free(pool->pool, page));
}

int layer_evict(struct layer *pool, uint64_t page)
{
    return said(bufpool_evict(pool->pool, page));
}

int layer_populate(struct layer *pool, uint64_t page, const void *data, size_t size)
{
    return said(bufpool_populate(pool->pool, page, data, size));
}

int layer_pin(struct layer *pool, uint64_t page, bool write)
{
    return said(bufpool_pin(pool->pool, page, write));
}

int layer_unpin(struct layer *pool, uint64_t page)
{
    return said(bufpool_unpin(pool->pool, page));
}

char *layer_at(struct layer *pool, uint64_t page)
{
    return bufpool_address(pool->pool, page);
}

int layer_file(struct layer *pool, uint64_t page, off_t *offset)
{
    if (pool->handle.memory < 0) {
        must(bufpool_share(pool->pool, &pool->handle));
    }
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    must(bufpool_stats(pool->pool, &statistics));
    *offset = layer_at(pool, page) - layer_at(pool, 0) + (off_t)statistics.red_zone;
    return pool->handle.memory;
}

bool layer_explain(const void *at, size_t size)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (bufpool_explain(at, size, &fault) != BUFPOOL_ESTRAY) {
        return false;
    }
    static char text[16384];
    bufpool_format_text(&fault, text, sizeof text);
    say("explained", "\n%s", text);
    return true;
}

void layer_pattern(const void *at, size_t size)
{
    const char *pattern = bufpool_pattern(at, size);
    if (pattern[0] != '\0') {
        say("pattern", "%s", pattern);
    }
}

void layer_mark(struct layer *pool, uint64_t page, bool clean)
{
    must(clean ? bufpool_mark_clean(pool->pool, 1, &page) : bufpool_mark_dirty(pool->pool, 1, &page));
}

void layer_audit(struct layer *pool)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    must(bufpool_stats(pool->pool, &statistics));
    if (strcmp(statistics.audit, "off") == 0) {
        return;
    }
    bufpool_changed changed[4] = {{0}};
    size_t found = 0;
    must(bufpool_audit(pool->pool, 0, 4, changed, &found));
    for (size_t i = 0; i < found; i++) {
        say("audit", "page %llu is clean, and has changed", (unsigned long long)changed[i].page);
    }
}
