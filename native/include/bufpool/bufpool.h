/*
 * bufpool: a buffer pool whose holes trap.
 *
 * A pool is one reserved range of addresses, cut into pages of one size. A page that is not allocated has no frame,
 * and touching it raises a signal, which this library turns into a fault report: address, page, offset, state.
 *
 * Results   Every function that can fail returns 0 or a negative code: -errno for an error of the system, or one of
 *           the BUFPOOL_E... codes below -4096. bufpool_last_error() has the sentence, with the values in it.
 * Threads   Every function may be called from any thread at any time, bufpool_close() included.
 * Signals   A function is async-signal-safe only where its comment says so. errno is kept by the handler.
 * Units     Sizes and offsets are bytes, page numbers count from 0, times are nanoseconds.
 * Fork      A forked child has the pools of its parent, armed before fork() returns in it; see bufpool_config.fork.
 * Off       With BUFPOOL_DISABLED defined the calls compile away, on any system: see disabled.h.
 * ABI       Structs that callers fill or receive begin with their size; initialise them with the ..._INIT macros.
 */
#ifndef BUFPOOL_H
#define BUFPOOL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BUFPOOL_VERSION "0.1.0"

#if defined(BUFPOOL_DISABLED) /* no library: see disabled.h */
#define BUFPOOL_API static inline
#elif defined(__GNUC__)
#define BUFPOOL_API __attribute__((visibility("default")))
#else
#define BUFPOOL_API
#endif

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

#define BUFPOOL_EARGUMENT (-4097)    /* an argument is wrong; the sentence names it and what would be right */
#define BUFPOOL_EEXHAUSTED (-4098)   /* the pool has too few free pages, or the system has no frame for them */
#define BUFPOOL_ESTATE (-4099)       /* the page's state forbids it: double free, already allocated, ... */
#define BUFPOOL_EUNSUPPORTED (-4100) /* this kernel or these rights do not allow it; the sentence says what would */
#define BUFPOOL_ECLOSED (-4101)      /* the pool has been closed */
#define BUFPOOL_ESTRAY (-4102) /* a stray access was caught; the fault is filled in, or bufpool_last_fault() has it */

/* A short text for any code returned by this library. Async-signal-safe for the BUFPOOL_E... codes. */
BUFPOOL_API const char *bufpool_strerror(int code);

/* Copies this thread's last error, a sentence with the values in it, to buffer (cut to size, always terminated).
 * Returns the sentence's whole length, 0 when there was no error yet. */
BUFPOOL_API int bufpool_last_error(char *buffer, size_t size);

/* After a batch of this thread returned an error: how many of its first pages were done all the same. 0 except where a
 * zap failed midway, since what is zapped cannot come back. */
BUFPOOL_API size_t bufpool_last_done(void);

BUFPOOL_API const char *bufpool_version(void);

/* ---- Pools ----------------------------------------------------------------------------------------------------- */

typedef struct bufpool_pool bufpool_pool; /* opaque */

/* Flags of a pool.
 *   LAZY_ZERO     a page allocated without data gets its frame with the first write: cheaper to allocate, one kernel
 *                 fault dearer to write, and a lack of memory shows at that write
 *   HOST_HANDLER  install no signal handlers: the host calls bufpool_handle_signal() from its own
 *   LOCK          frames are locked in memory as they come (mlock2 with ONFAULT); the whole capacity counts against
 *                 RLIMIT_MEMLOCK. Not with trap guard. Huge pages of hugetlbfs are never swapped in any case
 *   DUMP          pages go into core dumps, as far as /proc/PID/coredump_filter lets them; takes time, see
 *                 MADV_DONTDUMP
 *   RESERVE       hugetlb and path: the kernel reserves a huge page for every page of the pool, at open (EEXHAUSTED if
 *                 there are too few) and again after each free, so that an allocation finds its frame. What could not be
 *                 reserved again is counted (reserve_lost)
 *   TELL          faults that are answered in place (on_fault "resume") are kept for their threads too: see
 *                 bufpool_told()
 *   DISCARD       path: drop the frames that an existing file holds, as after a crash; without it such a file is refused
 *   MONITOR       report stray accesses that system calls make, too: see "System calls" below. Trap uffd, Linux 6.6, and
 *                 the right to a userfaultfd that sees system calls (else EUNSUPPORTED, with the ways to get it)
 *   RED_ZONES     an inaccessible granule before each page, and one after the last: an access past the end of a page, or
 *                 before its beginning, into an allocated neighbour traps, too (state "red-zone"). Page numbers and
 *                 capacity are as ever; neighbours lie page_size and a granule apart, and the range is as much larger.
 *                 Batches over neighbouring pages take a request of the kernel for each. Not with RESERVE; with trap
 *                 "none" a zone is memory like any other
 *   SCRUB         each frame that free or evict takes away is overwritten with BUFPOOL_SCRUBBED bytes before it goes, for
 *                 whoever still has it, though no access of the program's: a device, another mapping of a file. Not at close
 *   PIN_KEYS      only threads with a write pin may write: see config.pins
 *   CHECK_HEADROOM  before it takes memory, a fill looks whether the memory cgroups of this process have room for it, and
 *                 fails (EEXHAUSTED, naming the cgroup, its limit and its usage), where the kernel would kill. See below
 *   FIXED_ADDRESS  of bufpool_attach(): at the address that the pool has in the process that opened it, or -EEXIST
 */
#define BUFPOOL_LAZY_ZERO 1u
#define BUFPOOL_HOST_HANDLER 2u
#define BUFPOOL_LOCK 4u
#define BUFPOOL_DUMP 8u
#define BUFPOOL_RESERVE 16u
#define BUFPOOL_DISCARD 32u
#define BUFPOOL_MONITOR 64u
#define BUFPOOL_TELL 128u
#define BUFPOOL_FIXED_ADDRESS 256u
#define BUFPOOL_RED_ZONES 512u
#define BUFPOOL_SCRUB 1024u
#define BUFPOOL_PIN_KEYS 2048u
#define BUFPOOL_CHECK_HEADROOM 4096u

/* Memory cgroups. At a cgroup's limit (a container's, systemd's MemoryMax=) no request for memory fails: the kernel reclaims
 * page cache, swaps, and then its OOM killer ends a process, as a rule this one. With CHECK_HEADROOM the pool asks first:
 * version 2 (memory.max and memory.high) and 1 (memory.limit_in_bytes), the process's cgroup and those above it, as far as
 * they had a limit when the pool was opened, 16 at most. It keeps their files open, up to four descriptors for each, and
 * reads them now and then: each look grants an eighth of the room, 16 MiB at most, to the fills that follow. Fills
 * of other threads under way count as used. Four mebibytes (of a small limit a 16th) are left. Clean page cache counts as
 * room, swap does not.
 *
 * What it does not promise: others in the cgroup, and the rest of this process, may take the room between look and fill; a
 * process that is moved to another cgroup is not followed; LAZY_ZERO takes memory at the first write, unasked; what hugetlb
 * takes is another controller's, and is not checked. */

