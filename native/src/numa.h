/* numa.h: which nodes of a machine the frames of a pool come from. */
#ifndef BP_NUMA_H
#define BP_NUMA_H

#include "kernel.h"

struct bp_numa {
    int mode; /* BP_NUMA_... */
    uint64_t nodes[BP_NODE_WORDS];
};

/* include/uapi/linux/mempolicy.h */
#define BP_NUMA_NONE 0 /* MPOL_DEFAULT: not asked for */
#define BP_NUMA_BIND 2
#define BP_NUMA_INTERLEAVE 3
#define BP_NUMA_LOCAL 4

/* Reads "interleave", "local" or a list of nodes ("0,2-3"); NULL: none. Errors: EARGUMENT, with a sentence. */
int bp_numa_parse(const char *text, struct bp_numa *numa);

/* Checks the nodes against those this process may use, and completes "interleave". note receives what came out as less
 * than asked (one node), or "". Errors: EARGUMENT, EUNSUPPORTED, with a sentence. */
int bp_numa_resolve(struct bp_numa *numa, const char *text, char *note, size_t size);

/* Sets the policy of a range and reads it back. Errors: -errno; -EREMCHG: the kernel took another policy. No sentence:
 * async-signal-safe. */
int bp_numa_apply(const struct bp_numa *numa, void *address, size_t length);

/* EUNSUPPORTED, with the sentence for such a code. */
int bp_numa_error(int code);

#endif
