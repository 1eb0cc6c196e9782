/* forged.h: the checksum of a forged header: as tables.h defines it, not as the library happens to compute it. */
#ifndef FORGED_H
#define FORGED_H

#include "tables.h"

static uint64_t checksum(const struct bp_constants *constants)
{
    const unsigned char *bytes = (const unsigned char *)constants;
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < offsetof(struct bp_constants, checksum); i++) {
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

#endif