typedef struct bufpool_config {
    size_t size;        /* sizeof(bufpool_config) */
    uint64_t capacity;  /* bytes, a multiple of page_size, at most 16 TiB; reserved, not committed */
    uint64_t page_size; /* bytes, 4 KiB to 1 GiB, a whole number of granules; 0: one granule */
    const char *memory; /* "anon", "thp", "shared", "hugetlb", or a path with a slash on a hugetlbfs mount: see below */
    const char *trap;   /* "auto": the first that works of "noautofill", "uffd", "guard", "mprotect", of those that go
                         * with the memory (bufpool_cell()). "none": plain mmap, untrapped. */
    const char *on_fault; /* "abort", "raise", "resume" or "freeze": see bufpool_handle_signal() */
    const char *name;     /* shown in reports, 1 to 63 bytes; NULL: "pool-N" */
    const char *log;  /* a file that receives each report as one line of JSON (created 0600, appended); NULL: none */
    uint32_t flags;   /* BUFPOOL_LAZY_ZERO, ... */
    uint64_t granule; /* bytes; 0: the memory's own. Only "hugetlb" has a choice: a huge page size of this machine. */
    /* Where frames come from: "interleave" over all nodes, "local" to the thread that fills, or a list of nodes as
     * "0,2-3"; NULL: as the thread's own policy says. */
    const char *numa;
    /* What is kept of each page's last allocate (or populate) and last free (or evict), for reports: "off" (NULL);
     * "last": when and by which thread of which process, 24 bytes a page that was ever touched; "stacks": the stack of the
     * call too. */
    const char *provenance;
    uint32_t provenance_depth; /* with "stacks": native frames kept of each call, 1 to 16; 0: 8 */
    const char *fork;          /* "inherit" (NULL) or "exclude": see below */
    uint32_t report_limit;     /* the first reports of one place that are written to stderr and the log in full; further
                            * ones are counted, and told of in a line whenever they have doubled, by bufpool_flush() and
                            * at close. 0: 16; UINT32_MAX: no limit. A place is an instruction and its three innermost
                            * callers, what bufpool_set_place() and bufpool_set_caller() said, and with provenance
                            * "stacks" who freed the page.
                            * Not of a report that ends the process, nor of what is kept for bufpool_faults() and
                            * bufpool_check() */
    /* Bytes of freed pages whose numbers rest, first in, first out, before they are used again, so that a stray access by
     * way of an old pointer meets a hole, not the next owner's page: a number comes back when so many bytes have been freed
     * after it. 0: none do. When no other number is free the oldest rest is cut short: no allocation fails for it. What is
     * more than the capacity is as much as the capacity. bufpool_allocate_at() takes a number that rests. One quarantine
     * for all processes of a pool. Up to 12 bytes of memory a page that was ever freed. */
    uint64_t quarantine;
    /* What a page holds that is allocated, or populated, without data: "zeros" (NULL), or "pattern": BUFPOOL_FRESH bytes, so
     * that who reads it before it is written finds no plausible zeros. Not with LAZY_ZERO. What follows data in a page is
     * zeros in any case. */
    const char *fill;
    /* What bufpool_pin() does, in this process: "off" (NULL): nothing, at no cost. "count": it counts, and misuse is an
     * error (ESTATE). 4 bytes a page that was ever pinned. Enforced by the trap, and counted, are:
     *   "write"  a page can be written while it has a write pin, else only read: a write is a stray access (state
     *            "read-only")
     *   "all"    a page can be read while it has a pin, and written while it has a write pin; without any pin each touch
     *            is a stray access (state "unpinned")
     * System calls on a closed page fail (EFAULT). Pages keep their content, and allocate and populate fill them as ever;
     * a page just filled has no pins. Rights are the process's, not the thread's (but see PIN_KEYS below): while one thread
     * has a page pinned, others can use it.
     * Goes with traps uffd (Linux 6.4; anon and thp with "write": 5.7; thp with "all": 6.8), guard, mprotect and
     * noautofill, which closes pages as uffd does, or by mprotect where that cannot; not with MONITOR. With "all" memory "anon" is a memfd, copied at a fork; and "thp" moves the huge frames of closed pages to
     * addresses that nobody has, as many again as the pool's, so that a forked child has not got the pool, and a page of
     * which a device has a frame (or io_uring, as a fixed buffer) is neither opened nor closed: -EBUSY. On thp a page is
     * writable for a microsecond while it is filled ("write") or pinned for reading ("all"). Under uffd, "freeze" stops threads in the handler; and of memory that is
     * a file, or "anon" with "all", the kernel may unmap an open page to reclaim it: the next touch maps it again,
     * unreported, but a system call that comes first fails with EFAULT. Without swap, or with BUFPOOL_LOCK, that does not
     * happen.
     * Where a stray access is answered in place (raise, resume), an unpinned page shows the scratch pattern meanwhile, and
     * its data is not touched. A stray write to a read-only page cannot be diverted from those who read it: it goes
     * through, and the report says so (BUFPOOL_FAULT_WENT_THROUGH). Under "abort", and in guarded calls, it does not.
     *
     * With flag PIN_KEYS, and "count", "write" or "all", threads are told apart, by a memory protection key of the processor
     * (x86-64 with pku, Linux 4.9; 15 keys a process, one for each such pool; else EUNSUPPORTED). A thread without a write
     * pin in the pool can write to none of its pages, whoever has them pinned: state "read-only", and BUFPOOL_FAULT_OTHERS_PIN
     * where another thread has. That takes no system call: with "count" a pin costs what counting costs, and the change of a
     * register. Caught: thread B writes what A has pinned, with no write pin of its own. Not caught: that write while B has
     * any page of the pool pinned for writing, since the right is to the pool; by a thread that was made while its creator
     * had a write pin, until its first call on the pool; by the kernel for others (io_uring workers, process_vm_writev()).
     * A write pin is given back by a thread that has one in the pool (else ESTATE); up to 1024 threads have some at a time.
     * The kernel gives signal handlers, and threads that were there before the pool and have not called it, no access: their
     * touches are let through by a signal, unreported, if SIGSEGV is not blocked; but a system call of theirs that comes
     * before any touch or call fails with EFAULT. So does one in this thread after a handler was left by longjmp. What
     * "raise" and "resume" let through opens the pool to that thread until its next call on it. Not with thp, MONITOR,
     * audit and sample. */
    const char *pins;
    /* Whether bufpool_audit() can tell which clean pages have changed: "off" (NULL), or by
     *   "track"     the kernel's account of writes, whoever makes them: system calls too, but nothing that reaches the frame by
     *               another way than this process's addresses: another mapping of a file, a device that was given the frame
     *               before. Trap uffd, Linux 6.7; not with thp and MONITOR; "freeze" stops threads in the handler. Marking a
     *               page costs a microsecond, the first write to it as much
     *   "checksum"  32 bits of each clean page's content, with every trap and memory. Marking a page, and each page that is
     *               audited, costs its reading
     * 8 bytes a page that was ever clean. Not with pins "write" and "all", under which such a write traps. */
    const char *audit;
    /* Sampling: one allocation in so many is guarded, and a pin of the others costs a look at a bit; 0: none. With pins
     * "off" or "count". A guarded page is open until it is first pinned, so that a program that does not pin meets none;
     * then it is closed when nobody has it pinned, and read-only under read pins, and misuse of its pins is an error, as
     * with pins "all", but on every memory and trap but "none", and by mprotect: two more mappings for each that is closed;
     * where none is left a page is let go. A page that is pinned often is guarded at each of its first 64 uses, and at 64
     * more whenever their number has doubled. Each process guards what it has allocated. Where a stray access is answered
     * in place it goes through, and the report says so. Not with audit "checksum". */
    uint32_t sample;
    /* Chooses the pages, together with their numbers and the count of allocations before; 0: by chance.
     * bufpool_statistics has the one that is used: with it the same program guards the same pages again. */
    uint64_t seed;
    /* Pages that free may leave their frames for the next allocation: these lag, and DO NOT TRAP YET. bufpool_allocate() (and
     * _many, _filled) takes the one that was freed first, and overwrites it in place, for what memcpy costs. 0: none lag.
     * When free_lag more lag since, a page that still does is zapped, with others, up to 256 in one request.
     * More than the pool has is as many as it has. 8 bytes for each.
     *
     * What that gives up: a stray read of a lagging page finds what was there, and a stray write is lost, without a report;
     * and its number is the first to be used again. The page's state is "freed" all the same, which bufpool_explain() goes by,
     * a second free is found, and it can be allocated by its number, published or read into, as any free page. Where a frame
     * that is used again is filled, others may see it half done: nobody has a right to. With SCRUB it is overwritten when it
     * is freed. Evicted pages never lag. bufpool_settle() zaps all that lag, as a test does before it looks for strays; so
     * does a fork, for a pool that is inherited. What the kernel refuses to zap then lags on, beyond free_lag if need be, is
     * counted, and tried again: a free does not fail for it.
     *
     * For memory anon and thp. Refused (EUNSUPPORTED) with what looks for touches of pages that nobody uses, or rests their
     * numbers: pins, audit, sample, quarantine; with LAZY_ZERO; and of pools that are attached or adopted. */
    uint64_t free_lag;
} bufpool_config;

#define BUFPOOL_CONFIG_INIT \
    {sizeof(bufpool_config), \
     0, \
     4096, \
     "anon", \
     "auto", \
     "abort", \
     NULL, \
     NULL, \
     0, \
     0, \
     NULL, \
     NULL, \
     0, \
     NULL, \
     0, \
     0, \
     NULL, \
     NULL, \
     NULL, \
     0, \
     0, \
     0}

/* Switching on from outside: sets in config what the environment variable BUFPOOL_OPTIONS names, over what the program has
 * put there, for programs that opt in:
 *
 *     bufpool_config config = BUFPOOL_CONFIG_INIT;
 *     config.capacity = ...;
 *     int code = bufpool_config_from_environment(&config);
 *
 * "key=value:key='another value'", the keys being fields and flags of a pool in small letters: help=1 writes all of them to
 * stderr, each with what holds without it. preset=test and preset=production stand for several: other keys come before
 * those, and where they do not go with what config has, or gets, they are left out. Not set: nothing changes. Nor in a set-user-id program, which ignores the variable. The texts that config then
 * points to stay for the life of the process (equal ones once). On an error config is as it was.
 *
 * The values of memory, log, name and numa, and whether all go together, are for bufpool_open() to say.
 * Thread-safe, while nobody changes the environment. Errors: EARGUMENT (an unknown key, one that comes twice, a wrong
 * value: the sentence says what would be right), -ENOMEM. */
BUFPOOL_API int bufpool_config_from_environment(bufpool_config *config);

/* The same from a text; NULL: nothing changes. Each other text that is passed takes its bytes for ever. */
BUFPOOL_API int bufpool_config_from_options(bufpool_config *config, const char *options);

/* Memories
 *   anon     private to this process; granule 4 KiB
 *   thp      the same in transparent huge pages of 2 MiB, without privilege or reservation. Where the system has none
 *            (bufpool_statistics says so: memory_note, small_fills) small pages take their place
 *   shared   a memfd, sealed against changes of its size; granule 4 KiB
 *   hugetlb  a memfd of huge pages, which the system's administrator has set aside; granule: the size of one
 *   a path   a file on a hugetlbfs mount; granule: the mount's page size. Created with mode 0600; or opened again, if it
 *            is a regular file of exactly capacity bytes that holds no frames (BUFPOOL_DISCARD drops them) and that no
 *            other pool has open. When the pool closes the file stays, without frames. The path of a directory gives an
 *            unnamed file, which leaves nothing behind.
 * A page of huge pages that cannot be had is EEXHAUSTED from the allocation, never a bus error. The frames of hugetlb
 * and of files are cleared or filled at allocation: LAZY_ZERO does nothing there, nor on thp. */

