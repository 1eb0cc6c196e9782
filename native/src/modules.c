/* modules.c: looking addresses up, in the loader's tables or in /proc/self/maps, see modules.h. */
#include "modules.h"

#include "probe.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define MODULES_MOST 4096 /* of the loader's list, which may be changing */

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

uint64_t bp_module_hexadecimal(const char **at)
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
    uint64_t start = bp_module_hexadecimal(&at);
    at += *at == '-';
    uint64_t end = bp_module_hexadecimal(&at);
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
        bool wanted = search->modules[i].path == NULL && start <= search->addresses[i] && search->addresses[i] < end;
        if (wanted && keep(search) != NULL) {
            search->modules[i].path = search->kept;
            search->modules[i].offset = search->addresses[i] - search->base;
        }
    }
}

static void search_maps(struct search *search, struct bp_modules_room *with)
{
    if (bp_lines_open(&with->lines, "/proc/thread-self/maps") < 0) {
        return;
    }
    while (bp_lines_next(&with->lines, with->line, sizeof with->line) > 0) {
        take_line(search, with->line);
    }
    bp_lines_close(&with->lines);
}

/* ---- The loader's own answer, where it has one without a lock (glibc 2.35) ---- */

#ifdef DLFO_STRUCT_HAS_EH_DBASE

static int (*find_object)(void *, struct dl_find_object *);
static char program[256]; /* the loader calls the program "" */

void bp_modules_prepare(void)
{
    if (find_object == NULL) {
        ssize_t length = readlink("/proc/thread-self/exe", program, sizeof program - 1);
        program[length < 0 ? 0 : length] = 0;
        *(void **)&find_object = dlsym(RTLD_DEFAULT, "_dl_find_object");
    }
}

/* The copy of the path of the module that begins at base, if one of the first n addresses is in it. */
static const char *known_path(const struct search *search, size_t n, uint64_t base)
{
    for (size_t i = 0; i < n; i++) {
        const struct bp_module *module = &search->modules[i];
        if (module->path != NULL && search->addresses[i] - module->offset == base) {
            return module->path;
        }
    }
    return NULL;
}

/* Looks up address n. */
static bool ask_loader(struct search *search, size_t n)
{
    struct dl_find_object found;
    if (find_object == NULL || find_object((void *)(uintptr_t)search->addresses[n], &found) != 0) {
        return false;
    }
    const char *path = found.dlfo_link_map->l_name[0] == 0 ? program : found.dlfo_link_map->l_name;
    uint64_t base = (uint64_t)(uintptr_t)found.dlfo_map_start;
    search->kept = known_path(search, n, base);
    if (search->kept == NULL) {
        if (path[0] != '/') {
            return false; /* as it was given to dlopen(): only the kernel knows the whole of it */
        }
        size_t length = strnlen(path, search->path_size - 1);
        memcpy(search->path, path, length);
        search->path[length] = 0;
    }
    search->modules[n].path = keep(search);
    search->modules[n].offset = search->addresses[n] - base;
    return search->modules[n].path != NULL;
}

struct bp_module_range bp_module_range_at(uint64_t address)
{
    struct dl_find_object found;
    if (find_object == NULL || find_object((void *)(uintptr_t)address, &found) != 0) {
        return (struct bp_module_range){0};
    }
    const char *path = found.dlfo_link_map->l_name[0] == 0 ? program : found.dlfo_link_map->l_name;
    uint64_t start = (uint64_t)(uintptr_t)found.dlfo_map_start;
    uint64_t size = (uint64_t)(uintptr_t)found.dlfo_map_end - start;
    return (struct bp_module_range){path, start, path[0] == '/' ? size : 0};
}

uint64_t bp_module_start(const char *path, uint64_t size)
{
    struct dl_find_object found;
    struct link_map map;
    if (find_object == NULL || find_object((void *)(uintptr_t)bp_module_start, &found) != 0) {
        return 0;
    }
    const struct link_map *at = found.dlfo_link_map;
    for (int i = 0; i < MODULES_MOST && bp_probe_copy(&map, at, sizeof map) && map.l_prev != NULL; i++) {
        at = map.l_prev;
    }
    for (int i = 0; i < MODULES_MOST && at != NULL && bp_probe_copy(&map, at, sizeof map); i++, at = map.l_next) {
        struct bp_module_range module = bp_module_range_at((uint64_t)(uintptr_t)map.l_ld);
        if (module.size == size && size > 0 && strcmp(module.path, path) == 0) {
            return module.start;
        }
    }
    return 0;
}

#else

struct bp_module_range bp_module_range_at(uint64_t address)
{
    (void)address;
    return (struct bp_module_range){0};
}

uint64_t bp_module_start(const char *path, uint64_t size)
{
    (void)path;
    (void)size;
    return 0;
}

void bp_modules_prepare(void)
{
}

static bool ask_loader(struct search *search, size_t n)
{
    (void)search;
    (void)n;
    return false;
}

#endif

void bp_modules_find(const uint64_t *addresses, size_t count, struct bp_module *modules, char *names, size_t size,
                     struct bp_modules_room *with)
{
    struct search search = {addresses, count, modules, names, size, with->path, sizeof with->path, 0, NULL};
    with->path[0] = 0;
    memset(modules, 0, count * sizeof *modules);
    size_t known = 0;
    for (size_t i = 0; i < count; i++) {
        known += ask_loader(&search, i);
    }
    if (known < count) {
        search.kept = NULL;
        search.path[0] = 0;
        search_maps(&search, with);
    }
}
