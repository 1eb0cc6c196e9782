/* keys.c: rights of single threads by protection keys, see keys.h. */
#include "keys.h"

#include "error.h"
#include "lazy.h"
#include "thread.h"

#include <errno.h>
#include <string.h>
#include <ucontext.h>

#define NO_ACCESS 1u /* bits of a key in PKRU; 0: all */
#define NO_WRITE 2u

/* The first key has been taken: from then on handlers mind the register. */
static atomic_bool in_use;

#if defined(__x86_64__)

#include <cpuid.h>

/* Where PKRU lies in the state that is saved on the stack of a handler; 0: there is none. */
static _Atomic uint32_t saved_at;

static uint32_t read_register(void)
{
    uint32_t rights;
    uint32_t zero;
    __asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(rights), "=d"(zero) : "c"(0) : "memory"); /* rdpkru */
    return rights;
}

static void write_register(uint32_t rights)
{
    __asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(rights), "c"(0), "d"(0) : "memory"); /* wrpkru */
}

/* NULL: the processor and the kernel have keys. */
static const char *prepare(void)
{
    uint32_t a;
    uint32_t b;
    uint32_t c;
    uint32_t d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (c & 8) == 0) { /* PKU */
        return "this processor has none (no pku in /proc/cpuinfo)";
    }
    if ((c & 16) == 0) { /* OSPKE */
        return "this kernel does not use those of the processor (CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS; nopku)";
    }
    if (__get_cpuid_count(13, 9, &a, &b, &c, &d) == 0 || a < 4) { /* where XSAVE puts PKRU, which is part 9 */
        return "this processor does not save them with its state";
    }
    atomic_store(&saved_at, b);
    return NULL;
}

/* PKRU of the interrupted code. arch/x86/include/uapi/asm/sigcontext.h: the last 48 bytes of the first 512 say what
 * follows; then, in the header, which parts are not in their initial state, in which nothing is forbidden. */
static uint32_t *saved(void *context)
{
    struct {
        uint32_t magic;
        uint32_t extended_size;
        uint64_t features;
        uint32_t size;
    } described;
    const uint64_t part = UINT64_C(1) << 9;
    char *state = (char *)((ucontext_t *)context)->uc_mcontext.fpregs;
    uint32_t at = atomic_load(&saved_at);
    if (state == NULL || at == 0) {
        return NULL;
    }
    memcpy(&described, state + 464, sizeof described);
    if (described.magic != 0x46505853 || (described.features & part) == 0 || at + 4 > described.size) {
        return NULL;
    }
    uint64_t present;
    memcpy(&present, state + 512, sizeof present);
    if ((present & part) == 0) {
        present |= part;
        memcpy(state + 512, &present, sizeof present);
        memset(state + at, 0, 8);
    }
    return (uint32_t *)(void *)(state + at);
}

#else

static uint32_t read_register(void)
{
    return 0;
}

static void write_register(uint32_t rights)
{
    (void)rights;
}

static const char *prepare(void)
{
    return "bufpool uses those of x86-64 only";
}

static uint32_t *saved(void *context)
{
    (void)context;
    return NULL;
}

#endif

int bp_keys_take(void)
{
    const char *reason = prepare();
    int key = reason == NULL ? bp_kernel_key_alloc() : 0;
    if (key <= 0) {
        reason = reason != NULL   ? reason
                 : key == -ENOSPC ? "the process has no key left of 15: close a pool with pin_keys"
                                  : strerror(-key);
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "flags has BUFPOOL_PIN_KEYS (in Python pin_keys), which takes memory protection keys, and %s; "
                        "without it pins \"write\" closes pages for all threads at once",
                        reason);
    }
    atomic_store(&in_use, true);
    return key;
}

int bufpool_probe_keys(void)
{
    int key = bp_keys_take();
    if (key > 0) {
        bp_kernel_key_free(key);
    }
    return key > 0 ? 0 : key;
}

/* ---- The counts: thread << 32 | pins. An entry that was ever used stays one, and is anybody's while it counts none.
 * A thread goes by a number that no later one gets, as kernels give out ids again: who ends with pins takes the right to
 * write along. ---- */

#define ENTRIES 1024
#define COUNT(entry) ((uint32_t)(entry))
#define NO_ENTRY ENTRIES

int bp_keys_open(struct bp_pins *pins)
{
    void *place;
    int code = bp_lazy_map(ENTRIES * sizeof *pins->writers, &place);
    if (code == 0) {
        pins->writers = place;
    }
    return code;
}

void bp_keys_close(struct bp_pins *pins)
{
    if (pins->writers != NULL) {
        bp_kernel_munmap((void *)pins->writers, ENTRIES * sizeof *pins->writers);
        pins->writers = NULL;
    }
}