/* Fork
 *   inherit  A child made by fork() has the pool, armed before fork() returns. Of private memory (anon, thp) it has a
 *            copy as of any private memory: its calls and writes are its own. Other memory (shared, hugetlb, a path) it
 *            has together with its parent, pages, states and all: either may allocate and free, and sees what the other
 *            does. It is the opener's: when that closes the pool it is closed for all. What a process leaves that is
 *            killed amid a call is repaired, see bufpool_attach().
 *            Cost: private memory under guard or mprotect is copied, all allocated pages at every fork, also one that
 *            only runs another program; until the child ends or runs it the copy counts against the memory cgroup,
 *            whose limit is kept by the OOM killer. Who forks to run programs takes "exclude".
 *            Before the fork, other threads are kept out of the pools, and those inside are waited for, a second at most.
 *            Where the child cannot have the pool, its addresses are inaccessible there: a touch is reported
 *            (BUFPOOL_FAULT_FORKED), and calls return BUFPOOL_EUNSUPPORTED; both say why. That is so of shared memory
 *            under guard or mprotect, which close pages in one process only; after an error of the kernel; and where
 *            the fork interrupted a call on the pool.
 *            The host's fork handlers may call everything; a pool that is opened by one that was registered before the
 *            first pool is not the child's.
 *   exclude  Nothing is mapped there in a child, and fork() copies nothing.
 * A child, like a daemon, must not close descriptors that it did not open (closefrom): without its userfaultfd a pool traps
 * nothing. The next call finds out; from there on the pool is closed, and calls return BUFPOOL_ECLOSED.
 * A child made past the fork handlers (_Fork, clone, vfork that does not share memory) has nothing mapped either; its
 * first call says so. */

/* Reserves the addresses, arms them, and installs the signal handlers once for the process. Takes milliseconds at any
 * capacity. The strings are copied. Never untrapped unless trap is "none".
 * Errors: EARGUMENT; EUNSUPPORTED (trap, memory, lock or numa not to be had: the sentence gives each reason); EEXHAUSTED
 * (RESERVE, too few huge pages); -ENOMEM (addresses, or RLIMIT_AS); -EAGAIN (RLIMIT_MEMLOCK, after mlockall); -EFBIG
 * (RLIMIT_FSIZE); -EMFILE; -errno of opening the log or the path (-EWOULDBLOCK: another pool has it open).
 * On an error nothing is left open. */
BUFPOOL_API int bufpool_open(const bufpool_config *config, bufpool_pool **pool);

/* Frees every frame. Waits for the calls of other threads that are inside the pool. The addresses stay reserved and
 * trapping (state "closed"), so that a late access is reported and never meets somebody else's memory; the oldest
 * closed ranges are given back when more than 64, or more than 32 TiB, have gathered, or when a new pool finds no room.
 * bufpool_keep() excepts a range from that. A closed handle stays safe to pass: calls answer BUFPOOL_ECLOSED, until its
 * range is given back. Not from inside a call on the same pool (a fault callback is outside). A forked child closes its
 * own only, and of shared memory no frame. Errors: EARGUMENT, ECLOSED, EUNSUPPORTED (a forked child without it). */
BUFPOOL_API int bufpool_close(bufpool_pool *pool);

/* Counts the owners of pointers into the pool (views, buffers) that may outlive bufpool_close(): while keep > release
 * the addresses stay reserved and the handle stays valid. Errors: EARGUMENT for a release without keep. */
BUFPOOL_API int bufpool_keep(bufpool_pool *pool);
BUFPOOL_API int bufpool_release(bufpool_pool *pool);

/* ---- One pool, many processes ---------------------------------------------------------------------------------- */

/* What another process needs to attach to a pool: two descriptors, closed on exec, to be passed on (over a Unix socket by
 * SCM_RIGHTS, or inherited). Whoever has them can reach every page without any trap: hand them to your own only. */
typedef struct bufpool_handle {
    size_t size; /* sizeof(bufpool_handle) */
    int memory;
    int tables;
} bufpool_handle;

#define BUFPOOL_HANDLE_INIT {sizeof(bufpool_handle), -1, -1}

/* Makes a handle, which is the caller's to close. Pools of memory "shared", "hugetlb" or a path under trap uffd or
 * noautofill can be shared. Thread-safe. Errors: EARGUMENT, ECLOSED, EUNSUPPORTED (the sentence says why), -EMFILE,
 * -errno of opening /proc/self/fd. */
BUFPOOL_API int bufpool_share(bufpool_pool *pool, bufpool_handle *handle);

/* Closes the descriptors of a handle and empties it. Errors: EARGUMENT. */
BUFPOOL_API int bufpool_handle_close(bufpool_handle *handle);

/* Opens a pool that another process has opened, by its handle; or, handle NULL, by config->memory, if that is the path of
 * a file on hugetlbfs: then the tables are looked for in the processes that have a pool open on it (/proc/locks,
 * /proc/PID/fd; those of the same user, or of any with CAP_SYS_PTRACE). Armed before the pool is returned, at an address of its own unless
 * FIXED_ADDRESS is set. Page numbers agree; states, free numbers and counts are one: what one process allocates is
 * readable in all, what one frees traps in all at once. Sizes, name, numa, provenance, quarantine, fill, LAZY_ZERO, SCRUB and RESERVE are the
 * pool's, and what config says of them is not looked at; trap, on_fault, log, fork, the other flags and limits are each process's own.
 * The handle stays the caller's. At most 1023 processes have a pool at a time.
 *
 * When the process that opened the pool closes it, it is closed for all. A process that is killed, at whatever
 * instruction, leaves nothing that the next call of another does not repair: what it was filling is emptied, what it was
 * freeing is freed. Pages that it had allocated stay allocated.
 *
 * Thread-safe. Errors: EARGUMENT (not a handle, or one that is damaged), EUNSUPPORTED, ECLOSED (its opener has closed it),
 * -EACCES (of another user), -EUSERS (1023 have it), -EEXIST (the fixed address is taken), -ESRCH (no process has a pool
 * open on the path), -ENOENT (no such path, or no /proc), and those of bufpool_open(). On an error nothing is left open. */
BUFPOOL_API int bufpool_attach(const bufpool_config *config, const bufpool_handle *handle, bufpool_pool **pool);

/* ---- A pool of memory that the program has ---- */

/* Makes a pool of memory that the program has mapped itself, as of an engine that carves its buffers out of shared memory:
 * length bytes at base, both multiples of the mapping's page size. Private and shared anonymous memory, memfd, POSIX and
 * System V shared memory, files on tmpfs, and huge pages of hugetlbfs, private or shared; what else may be mapped is refused
 * by name. The whole range has to be mapped readable and writable, of one memory (/proc/self/smaps tells), not locked, not
 * MADV_MERGEABLE, not registered with a userfaultfd, and no pool's. fd: the file that is mapped there, for a check; or -1. It stays the
 * caller's, and is not needed.
 *
 * The pool has the mapping as it is. All its pages are allocated and keep their content; those without a frame get one of
 * zeros. Under pins "write" and "all" they are closed when this returns, until they are pinned: nobody else may use the
 * memory during the call. A page that is freed or evicted loses its frame: of shared memory for everybody who has it, while
 * only who has the pool is trapped there. bufpool_close() gives the mapping back, accessible and untrapped, with what is in
 * it (freed pages are holes); nothing ever takes its place. It has to stay mapped until then. Afterwards its addresses are
 * the program's again, and do not trap.
 *
 * Of config, capacity, memory and granule are not looked at; page_size 0 is one page of the mapping. trap is "auto", "uffd"
 * (Linux 5.14; closing pages as for pins) or "mprotect". Refused are numa, audit, sample and the flags LAZY_ZERO, LOCK,
 * DUMP, RESERVE, DISCARD, MONITOR, FIXED_ADDRESS, RED_ZONES and PIN_KEYS. Such a pool cannot be handed on by
 * bufpool_share(): each process adopts its own mapping, and knows of no other's states, but for forked children.
 *
 * Differences to other pools. A stray access to an unpinned page that is answered in place (raise, resume) goes through, as
 * to a read-only one (BUFPOOL_FAULT_WENT_THROUGH). Under trap mprotect a page that is allocated again can be seen while it
 * is filled. Private memory with pins "all" is closed by mprotect under trap uffd, too: each page that is open takes up to
 * two mappings (vm.max_map_count), and a stray access raises SIGSEGV. System V segments of small pages are not for
 * userfaultfd: trap mprotect, and the kernel never joins what was cut there, so that each page that was ever pinned takes a
 * mapping, to the end. bufpool_inspect() cannot tell the frames of shared memory.
 *
 * Fork. With "inherit" a child has the pool as its own: of shared memory (trap uffd) the same pages and page states, of
 * private memory a copy. Pins and what they open are each process's own, the child beginning with its parent's; so is
 * bufpool_close(). With "exclude" the child has the mapping as any other, untrapped, and may adopt it anew. Where it cannot
 * have the pool (shared memory under mprotect; an error) the mapping is inaccessible there. A child made past the fork
 * handlers has the mapping untrapped, but what mprotect has closed stays closed.
 *
 * Thread-safe. Errors: EARGUMENT, EUNSUPPORTED (a mapping that cannot be trapped), EEXHAUSTED (no frames for all of it), and
 * those of bufpool_open(). On an error the mapping is as it was. */
BUFPOOL_API int bufpool_adopt(void *base, uint64_t length, int fd, const bufpool_config *config, bufpool_pool **pool);

