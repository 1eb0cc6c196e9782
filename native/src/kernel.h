/*
 * kernel.h: every request that bufpool makes of the kernel, one thin function each.
 *
 * Each returns 0 (or a count, or a descriptor) or -errno, retries EINTR, and may be called in a signal handler: none
 * allocates or takes a lock. Those that a handler or a call on a page makes are no cancellation points, unlike the C
 * library's functions: pthread_cancel() would end a thread that holds a page or a report's buffer. They stand in a file
 * of their own so that a test can replace one at link time (-Wl,--wrap=bp_kernel_mmap) and make it fail. What the C
 * library's headers may be too old to know is defined here; whether the kernel knows it is found out by trying, never by
 * version number. What /proc says of this process is read by way of /proc/thread-self: /proc/self shows nothing of a
 * process whose first thread has ended.
 */
#ifndef BP_KERNEL_H
#define BP_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Linux 6.13 for anonymous memory, 6.15 for files (mm/madvise.c). */
#define BP_MADV_GUARD_INSTALL 102
#define BP_MADV_GUARD_REMOVE 103

struct bp_range {
    uintptr_t address;
    size_t length;
};

/* mmap; *address receives the place. */
int bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address);

/* The same over a file, from an offset on. */
int bp_kernel_mmap_file(void *hint, size_t length, int protection, int flags, int fd, uint64_t offset, void **address);
int bp_kernel_munmap(void *address, size_t length);
int bp_kernel_mprotect(void *address, size_t length, int protection);
int bp_kernel_mremap(void *from, size_t length, void *to);
int bp_kernel_madvise(void *address, size_t length, int advice);

/* MADV_DONTNEED, also on locked memory. */
int bp_kernel_discard(void *address, size_t length);

/* MADV_DONTNEED on many ranges with one call (process_madvise on this process). Returns 0 and *done ranges that were
 * dropped whole; -ENOSYS where this kernel, or a seccomp filter, does not allow it. */
int bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);

/* A memfd of a fixed length. granule 0: of OS pages; else of huge pages of that size. */
int bp_kernel_memfd(const char *name, uint64_t length, uint64_t granule);
int bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int bp_kernel_close(int fd);

/* preadv and pwritev (kernel_io.c): the bytes moved, which may be fewer than asked for, or -errno. preadv_ahead does not wait
 * for the device (RWF_NOWAIT): -EAGAIN, and the kernel reads ahead; -EOPNOTSUPP: this file knows no such thing. */
struct iovec;
int64_t bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int64_t bp_kernel_preadv_ahead(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int64_t bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset);

/* Has the kernel read a part of the file ahead. */
int bp_kernel_will_need(int fd, uint64_t offset, uint64_t length);

/* Is it on tmpfs or ramfs, with no device behind it? */
int bp_kernel_is_memory_file(int fd);

/* Descriptors that are kept (kernel_fd.c). A host may close what it did not open (closefrom), and open something else
 * that takes the number. So a kept one is moved to a number far above those that a host's next files take, never 0, 1
 * or 2, and what it is open to is remembered; an error is passed on. */
int bp_kernel_keep_clear(int fd);

/* Is it still what it was? 1, or 0. */
int bp_kernel_is_kept(int fd);

/* Closes it, if it is. */
void bp_kernel_close_kept(int fd);

/* A user-mode-only userfaultfd with the SIGBUS feature, tried by system call, then by /dev/userfaultfd. */
int bp_kernel_uffd_open(void);

/* The same with other features. */
int bp_kernel_uffd_open_with(uint64_t features);

/* The same without SIGBUS: whoever touches a hole sleeps, and the descriptor tells (kernel_fault.c). full: in a system
 * call, too, which takes a privilege; then UFFDIO_POISON (Linux 6.6) is there. Both take Linux 5.18. */
int bp_kernel_uffd_open_sleeping(int full);
int bp_kernel_uffd_register(int uffd, uintptr_t address, size_t length);
int bp_kernel_uffd_unregister(int uffd, uintptr_t address, size_t length);

/* UFFDIO_COPY and UFFDIO_ZEROPAGE. *done receives the bytes filled, also on an error. */
int bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int bp_kernel_uffd_zero(int uffd, uintptr_t to, size_t length, size_t *done);

/* UFFDIO_MOVE of frames (Linux 6.8). *done receives the bytes moved, also on an error. */
int bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);

/* ---- kernel_pins.c: closing a page whose frame stays ---- */

/* A userfaultfd with SIGBUS that also write-protects, and (file) hides what the file has: Linux 5.7; of files 6.4. */
int bp_kernel_uffd_open_closing(int file, int huge);
int bp_kernel_uffd_register_closing(int uffd, uintptr_t address, size_t length, int file);

/* UFFDIO_COPY, write-protected from the start. */
int bp_kernel_uffd_copy_protected(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);

