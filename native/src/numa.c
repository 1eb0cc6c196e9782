/* numa.c: memory policies, see numa.h. */
#include "numa.h"

#include "error.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFERRED 1 /* MPOL_PREFERRED without nodes: what kernels before 5.14 call local */

static bool has(const uint64_t *nodes, unsigned node)
{
    return nodes[node / 64] >> (node % 64) & 1;
}

static int malformed(const char *text)
{
    return bp_error(
        BUFPOOL_EARGUMENT,
        "numa is \"%.100s\": it has to be \"interleave\", \"local\", or a list of nodes below %d such as \"0,2-3\"",
        text, BP_NODES);
}

/* One number of a list; false if there is none. */
static bool read_node(const char **at, unsigned long *node)
{
    if (**at < '0' || **at > '9') {
        return false;
    }
    char *end;
    *node = strtoul(*at, &end, 10);
    *at = end;
    return *node < BP_NODES;
}

int bp_numa_parse(const char *text, struct bp_numa *numa)
{
    memset(numa, 0, sizeof *numa);
    if (text == NULL) {
        return 0;
    }
    if (strcmp(text, "interleave") == 0 || strcmp(text, "local") == 0) {
        numa->mode = text[0] == 'i' ? BP_NUMA_INTERLEAVE : BP_NUMA_LOCAL;
        return 0;
    }
    numa->mode = BP_NUMA_BIND;
    for (const char *at = text;; at++) {
        unsigned long first;
        if (!read_node(&at, &first)) {
            return malformed(text);
        }
        unsigned long last = first;
        if (*at == '-') {
            at++;
            if (!read_node(&at, &last) || last < first) {
                return malformed(text);
            }
        }
        for (unsigned long node = first; node <= last; node++) {
            numa->nodes[node / 64] |= UINT64_C(1) << (node % 64);
        }
        if (*at == 0) {
            return 0;
        }
        if (*at != ',') {
            return malformed(text);
        }
    }
}

static void list_nodes(const uint64_t *nodes, char *buffer, size_t size)
{
    size_t length = 0;
    buffer[0] = 0;
    for (unsigned node = 0; node < BP_NODES && length < size; node++) {
        if (has(nodes, node)) {
            length += (size_t)snprintf(buffer + length, size - length, "%s%u", length > 0 ? "," : "", node);
        }
    }
}

static int refused(int code, const char *what)
{
    return bp_error(BUFPOOL_EUNSUPPORTED,
                    "%s is refused (%s), as by a container's seccomp profile: allow it, or leave numa out", what,
                    strerror(-code));
}

int bp_numa_resolve(struct bp_numa *numa, const char *text, char *note, size_t size)
{
    uint64_t allowed[BP_NODE_WORDS] = {0};
    char list[128];
    note[0] = 0;
    if (numa->mode == BP_NUMA_NONE) {
        return 0;
    }
    int code = bp_kernel_get_mempolicy(NULL, NULL, allowed);
    if (code == -ENOSYS) {
        allowed[0] = 1; /* a kernel without NUMA has node 0 */
    } else if (code < 0) {
        return refused(code, "get_mempolicy");
    }
    list_nodes(allowed, list, sizeof list);
    unsigned count = 0;
    for (unsigned node = 0; node < BP_NODES; node++) {
        count += has(allowed, node);
        if (has(numa->nodes, node) && !has(allowed, node)) {
            return bp_error(BUFPOOL_EARGUMENT, "numa is \"%s\": this process may use node %s, and not %u", text, list,
                            node);
        }
    }
    if (numa->mode == BP_NUMA_INTERLEAVE) {
        memcpy(numa->nodes, allowed, sizeof allowed);
    }
    if (count == 1) {
        snprintf(note, size, "numa \"%s\" changes nothing: this process may use one node, %s", text, list);
    }
    if (code == -ENOSYS) {
        numa->mode = BP_NUMA_NONE;
    }
    return 0;
}

int bp_numa_apply(const struct bp_numa *numa, void *address, size_t length)
{
    if (numa->mode == BP_NUMA_NONE) {
        return 0;
    }
    int mode = -1;
    uint64_t nodes[BP_NODE_WORDS] = {0};
    int code = bp_kernel_mbind(address, length, numa->mode, numa->nodes);
    if (code == 0) {
        code = bp_kernel_get_mempolicy(address, &mode, nodes);
    }
    if (code < 0) {
        return code;
    }
    if (numa->mode == BP_NUMA_LOCAL) {
        return mode == BP_NUMA_LOCAL || mode == PREFERRED ? 0 : -EREMCHG;
    }
    return mode == numa->mode && memcmp(nodes, numa->nodes, sizeof nodes) == 0 ? 0 : -EREMCHG;
}

int bp_numa_error(int code)
{
    return code == -EREMCHG ? bp_error(BUFPOOL_EUNSUPPORTED, "the kernel took another memory policy than numa asks for")
                            : refused(code, "mbind");
}