/* Tries memory and trap ("auto" for the first that works) on a small pool of its own and closes it. Returns 0, or
 * EUNSUPPORTED with the reason and what would change it in bufpool_last_error(). trap_found, if not NULL, receives the
 * trap's name (16 bytes are enough). */
BUFPOOL_API int bufpool_probe(const char *memory, const char *trap, char *trap_found, size_t size);

/* Is there a memory protection key for BUFPOOL_PIN_KEYS? Returns 0, or EUNSUPPORTED with the reason in bufpool_last_error(). */
BUFPOOL_API int bufpool_probe_keys(void);

/* Is there io_uring, for bufpool_read_from() and bufpool_write_to() with O_DIRECT? It takes a library that was built with
 * liburing, and a kernel that does not refuse it. Returns 0, or EUNSUPPORTED with the reason in bufpool_last_error(). Sets up
 * a ring and closes it. Thread-safe; not async-signal-safe. */
BUFPOOL_API int bufpool_probe_uring(void);

/* The n-th known name, or NULL past the last one; static strings. The memory "path" stands for any path.
 * Async-signal-safe. */
BUFPOOL_API const char *bufpool_memory_name(size_t n);
BUFPOOL_API const char *bufpool_trap_name(size_t n);

/* Do memory ("path", or any path) and trap go together, on a system that has both? Returns 0, and in users (may be NULL)
 * whose stray accesses trap: those of the process that opened the pool; of others that map its memory and arm it; of any
 * that just map it. EUNSUPPORTED with the reason in bufpool_last_error() if they never do; EARGUMENT (unknown name). */
#define BUFPOOL_USERS_ONE 1u
#define BUFPOOL_USERS_ATTACHED 2u
#define BUFPOOL_USERS_ANYONE 4u
BUFPOOL_API int bufpool_cell(const char *memory, const char *trap, uint32_t *users);

/* ---- Pages ----------------------------------------------------------------------------------------------------- */

typedef enum bufpool_state {
    BUFPOOL_STATE_UNALLOCATED = 0, /* never allocated */
    BUFPOOL_STATE_ALLOCATED = 1,
    BUFPOOL_STATE_FREED = 2,
    BUFPOOL_STATE_EVICTED = 3, /* no frame, but the number stays taken until populate or free */
    BUFPOOL_STATE_CLOSED = 4,  /* of every page, once the pool is closed */
    /* Only of fault reports; the page is allocated: */
    BUFPOOL_STATE_UNPINNED = 5,  /* nobody has pinned it */
    BUFPOOL_STATE_READ_ONLY = 6, /* nobody has pinned it for writing */
    BUFPOOL_STATE_RED_ZONE = 7   /* beside the page, which may have any state: see BUFPOOL_RED_ZONES */
} bufpool_state;

BUFPOOL_API const char *bufpool_state_name(bufpool_state state); /* "unallocated", ...; async-signal-safe */

/* Allocates a free page and fills it with size bytes of data, the rest with zeros; data NULL (size 0): all zeros. Each
 * granule of the page appears whole: another thread finds the content or a trap, never half. Numbers are given out in
 * rising order, so that a freed one is used again late: after the last number, or, in a pool that is far from full,
 * when at least 1024 and a quarter of the numbers given out so far are free again. Errors: EARGUMENT (size > page
 * size), EEXHAUSTED, ECLOSED, ESTRAY (data lies in a page that is not accessible; under that pool's "abort" the process
 * ends), -EFAULT (data is not readable; with BUFPOOL_HOST_HANDLER the host's handler must be there for that). With trap
 * "none" a page is an ordinary one: filled by memcpy, not at once. */
BUFPOOL_API int bufpool_allocate(bufpool_pool *pool, const void *data, size_t size, uint64_t *page);

/* The same for a given number. Errors: as above, and ESTATE when the page is allocated or evicted, or another call has been
 * changing it for some milliseconds. */
BUFPOOL_API int bufpool_allocate_at(bufpool_pool *pool, uint64_t page, const void *data, size_t size);

/* Allocates count pages of zeros, all or none; pages receives count numbers, in runs of neighbours where the pool has
 * them. A count of 0 does nothing. Errors: as bufpool_allocate(). */
BUFPOOL_API int bufpool_allocate_many(bufpool_pool *pool, size_t count, uint64_t *pages);

/* The same, filled from data, which holds count whole pages one after the other. */
BUFPOOL_API int bufpool_allocate_filled(bufpool_pool *pool, size_t count, const void *data, uint64_t *pages);

/* Takes the frame away: the next touch traps (but see bufpool_config.free_lag). Accepts allocated and evicted pages; their
 * number becomes free.
 * Errors: EARGUMENT (no such number), ESTATE (double free, never allocated, pinned), ECLOSED, -errno (the page is as it was).
 */
BUFPOOL_API int bufpool_free(bufpool_pool *pool, uint64_t page);

/* Checks every number first (twice the same one is ESTATE) and refuses the whole batch on any error. If the kernel
 * fails midway, bufpool_last_done() pages from the front are freed, the others are as they were. */
BUFPOOL_API int bufpool_free_many(bufpool_pool *pool, size_t count, const uint64_t *pages);

/* Takes the frames of all pages that lag (see bufpool_config.free_lag) when it is called: from the return on they trap, but
 * for those that were allocated meanwhile. Does nothing where none do. Thread-safe; not async-signal-safe. Errors: EARGUMENT,
 * ECLOSED, -errno: the kernel refuses, and those that are left lag on. */
BUFPOOL_API int bufpool_settle(bufpool_pool *pool);

/* Takes the frame away and keeps the number taken (state "evicted"). Errors: as free; ESTATE unless allocated. */
BUFPOOL_API int bufpool_evict(bufpool_pool *pool, uint64_t page);
BUFPOOL_API int bufpool_evict_many(bufpool_pool *pool, size_t count, const uint64_t *pages);

/* Gives evicted pages a frame and their content again, all or none. data as in bufpool_allocate(), or count whole pages
 * one after the other (NULL: zeros). Errors: as allocate; ESTATE unless evicted. */
BUFPOOL_API int bufpool_populate(bufpool_pool *pool, uint64_t page, const void *data, size_t size);
BUFPOOL_API int bufpool_populate_many(bufpool_pool *pool, size_t count, const uint64_t *pages, const void *data);

/* Frames
 *
 * A frame is page_size bytes of private memory that the program fills by any means (its own I/O, O_DIRECT too, decryption,
 * checksums) before it is a page, or gets with a page's content. Frames are aligned to the granule, belong to this process
 * (a forked child has not got its parent's), and are the program's until they are published, unstaged, or the pool is closed:
 * from then on they must not be touched; where frames are moved, and after close, a touch is a crash. At most the memory of
 * the system limits how many are staged. They are not in core dumps (BUFPOOL_DUMP).
 *
 * Memory anon and thp under trap uffd (Linux 6.8) have their frames moved, with no copy of the content; so neighbouring
 * pages with neighbouring frames, which a batch gives out where it can, are cheapest. Else, and where the kernel refuses to
 * move a frame (after a fork, until the page is written to; one that a device or io_uring has), the content is copied:
 * bufpool_statistics counts both.
 *
 * All five may be called from any thread; not async-signal-safe. Arguments are checked first, and a batch with a wrong one is
 * refused whole. If the kernel fails midway, bufpool_last_done() pages from the front are done; the others, and their frames,
 * are as they were. A count of 0 does nothing. */

/* Hands out count frames. Their content is not specified. Errors: EARGUMENT, ECLOSED, EEXHAUSTED (no memory), -errno. */
BUFPOOL_API int bufpool_stage(bufpool_pool *pool, size_t count, void **frames);

/* Each page, free or evicted, by its number, becomes allocated with the content of its frame, and appears whole: another
 * thread finds the content or a trap. The frames are used up. Errors: EARGUMENT (no such page; not a staged frame, or twice),
 * ESTATE (the page is allocated, or given twice), ECLOSED, EEXHAUSTED (no memory for a copy), -EFAULT (a frame without memory),
 * -errno. */
BUFPOOL_API int bufpool_publish(bufpool_pool *pool, size_t count, void **frames, const uint64_t *pages);

/* Each page, allocated, becomes evicted, and its content is in frames[i], a frame as from bufpool_stage(). From the return on
 * every touch traps; what was written to the page before it trapped is in the frame. While a page is copied, not moved, it is
 * read-only for this process, and a write to it traps; another process that has it, too, may write to it until it is gone, and
 * that write can be lost. With BUFPOOL_SCRUB the frame of a copied page is not overwritten. Errors: EARGUMENT, ESTATE (not allocated, pinned, twice), ECLOSED, EEXHAUSTED (no memory), -errno;
 * -ENOMEM: no mapping is left (vm.max_map_count). */
BUFPOOL_API int bufpool_withdraw(bufpool_pool *pool, size_t count, const uint64_t *pages, void **frames);

/* Gives frames back unused. Errors: EARGUMENT (not a staged frame, or twice), ECLOSED. */
BUFPOOL_API int bufpool_unstage(bufpool_pool *pool, size_t count, void **frames);

/* The victim, allocated, becomes evicted, and page, free or evicted, becomes allocated with the victim's content, which its
 * owner then overwrites in place. Where frames are moved, the victim's becomes the page's in one step. Errors: as withdraw and
 * publish; then both are as they were. */
BUFPOOL_API int bufpool_replace(bufpool_pool *pool, uint64_t victim, uint64_t page);