/* Write-protects what is there, and of files what will be (on), or takes that away. */
int bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on);

/* Shows frames of the file that are hidden, write-protected if asked. -EEXIST: one is shown already; -EFAULT: the file has
 * none; those before it are shown. */
int bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect);

/* A userfaultfd with SIGBUS that tracks writes: what is protected is written to without a signal, and is not protected any
 * more (Linux 6.7). Registered as bp_kernel_uffd_register_closing(), file 0. */
int bp_kernel_uffd_open_tracking(int file);

/* Memory protection keys (Linux 4.9). A new key, with which this thread may read, and others what the kernel lets them,
 * which is nothing; -ENOSPC: there is none left. To free it takes it off no mapping. */
int bp_kernel_key_alloc(void);
int bp_kernel_key_free(int key);

/* mprotect, and the mapping has the key from now on, whatever mprotect makes of it later. */
int bp_kernel_key_protect(void *address, size_t length, int protection, int key);

/* ---- kernel_huge.c ---- */

/* Gives a hole of a file frames of zeros; what has a frame stays as it is. */
int bp_kernel_fallocate(int fd, uint64_t offset, uint64_t length);

/* The length of an open file, and the bytes of it that have frames; -EINVAL if it is not a regular file. */
int bp_kernel_file_size(int fd, uint64_t *length, uint64_t *frames);

/* The page size of the hugetlbfs that path (or, path NULL, fd) lies on; -EXDEV if it lies on something else. */
int bp_kernel_hugetlbfs(const char *path, int fd, uint64_t *page_size);

/* The limit of the hugetlbfs mount (size=) that an open file lies on, and what is left of it: huge pages. A limit of 0:
 * there is none. */
int bp_kernel_mount_room(int fd, uint64_t *limit, uint64_t *left);

/* Opens the file behind a pool: creates it (mode 0600, *created set), or opens one that exists, never through a symbolic
 * link as the last component; a directory gives an unnamed file. */
int bp_kernel_open_pool_file(const char *path, int *created);

/* One that exists, likewise; -EISDIR of a directory. */
int bp_kernel_open_existing(const char *path);
int bp_kernel_truncate(int fd, uint64_t length);
int bp_kernel_unlink(const char *path);

/* Is the open file still what path names, or an unnamed one? 1, or 0. */
int bp_kernel_is_at(const char *path, int fd);

/* flock, exclusive; -EWOULDBLOCK if another description has it. */
int bp_kernel_flock(int fd);
int bp_kernel_flock_shared(int fd);
int bp_kernel_unlock(int fd);

/* Locks frames in memory as they come (mlock2 with MLOCK_ONFAULT, Linux 4.4). */
int bp_kernel_lock(void *address, size_t length);

/* mbind and get_mempolicy, of a bitmap of BP_NODES nodes. address NULL: the nodes that this thread may use. */
#define BP_NODES 1024
#define BP_NODE_WORDS (BP_NODES / 64)
int bp_kernel_mbind(void *address, size_t length, int mode, const uint64_t nodes[BP_NODE_WORDS]);
int bp_kernel_get_mempolicy(const void *address, int *mode, uint64_t nodes[BP_NODE_WORDS]);

/* Can the kernel read at this address? 1, or 0. Raises no signal and leaves nothing changed, but that an untrapped hole
 * is filled. */
int bp_kernel_readable(const void *address);

/* The same for writing, at a multiple of four. Whoever sleeps on a futex there may wake up, as always, for nothing. */
int bp_kernel_writable(void *address);

/* Appends to a log: O_NOFOLLOW, O_APPEND, mode 0600; a FIFO without a reader is -ENXIO, not a wait. A regular file is
 * open for reading, too, if it may be. */
int bp_kernel_open_log(const char *path);
int bp_kernel_open_read(const char *path); /* without a wait: -EAGAIN if somebody has a lease on the file */

/* The last byte of an open regular file, a line break if it is empty; -ENODATA of another file, or one that may not be
 * read. */
int bp_kernel_last_byte(int fd);
int bp_kernel_is_pipe(int fd); /* 1, or 0 */

/* Device and inode of an open file. */
int bp_kernel_identify(int fd, uint64_t id[2]);

/* Is the descriptor still open to the file that was identified? 1, or 0. */
int bp_kernel_is_still(int fd, const uint64_t id[2]);
ssize_t bp_kernel_read(int fd, void *buffer, size_t size);

/* From the start of a file, whatever was read of it before. */
ssize_t bp_kernel_read_again(int fd, void *buffer, size_t size);

/* Writes all of it; with once set, by a single write(2), so that a line never tears: -ENOSPC if it was cut short. Neither
 * SIGPIPE nor SIGXFSZ comes of it. */
int bp_kernel_write(int fd, const void *data, size_t size, int once);