/* This thread's entry, if it has pins; else, if it is to be made, a vacant one; else NO_ENTRY. */
static uint32_t find(const bufpool_pool *pool, uint64_t thread, bool make, uint64_t *seen)
{
    uint32_t vacant = NO_ENTRY;
    uint64_t vacant_seen = 0;
    for (uint32_t n = 0; n < ENTRIES; n++) {
        uint32_t at = ((uint32_t)thread * 0x9E3779B1u / (UINT32_MAX / ENTRIES + 1) + n) % ENTRIES;
        *seen = atomic_load_explicit(&pool->pins.writers[at], memory_order_relaxed);
        if (*seen >> 32 == thread && COUNT(*seen) > 0) {
            return at;
        }
        if (COUNT(*seen) == 0 && vacant == NO_ENTRY) {
            vacant = at;
            vacant_seen = *seen;
        }
        if (*seen == 0) {
            break;
        }
    }
    *seen = vacant_seen;
    return make ? vacant : NO_ENTRY;
}

bool bp_keys_may_write(const bufpool_pool *pool)
{
    uint64_t seen;
    return find(pool, bp_thread_serial(), false, &seen) != NO_ENTRY;
}

bool bp_keys_forbid(const bufpool_pool *pool, bufpool_access access)
{
    return pool->space.key > 0 && access == BUFPOOL_WRITE && !bp_keys_may_write(pool);
}

static uint32_t with(const bufpool_pool *pool, uint32_t rights, uint32_t wanted)
{
    int shift = 2 * pool->space.key;
    return (rights & ~(3u << shift)) | wanted << shift;
}

static void set(const bufpool_pool *pool, uint32_t wanted)
{
    uint32_t rights = read_register();
    if (with(pool, rights, wanted) != rights) {
        write_register(with(pool, rights, wanted));
    }
}

void bp_keys_follow(const bufpool_pool *pool)
{
    set(pool, bp_keys_may_write(pool) ? 0 : NO_WRITE);
}

void bp_keys_lend(const bufpool_pool *pool)
{
    set(pool, 0);
}

int bp_keys_add(bufpool_pool *pool)
{
    uint64_t thread = bp_thread_serial();
    uint64_t seen;
    uint64_t next;
    uint32_t at;
    do {
        at = find(pool, thread, true, &seen);
        if (at == NO_ENTRY) {
            return bp_error(BUFPOOL_EEXHAUSTED,
                            "%d threads have pages of pool \"%s\" pinned for writing, the most that pin_keys counts",
                            ENTRIES, pool->name);
        }
        next = COUNT(seen) > 0 ? seen + 1 : thread << 32 | 1;
    } while (!atomic_compare_exchange_strong(&pool->pins.writers[at], &seen, next));
    set(pool, 0);
    return 0;
}

void bp_keys_remove(bufpool_pool *pool)
{
    uint64_t seen;
    uint32_t at;
    do {
        at = find(pool, bp_thread_serial(), false, &seen);
    } while (at != NO_ENTRY && !atomic_compare_exchange_strong(&pool->pins.writers[at], &seen, seen - 1));
    bp_keys_follow(pool);
}

void bp_keys_inherit(bufpool_pool *pool)
{
    for (uint32_t at = 0; at < ENTRIES; at++) {
        uint64_t entry = atomic_load(&pool->pins.writers[at]);
        if (entry >> 32 != bp_thread_serial() && COUNT(entry) > 0) {
            atomic_store(&pool->pins.writers[at], entry - COUNT(entry)); /* vacant; those behind it are found still */
        }
    }
    bp_keys_follow(pool);
}

/* ---- For the handler ---- */

int64_t bp_keys_enter(void *context)
{
    const uint32_t *rights = atomic_load_explicit(&in_use, memory_order_relaxed) ? saved(context) : NULL;
    if (rights == NULL) {
        return -1;
    }
    int64_t before = read_register();
    write_register(*rights);
    return before;
}

void bp_keys_leave(int64_t before)
{
    if (before >= 0) {
        write_register((uint32_t)before);
    }
}

bool bp_keys_is_fault(const bufpool_pool *pool, int signo, const siginfo_t *info)
{
    return signo == SIGSEGV && info->si_code == SEGV_PKUERR && pool->space.key > 0 &&
           info->si_pkey == (uint32_t)pool->space.key && bp_pool_has_frames(pool);
}

bool bp_keys_admit(const bufpool_pool *pool, void *context, bufpool_access access)
{
    uint32_t wanted = bp_keys_may_write(pool) ? 0 : NO_WRITE;
    uint32_t forbids = access == BUFPOOL_WRITE ? NO_ACCESS | NO_WRITE : NO_ACCESS;
    uint32_t *rights = (wanted & forbids) == 0 ? saved(context) : NULL;
    if (rights == NULL || (*rights >> (2 * pool->space.key) & forbids) == 0) {
        return false;
    }
    *rights = with(pool, *rights, wanted);
    return true;
}

void bp_keys_let_through(const bufpool_pool *pool, void *context)
{
    uint32_t *rights = pool->space.key > 0 ? saved(context) : NULL;
    if (rights != NULL) {
        *rights = with(pool, *rights, 0);
    }
}