/* Pages from a file, and to it
 *
 * Page i of the batch is page_size bytes from byte offsets[i] of the file on. Neighbours of the batch whose offsets follow
 * each other are one request; so sort by offset. A descriptor may be open with O_DIRECT, of a file or a block device: then
 * the requests of a batch are in flight together where there is io_uring, see bufpool_probe_uring(): of a write 128 at most,
 * of a read 2 MiB of pages at most, so that pages larger than 1 MiB are read one after the other. By way of the page cache
 * what is not there is read ahead together, as far. What EINTR or a short count has left is asked for again.
 *
 * Arguments are checked first, and a batch with a wrong one is refused whole: EARGUMENT (NULL, no such page, one that comes
 * twice, an offset of more than INT64_MAX - page_size; O_APPEND, which has every write go to the end), -EBADF (fd is not open for it), ECLOSED, EEXHAUSTED (no memory for a
 * buffer); results then stays as it is. Beyond that each page fails for itself: results, if not NULL, receives 0 or a
 * negative code for each. 0 is returned if no page has failed; else the code of the first that has, and
 * bufpool_last_done() is how many have not. A count of 0 does nothing.
 *
 * May be called from any thread; not async-signal-safe. bufpool_close() and fork() in other threads wait until a batch is
 * over. Reading takes a buffer of 2 MiB at most, or of one page if that is larger. */

/* Each page, free or evicted, by its number, becomes allocated with what the file has, and appears whole: a page that has
 * failed is what it was. Codes of a page: -ENODATA (the file ends before the page does), ESTATE (it is allocated, or
 * somebody else allocates it meanwhile), EEXHAUSTED (no frames), -EIO and others of read(2); -EINVAL: an offset that is not
 * aligned as O_DIRECT wants it. */
BUFPOOL_API int bufpool_read_from(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets,
                                  const uint64_t *pages, int *results);

/* The pages, allocated, are written, straight from their frames, and stay as they are; nothing is synced. Where pins are
 * counted each is pinned for reading meanwhile. Where offsets overlap, any of these pages may be the last. Codes of a page:
 * ESTATE (not allocated), -EFAULT or ESTATE (freed or evicted meanwhile: the file may have any part of it), -ENOSPC, -EIO
 * and others of write(2). */
BUFPOOL_API int bufpool_write_to(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets,
                                 const uint64_t *pages, int *results);

/* The page's first byte; NULL if there is no such number. The address is fixed for the pool's life. Async-signal-safe.
 */
BUFPOOL_API void *bufpool_address(const bufpool_pool *pool, uint64_t page);

/* The page's state at this moment. Async-signal-safe. Errors: EARGUMENT. */
BUFPOOL_API int bufpool_page_state(const bufpool_pool *pool, uint64_t page, bufpool_state *state);

/* Writes to pages the numbers >= from whose state is state, in rising order, at most count; returns in found how many.
 * Of "unallocated" only those below the highest number ever used. A snapshot without a lock. Errors: ECLOSED. */
BUFPOOL_API int bufpool_list(bufpool_pool *pool, bufpool_state state, uint64_t from, size_t count, uint64_t *pages,
                             size_t *found);

/* Pins
 *
 * Who uses a page says so: pins it, for reading or for writing, and unpins it when done, in any thread. Pins are counted
 * by page and kind, nest, and are this process's own: of a pool that several have, the others know nothing of them. What a
 * pool makes of pins is config.pins. With "off" the calls are one predictable branch and return 0, so that an engine may
 * leave them in its release build. A forked child begins with the pins that its parent had at the fork. */

/* Errors: EARGUMENT (no such number); ESTATE: the page is not allocated, or has 32767 pins of that kind; ECLOSED; -errno: the
 * kernel does not open it, as -ENOMEM with traps mprotect and guard, which need a mapping for that: it is not pinned then. */
BUFPOOL_API int bufpool_pin(bufpool_pool *pool, uint64_t page, bool write);

/* Gives back a read pin if the page has one, else a write pin: so nothing is closed that somebody may still use. Errors:
 * EARGUMENT; ESTATE: the page has no pin; ECLOSED; -errno: the kernel does not close it: it stays pinned then. */
BUFPOOL_API int bufpool_unpin(bufpool_pool *pool, uint64_t page);

/* Gives back a pin of just that kind. */
BUFPOOL_API int bufpool_unpin_for(bufpool_pool *pool, uint64_t page, bool write);

/* Pins all or, on an error, none; a page that comes twice gets two pins. */
BUFPOOL_API int bufpool_pin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write);

/* Unpins one after the other; on an error bufpool_last_done() of them, from the front, are unpinned. */
BUFPOOL_API int bufpool_unpin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write);

/* Audit
 *
 * Which clean pages were written behind the pool's back? With config.audit a page is watched while it is clean: from the
 * moment its last write pin goes (pins "count"), or bufpool_mark_clean() says so, until it is pinned for writing,
 * bufpool_mark_dirty() says that it is to change, or it is freed or evicted. A page that was just filled is not clean yet.
 * Clean is what this process says, so the pool has to be its own: once another process has attached, or a forked child has
 * the memory together with it, bufpool_audit() refuses. In a child with a copy of private memory, "track" has no page as
 * clean. */

/* From here on nobody is to write these pages. One after the other; on an error bufpool_last_done() of them, from the front,
 * are marked. Again for one that is clean: its content is right as it stands. With audit "off" nothing happens, at the cost
 * of a predictable branch. Errors: EARGUMENT (no such number); ESTATE: not allocated, or pinned for writing; ECLOSED;
 * -errno of the kernel. */
BUFPOOL_API int bufpool_mark_clean(bufpool_pool *pool, size_t count, const uint64_t *pages);

/* They may be written: to be called before the first write. Errors: EARGUMENT, ECLOSED. */
BUFPOOL_API int bufpool_mark_dirty(bufpool_pool *pool, size_t count, const uint64_t *pages);

typedef struct bufpool_location {
    size_t size; /* sizeof(bufpool_location) */
    bufpool_pool *pool;
    uint64_t page;
    uint64_t offset; /* bytes from the page's start; in a red zone, of the nearer page, as in bufpool_fault */
} bufpool_location;

#define BUFPOOL_LOCATION_INIT {sizeof(bufpool_location), NULL, 0, 0}

/* Which page of which pool an address lies in; closed pools count. Lock-free, async-signal-safe.
 * Errors: EARGUMENT when it is in no pool. */
BUFPOOL_API int bufpool_locate(const void *address, bufpool_location *location);

/* The ways to fill a granule, and to take its frame away. Which of them a pool takes depends on its memory and trap, on
 * what the running kernel was found to allow when the pool was opened, and, where a frame could be moved or not, on which was
 * measured to be quicker when the first such pool of the process was opened. */
typedef enum bufpool_way {
    BUFPOOL_WAY_MOVE = 0,      /* a kept frame is filled out of sight and moved there: UFFDIO_MOVE, Linux 6.8 */
    BUFPOOL_WAY_HUGE_MOVE = 1, /* the same with a fresh transparent huge page, whole */
    BUFPOOL_WAY_ZEROPAGE = 2,  /* with LAZY_ZERO: the shared page of zeros is mapped */
    BUFPOOL_WAY_COPY = 3,      /* UFFDIO_COPY of data or zeros to a fresh frame */
    BUFPOOL_WAY_CONTINUE = 4,  /* what the file has is shown: UFFDIO_CONTINUE */
    BUFPOOL_WAY_WRITE =
        5, /* the file is written behind the mapping: pwrite, or fallocate and a mapping for the while */
    BUFPOOL_WAY_TOUCH = 6, /* a plain copy: trap "none" (of zeros: the first touch), and mprotect on adopted memory */
    BUFPOOL_WAY_MOVE_OUT =
        7, /* the frame is moved to where it is kept, or given back with others, and the page traps: UFFDIO_MOVE */
    BUFPOOL_WAY_BATCH = 8,  /* many scattered pages with one request: process_madvise on this process, Linux 6.13; of
                               a file they are unmapped so, and punched one by one */
    BUFPOOL_WAY_DROP = 9,   /* one run of neighbours by a request: MADV_DONTNEED, or mapped anew */
    BUFPOOL_WAY_PUNCH = 10, /* a hole punched into the file */
    /* Of publish, withdraw and replace; in no list of ways, since the frame is the program's. */
    BUFPOOL_WAY_FRAME_MOVE = 11, /* a staged frame becomes the page's, or the other way round: UFFDIO_MOVE */
    BUFPOOL_WAY_FRAME_COPY = 12, /* its content is copied; the ways that fill and empty the page count beside it */
    BUFPOOL_WAYS = 24            /* places for them in bufpool_statistics */
} bufpool_way;

/* "move", "copy", "process_madvise", ...; "" for what is none. Async-signal-safe. */
BUFPOOL_API const char *bufpool_way_name(bufpool_way way);

