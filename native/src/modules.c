/* modules.c: looking addresses up in /proc/self/maps, see modules.h. */
#include "modules.h"

#include "kernel.h"

#include <stdbool.h>
#include <string.h>

struct search {
    const uint64_t *addresses;
    size_t count;
    struct bp_module *modules;
    char *names;
    size_t room;
    /* The file whose mappings pass by, and where its first one began. */
    char *path;
    size_t path_size;
    uint64_t base;
    const char *kept; /* the copy of path in names, once somebody needed it */
};

static uint64_t hexadecimal(const char **at)
{
    uint64_t value = 0;
    for (;; ++*at) {
        char c = **at;
        if (c >= '0' && c <= '9') {
            value = value * 16 + (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            value = value * 16 + (uint64_t)(c - 'a' + 10);
        } else {
            return value;
        }
    }
}

static void skip_field(const char **at)
{
    while (**at != 0 && **at != ' ') {
        ++*at;
    }
    while (**at == ' ') {
        ++*at;
    }
}

static const char *keep(struct search *search)
{
    size_t size = strlen(search->path) + 1;
    if (search->kept == NULL && size <= search->room) {
        memcpy(search->names, search->path, size);
        search->kept = search->names;
        search->names += size;
        search->room -= size;
    }
    return search->kept;
}

/* "start-end perms offset device inode   path" */
static void take_line(struct search *search, const char *line)
{
    const char *at = line;
    uint64_t start = hexadecimal(&at);
    at += *at == '-';
    uint64_t end = hexadecimal(&at);
    at += *at == ' ';
    for (int field = 0; field < 4; field++) {
        skip_field(&at);
    }
    if (*at != '/' && *at != '[') {
        return; /* anonymous: also the gap between the parts of one file */
    }
    if (strncmp(at, search->path, search->path_size - 1) != 0) {
        size_t length = strlen(at);
        length = length < search->path_size ? length : search->path_size - 1;
        memcpy(search->path, at, length);
        search->path[length] = 0;
        search->base = start;
        search->kept = NULL;
    }
    for (size_t i = 0; i < search->count; i++) {
        if (start <= search->addresses[i] && search->addresses[i] < end && keep(search) != NULL) {
            search->modules[i].path = search->kept;
            search->modules[i].offset = search->addresses[i] - search->base;
        }
    }
}

void bp_modules_find(const uint64_t *addresses, size_t count, struct bp_module *modules, char *names, size_t size,
                     struct bp_modules_room *with)
{
    struct search search = {addresses, count, modules, names, size, with->path, sizeof with->path, 0, NULL};
    with->path[0] = 0;
    memset(modules, 0, count * sizeof *modules);
    int fd = bp_kernel_open_read("/proc/self/maps");
    if (fd < 0) {
        return;
    }
    size_t length = 0;
    ssize_t got;
    while ((got = bp_kernel_read(fd, with->chunk, sizeof with->chunk)) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            if (with->chunk[i] == '\n') {
                with->line[length] = 0;
                take_line(&search, with->line);
                length = 0;
            } else if (length < sizeof with->line - 1) {
                with->line[length++] = with->chunk[i];
            }
        }
    }
    bp_kernel_close(fd);
}