/* The same for what may have no reader: -EAGAIN after so many ns, when perhaps a part of it has been written. */
int bp_kernel_write_soon(int fd, const void *data, size_t size, int64_t ns);

/* ---- kernel_share.c: files that several processes have ---- */

/* The same file by a description of its own, for reading and writing; -EACCES if it is another user's, -EAGAIN if somebody
 * has a lease on it. */
int bp_kernel_reopen(int fd);

/* Is the file sealed against changes of its size? 1, or 0. */
int bp_kernel_is_sealed(int fd);

/* Locks a byte of the file for the description (F_OFD_SETLK), or unlocks it; -EAGAIN if another description has it. The
 * lock ends with the last descriptor of the description, so at the latest with its process. */
int bp_kernel_lock_byte(int fd, uint64_t byte);
int bp_kernel_unlock_byte(int fd, uint64_t byte);

/* Does any other description have such a lock on one of count bytes? 1, or 0. */
int bp_kernel_is_locked(int fd, uint64_t from, uint64_t count);

/* The next part of the file at or after from that is no hole: [*start, *end). -ENXIO: there is none. */
int bp_kernel_next_data(int fd, uint64_t from, uint64_t *start, uint64_t *end);

/* When a process of this pid namespace was started, in ticks since boot; -ESRCH if there is none, or only what is left
 * until its parent has asked for it. */
int bp_kernel_started(int32_t pid, uint64_t *ticks);

/* The inode of this process's pid namespace; 0: not known. */
uint64_t bp_kernel_pid_space(void);

/* ---- kernel_look.c: which frames are there ---- */

/* A userfaultfd for a mapping of a file (huge: of huge pages) that shows what frames the file has (Linux 5.14; huge:
 * 5.13), and the mapping's registration. Nobody has to touch it. */
int bp_kernel_uffd_open_minor(int huge);
int bp_kernel_uffd_register_minor(int uffd, uintptr_t address, size_t length);

/* Shows the frame of one granule there (UFFDIO_CONTINUE): 0; -EEXIST: it is shown already; -EFAULT: there is none, and
 * none comes of it. It is hidden again by bp_kernel_discard(). */
int bp_kernel_uffd_show(int uffd, uintptr_t address, size_t length);

/* For the next two: a descriptor of /proc/self/pagemap. */
int bp_kernel_open_pagemap(void);

/* Is the frame at address a huge page (PAGEMAP_SCAN, Linux 6.7)? 1, 0, or -errno. */
int bp_kernel_is_huge(int pagemap, uintptr_t address, size_t length);

/* The next part of [from, end) of this process's addresses that has frames, swapped ones too unless resident is set (a
 * mark that userfaultfd has put there looks like one). -ENXIO: there is none. */
int bp_kernel_next_frame(int pagemap, uintptr_t from, uintptr_t end, int resident, uintptr_t *start, uintptr_t *stop);

/* The first page in [from, end) that is not write-protected by a userfaultfd that tracks (PAGEMAP_SCAN). What is protected is
 * so, too, while it is swapped out, or unmapped from a file; a hole is not. -ENXIO: there is none. */
int bp_kernel_next_written(int pagemap, uintptr_t from, uintptr_t end, uintptr_t *written);

/* ---- kernel_fault.c: threads that sleep on a fault ---- */

struct bp_sleeper {
    uint64_t address; /* exact to the byte */
    int32_t thread;
    int write;
};

/* A thread that has begun to sleep: 1; 0: no more. */
int bp_kernel_uffd_read(int uffd, struct bp_sleeper *sleeper);

/* Makes holes raise SIGBUS, and system calls fail, with EFAULT or a short count; whoever sleeps there sleeps on. -EEXIST:
 * there is a frame, or the mark already. MADV_DONTNEED takes it away. */
int bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length);

/* Those who sleep there try again. */
int bp_kernel_uffd_wake(int uffd, uintptr_t address, size_t length);

int bp_kernel_event(void); /* an eventfd */

/* Until one of two descriptors has something to read; ns < 0: no limit. 1 and 2: which (their sum); 0: time is up. */
int bp_kernel_wait(int first, int second, int64_t ns);

/* Queues SIGBUS to a thread of this process, with the marker as its value. */
int bp_kernel_queue_sigbus(int32_t thread, void *marker);

/* What a thread of this process has used of the processor; -1: there is no such thread. */
int64_t bp_kernel_thread_cpu_ns(int32_t thread);

int32_t bp_kernel_thread(void);
int bp_kernel_thread_alive(int32_t thread);
int bp_kernel_thread_of(int32_t pid, int32_t thread); /* the same of any process, whoever owns it */
int64_t bp_kernel_monotonic_ns(void);
int64_t bp_kernel_realtime_ns(void); /* since the epoch */
int64_t bp_kernel_epoch_ns(void);    /* when the monotonic clock was 0, in realtime */
void bp_kernel_sleep_ns(int64_t ns);

#endif