typedef struct bufpool_statistics {
    size_t size;          /* sizeof(bufpool_statistics) */
    uint64_t capacity;    /* bytes */
    uint64_t page_size;   /* bytes */
    uint64_t granule;     /* bytes; the smallest unit that traps */
    uint64_t address;     /* of page 0 */
    uint64_t pages;       /* capacity / page_size */
    uint64_t allocated;   /* pages, now */
    uint64_t evicted;     /* pages, now */
    uint64_t scratched;   /* pages, now: diverted to the scratch pattern after a stray access, not yet re-armed */
    uint64_t high_water;  /* 1 + the highest page number ever claimed for an allocation */
    uint64_t allocations; /* pages, since open */
    uint64_t frees;       /* pages, since open */
    uint64_t evictions;   /* pages, since open */
    uint64_t populates;   /* pages, since open */
    uint64_t faults;      /* stray accesses trapped since open */
    uint64_t repeats; /* faults not reported again: the same access, re-armed by another thread before it was over */
    uint64_t scratch_maps; /* times a granule was diverted: accesses to it were invisible until it was re-armed */
    uint64_t scratch_ns;   /* total time during which diverted granules could hide a further stray access */
    uint64_t reports_lost; /* faults that were counted but could not be kept or written in full */
    /* Frames of freed or evicted pages (which trap) that are kept for reuse, or to be given back many at a time, now: at most
     * 256. */
    uint64_t frames_kept;
    uint64_t recycled; /* times a granule was filled by such a frame, since open */
    char name[64];
    char memory[64];
    char trap[16];
    char on_fault[16];
    char backing[32];      /* what the frames really are: "private anonymous", "memfd", "huge pages", ... */
    char trap_note[768];   /* for trap "auto": why the traps tried before it were not used; else empty */
    uint64_t huge_fills;   /* granules that were filled with one huge page, since open */
    uint64_t small_fills;  /* granules of memory thp that were filled with small pages, since open */
    uint64_t reserve_lost; /* with RESERVE: huge pages that could not be reserved again after a free, since open */
    char memory_note[256]; /* where memory, numa, lock, dump came out as less than, or other than, asked; else empty */
    char provenance[8];    /* "off", "last" or "stacks" */
    uint64_t provenance_lost; /* calls of which the thread or the stack could not be kept: the tables were full */
    uint64_t restarts;        /* optimistic sections that a hole has restarted, since open; see optimistic.h */
    uint64_t reports_limited; /* reports that were only counted, not written in full: see report_limit */
    uint64_t faults_all;      /* stray accesses trapped in all the processes that have, or had, the pool */
    uint32_t members;         /* processes that have the pool; 1 if it is private to this one, 0 when closed */
    uint64_t red_zone;        /* bytes, before each page and after the last; 0: none. See BUFPOOL_RED_ZONES */
    uint64_t quarantined;     /* freed pages whose numbers rest, now: see bufpool_config.quarantine */
    uint64_t pins;            /* held now, by this process */
    uint64_t pin_operations;  /* pins and unpins by this process, since open; 0 while pins is "off" */
    char pins_mode[8];        /* "off", "count", "write", "all" */
    uint64_t clean;           /* pages that are watched, now: see bufpool_config.audit */
    char audit[16];           /* "off", "track", "checksum" */
    uint64_t sample;          /* one allocation in so many is guarded; 0: none. See bufpool_config.sample */
    uint64_t seed;            /* that is used, 0 without sample */
    uint64_t sampled;         /* pages that were chosen, since open */
    /* The ways that granules are filled, in the order in which they are tried, as "move, copy"; "" when closed. */
    char fill_ways[64];
    char zap_ways[64];           /* the same of taking frames away, as "move out, process_madvise, madvise" */
    uint64_t ways[BUFPOOL_WAYS]; /* granules that went each way, since open, by this process; by bufpool_way */
    /* Times a way was refused at the moment, and another taken: since somebody holds the frame or changes the mapping (EBUSY,
     * EAGAIN), for want of memory, and for any other reason (a filter that came later, locked memory). */
    uint64_t ways_busy;
    uint64_t ways_memory;
    uint64_t ways_refused;
    uint64_t staged;        /* frames that the program has, now, in this process */
    uint64_t frames_moved;  /* pages that were published, withdrawn or replaced by moving their frame, since open; */
    uint64_t frames_copied; /* and by copying their content */
    /* By bufpool_read_from() and by bufpool_write_to(), since open, by this process; how many requests of the kernel that took;
     * and how many of these were in flight together, by io_uring. */
    uint64_t pages_read;
    uint64_t pages_written;
    uint64_t io_requests;
    uint64_t io_queued;
    uint64_t lagging;    /* freed pages that do not trap yet, now: see bufpool_config.free_lag; */
    uint64_t lag_reused; /* and pages that were allocated into such a frame, since open */
} bufpool_statistics;

#ifdef __cplusplus /* C++11 has no designated initialisers */
static inline bufpool_statistics bufpool_statistics_init(void)
{
    bufpool_statistics zeroed = bufpool_statistics();
    zeroed.size = sizeof zeroed;
    return zeroed;
}
#define BUFPOOL_STATISTICS_INIT bufpool_statistics_init()
#else
#define BUFPOOL_STATISTICS_INIT {.size = sizeof(bufpool_statistics)}
#endif

/* Counters are read one by one, not as one snapshot. Works on a closed pool. */
BUFPOOL_API int bufpool_stats(const bufpool_pool *pool, bufpool_statistics *statistics);

/* ---- Checking -------------------------------------------------------------------------------------------------- */

/* What can be wrong with a page. */
typedef enum bufpool_wrong {
    BUFPOOL_WRONG_ABANDONED = 1,  /* amid a change, by a process that is gone: nobody ends it */
    BUFPOOL_WRONG_LOST_FRAME = 2, /* allocated, and its frame is gone, or part of it: somebody punched the file */
    /* Not allocated, and has a frame: what touches it may not trap. Under trap guard it traps all the same: the kernel, amid
     * a touch while the page is freed or armed again, gives the file a frame of zeros behind the guard (seen on Linux
     * 6.18; guards are set without waiting for such faults). It serves when the page is filled again. */
    BUFPOOL_WRONG_STRAY_FRAME = 3,
    BUFPOOL_WRONG_INDEX = 4,   /* the index of free numbers says otherwise: a free number is never given out */
    BUFPOOL_WRONG_SCRATCH = 5, /* withheld for the scratch pattern, which nobody shows there */
    BUFPOOL_WRONG_STATE = 6    /* its state word means nothing: no call can change it */
} bufpool_wrong;

BUFPOOL_API const char *bufpool_wrong_name(bufpool_wrong wrong); /* "abandoned", ...; async-signal-safe */

typedef struct bufpool_wrong_page {
    uint64_t page;
    bufpool_wrong what;
    bufpool_state state; /* of the page; of one that is amid a change, the state that it comes from */
} bufpool_wrong_page;

#define BUFPOOL_WRONG_PAGES 16

typedef struct bufpool_findings {
    size_t size;           /* sizeof(bufpool_findings) */
    uint64_t pages;        /* all; the sum of the next five */
    uint64_t allocated;    /* pages, as the next four */
    uint64_t evicted;      /* */
    uint64_t free;         /* never allocated, or freed */
    uint64_t busy;         /* amid a change by a process that lives */
    uint64_t abandoned;    /* amid a change by one that is gone */
    uint64_t lost_frames;  /* pages; so the next */
    uint64_t stray_frames; /* */
    uint64_t index_wrong;  /* bits of the index, of any level */
    uint64_t counts_wrong; /* of the pool's counts (pages in use, evicted, taken; the highest number): 0 unless exact */
    uint64_t scratched;    /* pages that are withheld for the scratch pattern */
    uint64_t scratch_wrong; /* of those, pages where nobody shows it */
    uint64_t states_wrong;  /* pages */
    uint64_t repaired;      /* how many of the above were put right */
    uint32_t exact;         /* 1: nobody changed anything meanwhile, and this is the truth; 0: see bufpool_inspect() */
    uint32_t wrong_count;   /* entries used in wrong: the first that were found */
    bufpool_wrong_page wrong[BUFPOOL_WRONG_PAGES];
    uint64_t lagging; /* of the free pages, those that keep their frame: see bufpool_config.free_lag */
} bufpool_findings;

#ifdef __cplusplus /* C++11 has no designated initialisers */
static inline bufpool_findings bufpool_findings_init(void)
{
    bufpool_findings zeroed = bufpool_findings();
    zeroed.size = sizeof zeroed;
    return zeroed;
}
#define BUFPOOL_FINDINGS_INIT bufpool_findings_init()
#else
#define BUFPOOL_FINDINGS_INIT {.size = sizeof(bufpool_findings)}
#endif

#define BUFPOOL_REPAIR 1u

/* Compares the page states with the frames that the kernel shows, with the index of free numbers, with the counts, and
 * with the processes that live. Touches no page. Takes a microsecond or so for each page in use (with huge pages, for
 * each page of the pool), and needs no pause of others: of a pool at work, what is reported wrong was so at several
 * looks, and what is just being changed is passed over (busy; exact is 0).
 * Pages that may get their frames later (LAZY_ZERO under guard or mprotect; trap "none") are not looked for as lost.
 *
 * REPAIR puts right what it can: abandoned pages become what they were, or what they were to be; stray frames are taken
 * away, with what is in them; numbers that the index has lost come back; counts are counted anew, if nobody is changing
 * anything. Lost frames stay as they are, reported: their content is gone, and free or evict says so. Findings are those
 * before the repair. A page that is being repaired is for that moment one "that another thread is changing" (ESTATE).
 *
 * Thread-safe. Errors: EARGUMENT, ECLOSED, EUNSUPPORTED (a memory whose frames cannot be told here: the sentence says
 * why), -ENOMEM, -errno. */
BUFPOOL_API int bufpool_inspect(bufpool_pool *pool, uint32_t flags, bufpool_findings *findings);

