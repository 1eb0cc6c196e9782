/* library.c: finds SQLite by dlsym() and swaps its page cache, which takes shutting it down if it is initialised. */
#include "library.h"

#include "bufpool_sqlite.h"
#include "say.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

/* ---- Finding ---- */

/* The SQLite libraries that are loaded, by their file names. */
typedef struct loaded {
    size_t count;
    char first[256], second[256];
} loaded;

static int look_at(struct dl_phdr_info *info, size_t size, void *argument)
{
    loaded *found = argument;
    const char *slash = info->dlpi_name != NULL ? strrchr(info->dlpi_name, '/') : NULL;
    const char *name = slash != NULL ? slash + 1 : info->dlpi_name;
    (void)size;
    if (name == NULL || strncmp(name, "libsqlite3.so", strlen("libsqlite3.so")) != 0)
        return 0;
    if (found->count < 2)
        snprintf(found->count == 0 ? found->first : found->second, sizeof found->first, "%s", info->dlpi_name);
    found->count++;
    return 0;
}

static int find_loaded(sq_library *library, void **handle)
{
    loaded found = {.count = 0};
    dl_iterate_phdr(look_at, &found);
    if (found.count > 1)
        return sq_say(
            BUFPOOL_EARGUMENT,
            "this process has %zu SQLite libraries (%s, %s): name the one that is meant, or a library linked to it",
            found.count, found.first, found.second);
    if (found.count == 1)
        *handle = library->opened = dlopen(found.first, RTLD_LAZY | RTLD_NOLOAD);
    if (*handle == NULL)
        *handle = dlopen(NULL, RTLD_LAZY); /* a program that exports SQLite's functions, or a library of another name */
    if (*handle != NULL && dlsym(*handle, "sqlite3_config") != NULL)
        return 0;
    return sq_say(BUFPOOL_EUNSUPPORTED, "no dynamically linked SQLite is loaded in this process: load it first (import "
                                        "sqlite3), or name its file; an SQLite that is linked in statically cannot be "
                                        "reached");
}

static int resolve(sq_library *library, void *handle, const char *what)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"sqlite3_config", &library->config},
        {"sqlite3_initialize", &library->initialize},
        {"sqlite3_shutdown", &library->shutdown},
        {"sqlite3_libversion_number", &library->version},
        {"sqlite3_memory_used", &library->memory_used},
        {"sqlite3_malloc", &library->malloc},
        {"sqlite3_free", &library->free},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *symbol = dlsym(handle, symbols[i].name);
        if (symbol == NULL)
            return sq_say(
                BUFPOOL_EUNSUPPORTED,
                "%s has no %s to be found: it is not linked to SQLite dynamically (an SQLite that is linked in "
                "statically cannot be reached)",
                what, symbols[i].name);
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
    Dl_info info;
    if (dladdr((void *)library->config, &info) != 0 && info.dli_fname != NULL)
        snprintf(library->path, sizeof library->path, "%s", info.dli_fname);
    int version = library->version();
    if (version < SQLITE_VERSION_PCACHE2)
        return sq_say(BUFPOOL_EUNSUPPORTED, "SQLite %d.%d.%d (%s) is too old: 3.7.10 is the first with this page cache",
                      version / 1000000, version / 1000 % 1000, version % 1000, library->path);
    return 0;
}

int sq_library_find(sq_library *library, const char *file, void *handle)
{
    memset(library, 0, sizeof *library);
    const char *what = "the handle given";
    int result = 0;
    if (file != NULL) {
        what = file;
        handle = library->opened = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL)
            return sq_say(BUFPOOL_EARGUMENT, "the SQLite library cannot be loaded: %s", dlerror());
    } else if (handle == NULL) {
        what = "this process";
        result = find_loaded(library, &handle);
    }
    library->handle = handle;
    if (result == 0)
        result = resolve(library, handle, what);
    if (result < 0)
        sq_library_release(library);
    return result;
}

void sq_library_release(sq_library *library)
{
    if (library->opened != NULL)
        dlclose(library->opened);
    library->opened = NULL;
}

/* ---- The page cache ---- */

/* SQLite does not count its connections, but each holds memory, and SQLite counts that, unless told not to. */
static int check_unused(const sq_library *library)
{
    int64_t used = library->memory_used();
    if (used != 0)
        return sq_say(BUFPOOL_ESTATE,
                      "SQLite has %lld bytes in use: connections are open (or memory of sqlite3_malloc() is not yet "
                      "freed). Close all connections first, or do this before the first is opened",
                      (long long)used);
    void *memory = library->malloc(64);
    used = library->memory_used();
    library->free(memory);
    if (used == 0)
        return sq_say(BUFPOOL_EUNSUPPORTED,
                      "SQLite is initialised and counts no memory (SQLITE_DEFAULT_MEMSTATUS=0, or "
                      "SQLITE_CONFIG_MEMSTATUS off), so that it cannot be seen whether connections "
                      "are open: do this before SQLite is initialised");
    return 0;
}

int sq_library_set_cache(const sq_library *library, const sqlite3_pcache_methods2 *methods,
                         sqlite3_pcache_methods2 *old)
{
    int code = library->config(SQLITE_CONFIG_GETPCACHE2, old);
    bool initialised = code == SQLITE_MISUSE;
    if (initialised) {
        int result = check_unused(library);
        if (result < 0)
            return result;
        library->shutdown();
        code = library->config(SQLITE_CONFIG_GETPCACHE2, old);
    }
    if (code == SQLITE_OK)
        code = library->config(SQLITE_CONFIG_PCACHE2, methods);
    if (initialised) {
        int again = library->initialize();
        if (code == SQLITE_OK && again != SQLITE_OK) {
            library->shutdown(); /* of what did initialise, our page cache included */
            library->config(SQLITE_CONFIG_PCACHE2, old);
            library->initialize();
            code = again;
        }
    }
    if (code != SQLITE_OK)
        return sq_say(BUFPOOL_EUNSUPPORTED, "SQLite refused the page cache with result %d", code);
    return 0;
}

bool sq_library_has_cache(const sq_library *library, const sqlite3_pcache_methods2 *methods)
{
    sqlite3_pcache_methods2 now;
    return library->config(SQLITE_CONFIG_GETPCACHE2, &now) == SQLITE_OK && now.xFetch == methods->xFetch;
}
