/*
 * space.h: where the pages of a pool live, and who traps their holes.
 *
 * A space is one mapping of `capacity` bytes over a source of frames (struct bp_memory) whose holes are trapped by one
 * mechanism (struct bp_trap). Each mechanism is one table of functions in a file of its own, trap_NAME.c; nothing
 * outside those files knows which one is at work. Preconditions of every function: the range is whole granules inside
 * the space, and the caller owns the pages in it (their states are BUSY), so no two calls meet on one page. All may be
 * called from any thread and, zap and populate, in a signal handler: they make system calls only.
 */
#ifndef BP_SPACE_H
#define BP_SPACE_H

#include "headroom.h"
#include "memory.h"
#include "numa.h"
#include "staging.h"
#include "thp.h"
#include "vault.h"
#include "ways.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>

/* What a touch of a hole does where trap uffd is not to raise a signal by itself: the thread sleeps, and monitor.h has
 * the answer. */
enum bp_sleep { BP_SLEEP_NEVER, BP_SLEEP_USER /* a touch from user mode; a system call fails */, BP_SLEEP_ALL };

/* What an allocated page is open for. */
enum bp_open { BP_OPEN_WRITE, BP_OPEN_READ, BP_OPEN_NONE };

/* What a space is to be. The texts are needed during bp_space_reserve() and bp_space_arm() only. */
struct bp_wish {
    const struct bp_memory *memory;
    const char *path; /* of memory "path" */
    uint64_t capacity;
    uint64_t granule;
    uint32_t flags; /* BUFPOOL_... of the pool */
    struct bp_numa numa;
    const char *numa_text;
    const char *name;
    enum bp_sleep sleep;
    int guest;      /* the file, of a pool that another process has opened; or -1 */
    uint64_t id[2]; /* device and inode that it has to have */
    uintptr_t base; /* the address that the space has to have, or 0 */
    enum bp_open unpinned;
    bool tracked;
    int key;             /* memory protection key, the space's from now on; 0: none */
    const char *backing; /* of a mapping of the program's own, at base, that is to be adopted; else NULL */
};

struct bp_space {
    uintptr_t base;
    uint64_t capacity;
    uint64_t granule;
    uint32_t flags;
    const struct bp_memory *memory;
    const struct bp_trap *trap;
    int fd;   /* the file, or -1 */
    int uffd; /* or -1 */
    enum bp_sleep sleep;
    enum bp_open unpinned; /* how pages are when they have just been filled; other than WRITE: protect() is there */
    bool tracked;          /* trap uffd: writes to what is write-protected are let through, and remembered */
    int key;               /* memory protection key of the whole mapping, see keys.h; 0: none */
    int gauge;             /* on a mount with a limit: tells the free huge pages, see bp_source_lacks(); or -1 */
    const char *backing;   /* with adopted: what it is */
    bool adopted;          /* the mapping is the program's: nothing takes its place, and it has it back at the end */
    bool created;          /* this space created the file */
    bool ours;             /* what the file holds is this pool's, to be dropped at close */
    struct bp_numa numa;
    struct bp_stash stash; /* trap uffd on anonymous memory: frames of single granules */
    struct bp_thp thp;     /* memory thp */
    struct bp_staging staging;
    struct bp_vault vault;   /* memory thp with pages that nobody may touch */
    bool stepwise;           /* still inaccessible but for the chunks opened so far */
    _Atomic uint8_t *chunks; /* with stepwise: 0 closed, 1 being opened, 2 open */
    uint64_t chunk;          /* bytes of one */
    uint64_t chunk_count;
    bool family;          /* other processes may have the file, too: no page of it may show the scratch pattern */
    bool forked;          /* children have the very description of it; set at a fork */
    atomic_bool torn;     /* a range could not be armed anew, and is inaccessible: it has to be before it is filled */
    atomic_bool orphaned; /* the program has closed a descriptor of it: sealed, since nothing can be trapped any more */
    _Atomic uint32_t poisoned; /* granules that may show the monitor's poison */
    _Atomic uint64_t huge_fills, small_fills, reserve_lost;
    struct bp_ways ways;
    struct bp_headroom headroom; /* with BUFPOOL_CHECK_HEADROOM */
    char note[256];              /* what came out as less than asked; written at open and in a forked child only */
};

struct bp_trap {
    const char *name;

    /* Populating writes behind a mapping that is still closed, which only a file allows: memory "anon" gets a memfd. */
    bool needs_file;

    /* Does a hole raise a signal at all? */
    bool traps;

    /* Arms a space that is mapped PROT_NONE and has no frames. Afterwards a touch of any hole raises SIGBUS or SIGSEGV.
     * Returns 0; BUFPOOL_EUNSUPPORTED with a reason (bp_error) if the kernel or these rights refuse; -errno for a lack
     * of resources. What it opened before failing is closed by bp_space_close(). */
    int (*arm)(struct bp_space *space);

    /* With needs_file: make a range of the mapping inaccessible, armed, or accessible; its frames stay. */
    int (*shut_range)(struct bp_space *space, uintptr_t address, size_t length);
    int (*open_range)(struct bp_space *space, uintptr_t address, size_t length);

    /* Makes the whole, or with stepwise a chunk, accessible, which never had a frame: armed at every moment. */
    int (*open_chunk)(struct bp_space *space, uintptr_t address, size_t length);

    /* The ways that populate and zap may take, as a set of BP_WAY(). */
    uint32_t (*ways)(const struct bp_space *space);

    /* Fills holes, open as space->unpinned says, with data (never touched from user mode where the kernel can copy, so that a stray data pointer is
     * -EFAULT, not a signal), or with zeros (NULL). Each granule appears whole. *done: bytes that are filled, from the
     * front; on an error the caller zaps them. -EFAULT: data is not readable. -ENOMEM: no frame. */
    int (*populate)(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);