/* ---- Faults ---------------------------------------------------------------------------------------------------- */

typedef enum bufpool_access { BUFPOOL_READ = 0, BUFPOOL_WRITE = 1, BUFPOOL_EXECUTE = 2 } bufpool_access;

#define BUFPOOL_STACK_DEPTH 32

#define BUFPOOL_FAULT_RACED 1u  /* the page was allocated between the access and the report */
#define BUFPOOL_FAULT_FORKED 2u /* made in a forked child that has not got the pool */
#define BUFPOOL_FAULT_LOST 4u /* the page is allocated, but its frame is gone: somebody truncated or punched its file */
#define BUFPOOL_FAULT_INHERITED 8u /* made in a forked child, to its own pool, which it has inherited */
#define BUFPOOL_FAULT_LIMITED 16u  /* over the pool's report_limit: only counted, not written to stderr and the log */
#define BUFPOOL_FAULT_TOLD 32u     /* answered and written already: from bufpool_told() */
#define BUFPOOL_FAULT_WENT_THROUGH 128u /* a write to a read-only page, which is let through: see config.pins */
#define BUFPOOL_FAULT_OTHERS_PIN 256u   /* with PIN_KEYS: the write pin of the page is another thread's */
#define BUFPOOL_FAULT_FOREIGN 64u       /* made by another process, with process_vm_readv() for example */

typedef enum bufpool_event {
    BUFPOOL_EVENT_NONE = 0,
    BUFPOOL_EVENT_ALLOCATE = 1,
    BUFPOOL_EVENT_POPULATE = 2,
    BUFPOOL_EVENT_FREE = 3,
    BUFPOOL_EVENT_EVICT = 4,
    BUFPOOL_EVENT_CLOSE = 5, /* of the whole pool */
    BUFPOOL_EVENT_PIN = 6,
    BUFPOOL_EVENT_UNPIN = 7
} bufpool_event;

BUFPOOL_API const char *bufpool_event_name(bufpool_event event); /* "allocate", ...; async-signal-safe */

#define BUFPOOL_ORIGIN_DEPTH 16

/* Who did something to a page, in whichever process, as far as the pool's provenance keeps it. A sequence of 0: not recorded, and nothing else
 * is filled in. A thread_id of 0: by a thread that is not known any more. */
typedef struct bufpool_origin {
    uint64_t sequence; /* counts the calls that changed this pool's pages, from 1; a batch is one call. Modulo 2^39 */
    int64_t time_ns;   /* since the epoch, CLOCK_REALTIME as it stands now; exact to 66 microseconds */
    uint32_t event;    /* bufpool_event */
    int32_t thread_id;
    int32_t pid;
    uint32_t stack_depth;                 /* entries used in stack; 0 unless provenance is "stacks" */
    char thread_name[16];                 /* as it was at the thread's first call that was recorded */
    uint64_t stack[BUFPOOL_ORIGIN_DEPTH]; /* return addresses, innermost first, beginning with the library's caller */
    char caller[512];                     /* what bufpool_set_caller() said; unless provenance is "stacks": empty */
    char process_name[16];                /* of pid, as it was then; "": not known */
    uint32_t foreign; /* bit n is set: stack[n] is an address of process pid, and means nothing in this one */
    uint32_t unused;
} bufpool_origin;

#define BUFPOOL_NO_PAGE UINT64_MAX

typedef struct bufpool_fault {
    size_t size;       /* sizeof(bufpool_fault) */
    uint64_t sequence; /* counts the faults of this process from 1; 0 in a callback, before it is counted */
    uint64_t address;  /* exact to the byte */
    uint64_t pc;       /* the instruction that made the access */
    uint64_t page;
    uint64_t offset; /* bytes from the page's start. In a red zone, of the nearer page: page_size or more past its end;
                      * before its beginning as a negative number, (int64_t)offset */
    uint64_t pool_address;
    uint64_t pool_capacity; /* bytes */
    uint64_t page_size;     /* bytes */
    int64_t time_ns;        /* since the epoch, CLOCK_REALTIME */
    int32_t pid;
    int32_t thread_id;
    int32_t signal; /* SIGBUS or SIGSEGV */
    uint32_t flags; /* BUFPOOL_FAULT_... */
    bufpool_access access;
    bufpool_state state;  /* of the page when the fault was taken up */
    uint32_t stack_depth; /* entries used in stack */
    char thread_name[16];
    char pool_name[64];
    char memory[64];
    char trap[16];
    uint64_t stack[BUFPOOL_STACK_DEPTH]; /* return addresses, innermost first; stack[0] is pc */
    uint64_t below;                      /* the nearest allocated page below the page, BUFPOOL_NO_PAGE: none near */
    uint64_t above;                      /* the same above; up to 4096 pages are looked at on either side */
    bufpool_origin allocated;            /* who allocated or populated the page last */
    /* Who freed or evicted it last; or closed the pool, if that came later. Of an unpinned or read-only page, who unpinned
     * it last. */
    bufpool_origin freed;
    /* In a forked child: of which process, and why the pool was not inherited; or that the program has closed the pool's
     * descriptors; else empty. */
    char fork_note[256];
    char in_syscall[32];   /* the system call that made the access, "write" or "syscall 999"; "": the program itself */
    char process_name[16]; /* of pid */
    uint64_t red_zone;     /* bytes, before each page and after the last; 0: the pool has none */
    uint64_t seed;       /* of a pool that samples: with it the run can be repeated, see bufpool_config.seed; else 0 */
    uint32_t sample;     /* of such a pool, one allocation in so many is guarded; else 0 */
    uint32_t read_pins;  /* of an unpinned or read-only page, the pins that it has in this process, */
    uint32_t write_pins; /* of threads that may not be this one */
    uint32_t unused;
    bufpool_origin pinned; /* of such a page that has pins, who pinned it last */
} bufpool_fault;

#ifdef __cplusplus /* C++11 has no designated initialisers */
static inline bufpool_fault bufpool_fault_init(void)
{
    bufpool_fault zeroed = bufpool_fault();
    zeroed.size = sizeof zeroed;
    return zeroed;
}
#define BUFPOOL_FAULT_INIT bufpool_fault_init()
#else
#define BUFPOOL_FAULT_INIT {.size = sizeof(bufpool_fault)}
#endif

/* The report as text (several lines) or as one line of JSON without a line break. Cut to size and terminated; returns
 * the whole length. Async-signal-safe: no allocation, addresses print as module+offset read from /proc/self/maps. */
BUFPOOL_API size_t bufpool_format_text(const bufpool_fault *fault, char *buffer, size_t size);
BUFPOOL_API size_t bufpool_format_json(const bufpool_fault *fault, char *buffer, size_t size);
BUFPOOL_API const char *bufpool_access_name(bufpool_access access); /* async-signal-safe */

/* The function in this process that a code address lies in, as "memcpy+0x1c", if its module exports it; else "". For a
 * return address pass one less. Cut to size and terminated; returns the whole length. Not async-signal-safe: takes the
 * loader's lock. */
BUFPOOL_API size_t bufpool_symbol(uint64_t address, char *buffer, size_t size);

typedef enum bufpool_verdict {
    BUFPOOL_VERDICT_REPORT = 0,  /* do what on_fault says */
    BUFPOOL_VERDICT_RESTART = 1, /* the host has made the page accessible: run the instruction again, no report */
    BUFPOOL_VERDICT_RESUME = 2,  /* no report; the access completes on the scratch pattern */
    BUFPOOL_VERDICT_PASS = 3     /* no report; hand the signal to whoever had it before */
} bufpool_verdict;

/* Called in the signal handler, on the faulting thread, before any report: it may only use async-signal-safe functions.
 * A stray access that it makes itself is reported by itself and goes by on_fault, without another callback. RESTART for
 * one access 1000 times in a row in vain counts as REPORT. */
typedef bufpool_verdict (*bufpool_fault_callback)(const bufpool_fault *fault, void *context);

/* NULL removes it. Errors: ECLOSED. */
BUFPOOL_API int bufpool_set_fault_callback(bufpool_pool *pool, bufpool_fault_callback callback, void *context);

/* For a host with its own handler of SIGBUS and SIGSEGV: was it a stray access to one of our pools? Install it with
 * SA_SIGINFO | SA_NODEFER, SA_ONSTACK where threads have alternate stacks, and a mask with the signals whose handlers may
 * leave by longjmp. false: nothing was done, and the signal is the host's. true: it was dealt with by the
 * pool's on_fault, and the handler has to return.
 *
 *   abort   writes the report to stderr and the log; on return from the handler the signal's default action takes place
 *           at the faulting instruction, so that a core dump shows the true frame.
 *   resume  writes the report; the access completes on a scratch granule: the faulting granule is filled with
 *           BUFPOOL_POISON bytes and becomes accessible. It stays so until this thread's next call on any pool, or any
 *           thread's next call on this pool that comes 10 ms or more later, or until the number is wanted for an
 *           allocation. Until then accesses to that granule, by every thread, are not seen, and see the pattern;
 *           nothing of the pool's data is there. The number is not given out meanwhile. scratch_... in
 *           bufpool_statistics count what may have been hidden.
 *   raise   as resume, but in place of writing the report the fault is owed to the thread: bufpool_check() hands it
 *           over. When the thread ends without asking, the report is written by bufpool_flush() or at bufpool_close().
 *   freeze  writes the report and stops the thread at the instruction, for a debugger, until bufpool_thaw() or
 *           `bufpool thaw PID` lets it go on. Under trap uffd (Linux 5.18) it sleeps in the kernel on the very access,
 *           and the signal that brings the report is SIGBUS sent by the library; with the other traps, after a system
 *           call, and on a closed pool it waits in the handler. The process can be killed as ever. Closing the pool
 *           does not let a thread go on: it is reported again, state "closed", and stays.
 *
 * Where the scratch granule cannot be had (no memory, no mapping left, an execute access), abort takes its place.
 * Async-signal-safe. */
