/* orders.c: what the monitor tells sleeping threads, see orders.h. */
#include "orders.h"

#include "kernel.h"

#include <stdatomic.h>

enum { EMPTY, CHANGING, WAITING };

struct place {
    _Atomic uint32_t state;
    _Atomic int32_t thread;
    _Atomic(const bufpool_pool *) pool;
    _Atomic int64_t since_ns;
    struct bp_order order; /* of who has set CHANGING */
};

static struct place places[BP_ORDERS];

static bool claim(struct place *place, uint32_t from)
{
    return atomic_compare_exchange_strong(&place->state, &from, CHANGING);
}

/* The place of a thread; waits for whoever is changing it, which takes some instructions. */
static struct place *claim_of(int32_t thread)
{
    for (int i = 0; i < BP_ORDERS; i++) {
        struct place *place = &places[i];
        for (int patience = 0; atomic_load(&place->thread) == thread && patience < 1000; patience++) {
            uint32_t state = atomic_load(&place->state);
            if (state == EMPTY) {
                break;
            }
            if (state == WAITING && claim(place, WAITING)) {
                if (atomic_load(&place->thread) == thread) {
                    return place;
                }
                atomic_store(&place->state, WAITING);
                break;
            }
            bp_kernel_sleep_ns(10000);
        }
    }
    return NULL;
}

static struct place *claim_empty(void)
{
    for (int i = 0; i < BP_ORDERS; i++) {
        if (claim(&places[i], EMPTY)) {
            return &places[i];
        }
    }
    return NULL;
}

void *bp_order_marker(void)
{
    return places;
}

bool bp_order_put(const struct bp_order *order)
{
    struct place *place = claim_of(order->thread);
    if (place == NULL) {
        place = claim_empty();
    }
    if (place == NULL) {
        return false;
    }
    place->order = *order;
    atomic_store(&place->thread, order->thread);
    atomic_store(&place->pool, order->pool);
    atomic_store(&place->since_ns, bp_kernel_monotonic_ns());
    atomic_store(&place->state, WAITING);
    return true;
}

bool bp_order_correct(const struct bp_order *order)
{
    struct place *place = claim_of(order->thread);
    if (place == NULL) {
        return false;
    }
    if (place->order.in_syscall[0] == 0) {
        place->order = *order;
    }
    atomic_store(&place->state, WAITING);
    return true;
}

bool bp_order_poisoned(int32_t thread)
{
    struct place *place = claim_of(thread);
    if (place == NULL) {
        return false;
    }
    place->order.poisoned = true;
    atomic_store(&place->state, WAITING);
    return true;
}

bool bp_order_take(int32_t thread, struct bp_order *order)
{
    struct place *place = claim_of(thread);
    if (place == NULL) {
        return false;
    }
    *order = place->order;
    atomic_store(&place->state, EMPTY);
    return true;
}

bool bp_order_waits(int32_t thread)
{
    for (int i = 0; i < BP_ORDERS; i++) {
        if (atomic_load(&places[i].state) == WAITING && atomic_load(&places[i].thread) == thread) {
            return true;
        }
    }
    return false;
}

bool bp_order_overdue(const bufpool_pool *pool, int64_t ns, struct bp_order *order)
{
    int64_t before = bp_kernel_monotonic_ns() - ns;
    for (int i = 0; i < BP_ORDERS; i++) {
        struct place *place = &places[i];
        if (atomic_load(&place->state) == WAITING && atomic_load(&place->pool) == pool &&
            atomic_load(&place->since_ns) < before && claim(place, WAITING)) {
            bool still = atomic_load(&place->pool) == pool && atomic_load(&place->since_ns) < before;
            if (still) {
                *order = place->order;
            }
            atomic_store(&place->state, still ? EMPTY : WAITING);
            if (still) {
                return true;
            }
        }
    }
    return false;
}

bool bp_orders_wait(const bufpool_pool *pool)
{
    for (int i = 0; i < BP_ORDERS; i++) {
        if (atomic_load(&places[i].state) == WAITING && atomic_load(&places[i].pool) == pool) {
            return true;
        }
    }
    return false;
}

void bp_orders_forget(void)
{
    for (int i = 0; i < BP_ORDERS; i++) {
        atomic_store(&places[i].state, EMPTY);
    }
}