    /* In a forked child: arms the whole range again with descriptors of its own, as it came with the fork or was mapped
     * anew. No sentence. NULL: nothing to do. */
    int (*inherit)(struct bp_space *space);

    /* Arms and opens a range that bp_space_map() has mapped anew. NULL: nothing to do. */
    int (*rearm)(struct bp_space *space, uintptr_t address, size_t length);

    /* Opens or closes a range that has frames, all of it in the state `from`; they keep their content. From the return on
     * what is closed traps. From NONE it may be open already in part. NULL: this trap cannot. -EFAULT: there is no frame. */
    int (*protect)(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to);

    /* Takes the frames of count ranges away; from the return on every touch traps. *done: ranges that are zapped, from
     * the front; the others are as they were. */
    int (*zap)(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);
};

extern const struct bp_trap bp_trap_noautofill;
extern const struct bp_trap bp_trap_uffd;
extern const struct bp_trap bp_trap_guard;
extern const struct bp_trap bp_trap_mprotect;
extern const struct bp_trap bp_trap_none;

/* Opens the file, if there is one, and reserves the addresses, inaccessible. An error here is final: another trap would
 * not help. On an error nothing is left open, and a file that was created is removed. */
int bp_space_reserve(struct bp_space *space, const struct bp_wish *wish, const struct bp_trap *trap);

/* In place of the two: arms a mapping of the program's own, with the frames that it has. Errors: as trap->arm, and EEXHAUSTED;
 * then it is as it was. */
int bp_space_adopt(struct bp_space *space, const struct bp_wish *wish, const struct bp_trap *trap);

/* Arms it and makes it accessible. Errors: as trap->arm; then everything is undone as above. */
int bp_space_arm(struct bp_space *space, const struct bp_wish *wish);

/* What was armed has to trap: tries it at a hole. Errors: EUNSUPPORTED, with a sentence. */
int bp_space_verify(const struct bp_space *space, uintptr_t address);

/* Gives every frame, descriptor and table back. The addresses stay reserved, inaccessible; adopted ones are as they were. */
void bp_space_close(struct bp_space *space);

/* bp_space_close() and gives the addresses back. */
void bp_space_destroy(struct bp_space *space);

/* Opens or closes by page protection what can be so. Async-signal-safe. */
static inline int bp_space_mprotect(uintptr_t address, size_t length, enum bp_open open)
{
    static const int protections[] = {
        [BP_OPEN_WRITE] = PROT_READ | PROT_WRITE, [BP_OPEN_READ] = PROT_READ, [BP_OPEN_NONE] = PROT_NONE};
    return bp_kernel_mprotect((void *)address, length, protections[open]);
}

/* The functions of the trap, with chunks opened first where the space is stepwise. -ESTALE: the file is shorter than the
 * pool, since another process truncated it. -EDQUOT: a memory cgroup has no room. */
int bp_space_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);
int bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);

/* The function of the trap. On an error the range is as it was. Async-signal-safe. */
int bp_space_protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to);

/* Does the kernel close what is open, by itself, so that it has to be shown again? To reclaim memory it unmaps pages of a
 * file, and where hidden pages trap, that page does, too. */
static inline bool bp_space_forgets(const struct bp_space *space)
{
    return space->unpinned != BP_OPEN_WRITE && space->uffd >= 0 && space->memory->file;
}

/* Are frames of single granules kept for reuse, moved in and out? A moved frame is not protected, nor moved between
 * mappings of which one has a key. */
static inline bool bp_space_stashes(const struct bp_space *space)
{
    return space->uffd >= 0 && space->fd < 0 && !space->memory->thp && !space->adopted &&
           space->unpinned == BP_OPEN_WRITE && space->key == 0;
}

/* Makes a granule that is a hole accessible, with the pattern BUFPOOL_POISON, and takes that away from a range again,
 * armed at every moment. Small granules get a frame; huge ones, of which there may be none left, and those of a file that
 * other processes have, too, or of a space that closes pages, get a private mapping of the pattern in place of the pool's
 * own; so what is hidden, if it lies in a file, is not touched. */
int bp_space_divert(struct bp_space *space, uintptr_t granule);
int bp_space_restore(struct bp_space *space, uintptr_t address, size_t length);

/* The same for an address that has no space behind it: puts a granule with the pattern over it. */
int bp_space_paste(uintptr_t granule);

/* Maps a part of the space anew: inaccessible, without frames, with the pool's advice and policy. address 0: anywhere. */
int bp_space_map(struct bp_space *space, uintptr_t address, size_t length, uintptr_t *place);

/* Does the space still have its descriptors? If not, seals it: with them the trap may have gone. */
bool bp_space_check(struct bp_space *space);

/* Makes the whole range inaccessible in one step, without frames. */
void bp_space_seal(struct bp_space *space);

/* In a forked child. Maps the whole file over the range and arms it; what was accessible is so again. */
int bp_space_map_again(struct bp_space *space);

/* Forgets the parent's staging (stash, nursery), of which nothing is mapped here; and makes its own. */
void bp_space_unstage(struct bp_space *space);
void bp_space_stage_again(struct bp_space *space);

/* Adds to what the space has to say of itself. */
void bp_space_note(struct bp_space *space, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What the frames really are, for bufpool_statistics. */
const char *bp_space_backing(const struct bp_space *space);

#define BP_NO_MAPPING_LEFT ", or no mapping left (vm.max_map_count)"

/* What else a code of populate or zap may mean with this trap, for an error's sentence; "" if nothing. */
const char *bp_space_hint(const struct bp_space *space, int code);

#endif
