/*
 * tables.h: page states and index of memory that several processes have: a file (a sealed memfd) that all of them map.
 *
 * The file is a header, one entry for each process that has the pool (roster.h), what pages.h describes, then what
 * provenance.h does, which is mapped by itself and stays when the pool is closed. What the
 * header says of the pool never changes, has a checksum, and is copied, then checked, then used: a peer may write to the
 * file at any time. What does change is read so that no value in it can lead out of the tables or into an endless loop.
 */
#ifndef BP_TABLES_H
#define BP_TABLES_H

#include "pages.h"
#include "provenance.h"

#define BP_TABLES_MAGIC UINT64_C(0x6c6f6f7066756201) /* "\1bufpool" */
#define BP_TABLES_VERSION 4
#define BP_TABLES_NAME "bufpool-tables" /* of the memfd: who looks for it sees "/memfd:bufpool-tables" */
#define BP_TABLES_ALONE 0x80000000u     /* of the flags: the trap works in the process that opened the pool only */
#define BP_TABLES_FRESH 0x40000000u     /* of the flags: fill is "pattern" */
#define BP_MEMBER_SCRATCH 64            /* pages that a process may show the scratch pattern on; BP_SCRATCH_SLOTS */

/* What is fixed when the pool is opened. */
struct bp_constants {
    uint64_t magic;
    uint32_t version;
    uint32_t size;        /* of struct bp_header, bytes */
    uint32_t members;     /* entries */
    uint32_t member_size; /* bytes of one */
    uint64_t file_size;   /* bytes of all */
    uint64_t capacity;    /* bytes, as the two that follow */
    uint64_t page_size;
    uint64_t granule;
    uint64_t base;      /* the pool's address in the process that opened it */
    uint64_t file[2];   /* device and inode of the memory */
    uint64_t pid_space; /* inode of the pid namespace of the process that opened it */
    uint32_t flags;     /* BUFPOOL_LAZY_ZERO, _RESERVE, _SCRUB, BP_TABLES_ALONE, _FRESH */
    int32_t pid;        /* that opened it */
    char name[64];
    char memory[64]; /* as in reports: "shared", "hugetlb", or the path, cut */
    struct bp_provenance_terms provenance;
    uint64_t rest;     /* pages in quarantine at most, see rest.h */
    uint64_t checksum; /* FNV-1a of all before it */
};

struct bp_header {
    struct bp_constants constants;
    _Alignas(64) struct bp_counts counts;
};

struct bp_member {
    _Atomic uint32_t present; /* 1 from when all else is written until it leaves, or is found dead and repaired */
    _Atomic int32_t pid;
    _Atomic uint64_t
        started; /* by /proc/PID/stat, ticks since boot; with the pid, what tells it from a later process */
    _Atomic uint64_t name[2]; /* of the process's main thread */
    _Atomic uint64_t faults;
    _Atomic uint64_t scratch[BP_MEMBER_SCRATCH]; /* page + 1 where it shows the scratch pattern, or 0 */
};

/* Makes the file and maps it, for constants of which capacity, page_size, granule, provenance and rest are set. Errors: -errno. */
int bp_tables_create(struct bp_pages *pages, struct bp_constants *constants);

/* Where in the file provenance is. */
uint64_t bp_tables_provenance(const struct bp_constants *constants);

/* Writes the header, when all of the constants are known; from then on others can use the file. */
void bp_tables_publish(struct bp_pages *pages, struct bp_constants *constants);

/* Copies the header's constants from a file that somebody handed over, and checks all that can be checked without the
 * memory. Errors: EARGUMENT with a sentence, -errno with one. */
int bp_tables_read(int fd, struct bp_constants *constants);

/* Maps a file whose constants were read. Errors: -errno. */
int bp_tables_map(struct bp_pages *pages, int fd, const struct bp_constants *constants);

#endif
