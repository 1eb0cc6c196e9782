/* library.h: finds the SQLite library of this process and changes the page cache that it is configured with. */
#ifndef BUFPOOL_SQLITE_LIBRARY_H
#define BUFPOOL_SQLITE_LIBRARY_H

#include "sqlite_abi.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sq_library {
    int (*config)(int operation, ...);
    int (*initialize)(void);
    int (*shutdown)(void);
    int (*version)(void);
    int64_t (*memory_used)(void);
    void *(*malloc)(int size);
    void (*free)(void *memory);
    void *handle; /* where dlsym() finds SQLite's functions */
    void *opened; /* the same, if it is ours to dlclose(); else NULL */
    char path[256];
} sq_library;

/* Fills in library from a file's name, or (NULL) a handle, or (NULL too) the one SQLite that is loaded. dlsym() on the
 * handle has to find SQLite's functions: in itself or in what it is linked to. Errors: EARGUMENT, EUNSUPPORTED, with a
 * sentence. */
int sq_library_find(sq_library *library, const char *file, void *handle);

void sq_library_release(sq_library *library);

/* Makes methods SQLite's page cache; old receives the one it had. An initialised SQLite is shut down for it, and
 * initialised again. Errors: ESTATE (connections are open), EUNSUPPORTED (that cannot be seen; SQLite refused); SQLite
 * is as it was. */
int sq_library_set_cache(const sq_library *library, const sqlite3_pcache_methods2 *methods,
                         sqlite3_pcache_methods2 *old);

/* Whether SQLite, not initialised at the moment, is going to use these methods. */
bool sq_library_has_cache(const sq_library *library, const sqlite3_pcache_methods2 *methods);

#endif
