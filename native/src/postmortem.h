/*
 * postmortem.h: what a debugger finds the pools by, in a running process or in the core dump of a dead one.
 *
 * gdb/bufpool_gdb.py reads the library's own structures without debug information: one block, in an ELF section of its
 * own (".bufpool", which stripping keeps and which each copy of the library in a process has), holds the head of the
 * list of pools and names the place of every field. Who reads it checks magic, version and size first. A field that is
 * new gets a name of its own; VERSION rises when an old name changes its meaning.
 */
#ifndef BP_POSTMORTEM_H
#define BP_POSTMORTEM_H

#include "depot.h"
#include "interned.h"
#include "pool.h"

#define BP_POSTMORTEM_MAGIC "bufpool layout"
#define BP_POSTMORTEM_VERSION 3
#define BP_POSTMORTEM_FIELDS 160

/* "pool.next": bytes from the start of the struct, and bytes. A size of 0: a constant, whose value is in offset. */
struct bp_postmortem_field {
    char name[24];
    uint32_t offset;
    uint32_t size;
};

struct bp_postmortem {
    char magic[16];
    uint32_t version;
    uint32_t size; /* of this block */
    char library[16];
    _Atomic(bufpool_pool *) pools; /* all descriptors; see bp_pool_first() */
    _Atomic int64_t epoch_ns;      /* CLOCK_REALTIME minus CLOCK_MONOTONIC, when a pool was opened last */
    struct bp_postmortem_field fields[BP_POSTMORTEM_FIELDS]; /* up to the first without a name */
};

extern struct bp_postmortem bp_postmortem;

/* When a pool is opened: notes how the clocks stand to each other. */
void bp_postmortem_note_time(void);

/* Shared tables are left out of core dumps: of those a dump holds a part from when the pool is opened, whatever ends the
 * process. */
void bp_postmortem_open(const bufpool_pool *pool);

/* Before the process dies of a stray access: what lies around it is to be in the core dump, and, of shared tables, all
 * that was ever touched, up to 128 MiB of each. Async-signal-safe. */
void bp_postmortem_dump(const bufpool_pool *pool, uint64_t page);

/* The same for the tables of every pool, before it dies of another fault. Async-signal-safe. */
void bp_postmortem_dump_tables(void);

#endif