#ifdef SA_ONSTACK /* with plain -std=c11 <signal.h> has no siginfo_t: define _POSIX_C_SOURCE 200809L or _GNU_SOURCE */
BUFPOOL_API bool bufpool_handle_signal(int signo, siginfo_t *info, void *ucontext);
#endif

/* Puts our handlers of SIGBUS and SIGSEGV in front again, as bufpool_open() does, for a program in which something else
 * has installed a handler since, or has put back what was there before us: that something may have taken our place
 * without calling us. It is remembered, and gets what is not ours. Nothing happens where they are in front. Any thread;
 * not async-signal-safe. Errors: EUNSUPPORTED (something keeps the signals to itself), -errno. */
BUFPOOL_API int bufpool_install_handlers(void);

#define BUFPOOL_POISON 0xDB   /* of the scratch granule that a stray access completes on */
#define BUFPOOL_FRESH 0xCD    /* of a page that nobody has written yet, with fill "pattern" */
#define BUFPOOL_SCRUBBED 0xDF /* of a frame that was taken away, with BUFPOOL_SCRUB */

/* Which pattern are all of these bytes? "poison", "fresh", "scrubbed", or "": none, or they are not readable (then nothing
 * strays). Any thread; not async-signal-safe. */
BUFPOOL_API const char *bufpool_pattern(const void *address, size_t length);

/* Lets the threads go on that on_fault "freeze" has stopped in this pool, or (pool NULL) in any of this process. policy:
 * "resume" (or NULL): the access completes as under "resume"; "abort": the process ends at it as under "abort". Waits
 * until they have, two seconds at most for those that do not. Works on a closed pool. Returns how many there were.
 * Errors: EARGUMENT. */
BUFPOOL_API int bufpool_thaw(bufpool_pool *pool, const char *policy);

/* System calls
 *
 * A stray buffer that is handed to a system call raises no signal: the call fails with EFAULT, or does less than asked.
 * With BUFPOOL_MONITOR such an access is a fault like any other, with in_syscall set: a thread of the library's own, which
 * blocks all signals, is told of it by the kernel, lets the call end as it would have, and sends SIGBUS to the thread that
 * made the call, whose handler answers as the call ends: guarded calls, callbacks (RESTART and PASS count as RESUME, the
 * call being over) and on_fault as ever, "abort" at the instruction after the call. While the call ends, which takes
 * some ten microseconds, other system calls fail on that granule without a report.
 * Where the thread cannot be told (it blocks SIGBUS, it is a worker of io_uring, it belongs to another process) the report
 * has no stack, and goes to stderr also under "raise"; "abort" ends the process for its own threads only.
 * Not seen: /proc/PID/mem and ptrace (they get EIO), and calls on a pool that is closed. */

/* For those without that right: over which page did a system call on this buffer fall? Looks at page states only and
 * touches nothing. 0: every page of a pool in [address, address + length) is accessible, at this moment. ESTRAY: one is
 * not, and *fault (may be NULL) says what a report would: address is the first such byte, and access, pc and stack mean
 * nothing. Addresses outside of all pools are passed over. Errors: EARGUMENT (past the end of the addresses). */
BUFPOOL_API int bufpool_explain(const void *address, size_t length, bufpool_fault *fault);

/* The same, of a call that reads the buffer or (write) writes to it, as read(2) does: then read-only pages are not
 * accessible either (see config.pins); with PIN_KEYS as this thread's pins have it. */
BUFPOOL_API int bufpool_explain_for(const void *address, size_t length, bool write, bufpool_fault *fault);

/* Says where in the program this thread's next accesses come from, beyond its machine code, so that report_limit counts each
 * place for itself: an interpreter's line, as any number that differs from line to line. 0: nothing to say. Costs no more
 * than setting a variable. Async-signal-safe. */
BUFPOOL_API void bufpool_set_place(uint64_t place);

/* Hands over the oldest fault that this thread is owed, of any pool: ESTRAY and *fault filled in, or 0 when there is
 * none. Also re-arms this thread's scratch granules. */
BUFPOOL_API int bufpool_check(bufpool_fault *fault);

/* The same for faults owed to threads that have ended, of one pool or (pool NULL) of all. */
BUFPOOL_API int bufpool_check_ended(bufpool_pool *pool, bufpool_fault *fault);

/* What this thread's stray accesses to pools with BUFPOOL_TELL were that on_fault "resume" has answered: ESTRAY and the
 * oldest of them, or 0 when there is none. For a host that passes reports on to where no signal handler may write. At
 * most 4096 are kept for a thread; what comes on top is counted in reports_lost. */
BUFPOOL_API int bufpool_told(bufpool_fault *fault);

/* The same of threads that have ended, of one pool or (pool NULL) of all. */
BUFPOOL_API int bufpool_told_ended(bufpool_pool *pool, bufpool_fault *fault);

/* Writes to stderr the reports that are still owed to any thread, of one pool or (pool NULL) of all; they count as
 * handed over. Returns how many. */
BUFPOOL_API int bufpool_flush(bufpool_pool *pool);

/* Copies the faults that this pool had, oldest first, skipping those with sequence <= after; at most count. The pool
 * keeps its latest 256. Works on a closed pool. *found receives how many. */
BUFPOOL_API int bufpool_faults(const bufpool_pool *pool, uint64_t after, size_t count, bufpool_fault *faults,
                               size_t *found);

/* Who allocated (or populated) the page last, and who freed or evicted it last (or closed the pool with the page in it).
 * Either may be NULL. Sequence 0: not recorded, because it never happened, or provenance is "off", or it is happening at
 * this moment. Works on a closed pool. Async-signal-safe. Errors: EARGUMENT (no such page; without a sentence), ECLOSED
 * (given back). */
BUFPOOL_API int bufpool_page_history(const bufpool_pool *pool, uint64_t page, bufpool_origin *allocated,
                                     bufpool_origin *freed);

/* Who pinned and who unpinned the page last, in this process, as provenance keeps it of a pool that counts pins. As
 * bufpool_page_history(). */
BUFPOOL_API int bufpool_pin_history(const bufpool_pool *pool, uint64_t page, bufpool_origin *pinned,
                                    bufpool_origin *unpinned);

/* A clean page that has changed. */
typedef struct bufpool_changed {
    size_t size; /* sizeof(bufpool_changed) */
    uint64_t page;
    char pattern[16];         /* what bufpool_pattern() says of the whole page */
    bufpool_origin allocated; /* who allocated or populated it last; */
    bufpool_origin pinned;    /* who pinned it last, and */
    bufpool_origin unpinned; /* who unpinned it last: as far as provenance, and of pins where they are counted, knows */
} bufpool_changed;

/* Finds the clean pages >= from that have changed, in rising order, at most count; returns in found how many. A page that
 * was found is found again until it is marked, pinned for writing, or gone. It may run beside everything else: what is
 * written legally is never found. size of each entry: 0 for all there is, or set. Errors: EARGUMENT; ECLOSED; EUNSUPPORTED:
 * audit is "off", or other processes have, or had, the pool. */
BUFPOOL_API int bufpool_audit(bufpool_pool *pool, uint64_t from, size_t count, bufpool_changed *changed, size_t *found);

/* Names the code on whose behalf this thread's next calls are made, as an interpreter's stack, one line a frame, the
 * innermost last; NULL: none. Kept with what pools of provenance "stacks" record; of more than 511 bytes the last lines.
 * Equal texts are kept once. Errors: -ENOMEM, EEXHAUSTED (32 MiB of stacks and texts are kept in a process, and as much
 * for each pool that several have): this text is not kept, and calls that would refer to it are counted
 * (provenance_lost). */
BUFPOOL_API int bufpool_set_caller(const char *text);

/* This thread's last fault that a library call ended with (ESTRAY). Errors: EARGUMENT when there was none. */
BUFPOOL_API int bufpool_last_fault(bufpool_fault *fault);

/* Calls function(argument). A stray access inside, made by this thread, ends the call at once: the result is ESTRAY,
 * *fault (may be NULL) is filled in, and nothing is written but the line of the pool's log. Nests; any number of
 * threads. What the function held at that moment (locks, memory) stays held, as with longjmp. The function has to
 * return, on the stack on which it began: it must not leave by a longjmp or exception of its own (the next stray access
 * of the thread notices, where the stack can be unwound, and goes by on_fault). A stray access of a signal handler that
 * interrupts the function is the handler's, and goes by on_fault. Costs a sigsetjmp without the mask: a few ns. */
BUFPOOL_API int bufpool_guarded_call(void (*function)(void *), void *argument, bufpool_fault *fault);

/* memcpy as a guarded call: ESTRAY and *fault when either side is a page that is not accessible. Which stray byte
 * memcpy meets first, and what it has copied by then, is memcpy's affair. */
BUFPOOL_API int bufpool_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault);

#ifdef BUFPOOL_DISABLED
#include <bufpool/disabled.h>
#endif

#ifdef __cplusplus
}
#endif

#endif
