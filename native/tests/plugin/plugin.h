/* plugin.h: what the plugin shows: a table of its own functions, none of which has the library's names. */
#ifndef PLUGIN_H
#define PLUGIN_H

#include <bufpool/bufpool.h>

struct plugin_table {
    bufpool_pool *pool;
    int (*open)(const char *memory, const char *trap, const char *on_fault);
    void *(*address)(const bufpool_pool *pool, uint64_t page);
    unsigned long long (*count_faults)(void);
    int (*stray)(void *address);
    int (*guard)(void *address); /* a stray access in a guarded call of the plugin's copy */
    int (*check)(bufpool_fault *fault);
    int (*install)(void);
};

BUFPOOL_API extern struct plugin_table plugin_table;

#endif
