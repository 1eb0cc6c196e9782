/* layer_sqlite.h: the page cache that SQLite gets from a detector's layer. */
#ifndef DETECTION_LAYER_SQLITE_H
#define DETECTION_LAYER_SQLITE_H

#include "layer.h"

#include <sqlite_abi.h>

/* Before SQLite is initialised. handle is that of dlopen(), config its sqlite3_config(). */
void layer_sqlite_install(void *handle, int (*config)(int operation, ...));

/* The number that a report has to name for a page of SQLite's at this address, whose number is key to SQLite. */
uint64_t layer_sqlite_page(const void *at, unsigned key);

#endif
