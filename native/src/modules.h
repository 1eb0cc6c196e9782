/* modules.h: which file a code address comes from. */
#ifndef BP_MODULES_H
#define BP_MODULES_H

#include "lines.h"

#include <stddef.h>
#include <stdint.h>

struct bp_module {
    const char *path; /* NULL: not in a mapped file */
    uint64_t offset;  /* from the module's first mapping, as addr2line takes it for a position-independent file */
};

/* Room for the search: a handler has it elsewhere than on its stack. */
struct bp_modules_room {
    struct bp_lines lines;
    char line[512];
    char path[256];
};

/* Finds out what of the loader may be used in a handler. */
void bp_modules_prepare(void);

/* Finds the modules of count addresses, at most 64. From glibc 2.35 on the loader knows most of them without a lock
 * (_dl_find_object, as in stack.c); the others are looked up in one pass over /proc/self/maps, with plain system calls.
 * Paths go to names. Async-signal-safe. */
void bp_modules_find(const uint64_t *addresses, size_t count, struct bp_module *modules, char *names, size_t size,
                     struct bp_modules_room *room);

/* A module of this process, as its loader has it. size 0: not known. */
struct bp_module_range {
    const char *path; /* absolute; valid while the module is loaded */
    uint64_t start;
    uint64_t size;
};

/* The module in which an address lies. Async-signal-safe. */
struct bp_module_range bp_module_range_at(uint64_t address);

/* Where the module of that path and size begins; 0: it is not loaded, or not known. Async-signal-safe: the loader's list is
 * read without its lock, carefully. */
uint64_t bp_module_start(const char *path, uint64_t size);

/* The number in small hexadecimal digits at *at, which is moved behind it. */
uint64_t bp_module_hexadecimal(const char **at);

#endif
