/* verify.h: is every key as the ledger says? */
#ifndef KV_VERIFY_H
#define KV_VERIFY_H

#include "check.h"
#include "worker.h"

struct kv_verdict {
    uint64_t there;        /* keys */
    uint64_t acknowledged; /* changes */
    uint64_t open;         /* operations that killed workers had begun */
    uint64_t open_there;   /* of which the change is there: it was published before the kill */
    uint64_t wrong_keys;
    char wrong[200]; /* the first thing that is not right; "": all is */
};

/* No worker is left, and census is of now. Every acknowledged change is there unless a later one took its place, and every
 * open one is wholly there or wholly not. Returns 0 or -ENOMEM. */
int kv_verify(const struct kv_work *work, const struct kv_census *census, struct kv_verdict *verdict);

#endif
