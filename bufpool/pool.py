"""Pool: one reserved range of addresses, cut into pages whose holes trap."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bufpool import frames, options, pages_io, sizes, stats
from bufpool._native import ffi, lib
from bufpool.arguments import (
    NumbersLike,
    PageLike,
    c_text,
    check_numbers,
    copied_numbers,
    count_argument,
    integer_argument,
    lag_argument,
    page_array,
    page_number,
    sample_arguments,
)
from bufpool.audit import ChangedPage, audit
from bufpool.batches import STATES, read, states
from bufpool.errors import ArgumentError, BufpoolError, PoolClosedError, PoolExhaustedError, failure
from bufpool.explanation import Explanation, explain
from bufpool.faults import (
    answer,
    attach,
    call,
    call_recorded,
    call_with_data,
    call_with_data_recorded,
    check,
    deliver,
    kept,
    owed,
    owed_to_ended,
    recorded,
)
from bufpool.frames import Frames, FramesLike, FrameViews
from bufpool.inspection import Findings, inspect
from bufpool.page import CLOSED, Location, Page, page_of, place, views_of
from bufpool.pages_io import FileLike, OffsetsLike, Transfer
from bufpool.pins import Pins, unpin_many
from bufpool.report import FAULT_SIZE, FaultReport, PageHistory, PinHistory, event_from_native, from_native, signed
from bufpool.sharing import PoolHandle, handle_of
from bufpool.told import OnReport, listeners
from bufpool.views import Views

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

    from bufpool._native import CData

# The calls on single pages, which are short enough for finding them by name to count.
_allocate, _allocate_zeros = lib.bufpool_py_allocate, lib.bufpool_py_allocate_zeros
_allocate_at, _free, _evict = lib.bufpool_py_allocate_at, lib.bufpool_py_free, lib.bufpool_py_evict
_populate, _state = lib.bufpool_py_populate, lib.bufpool_py_state

_KEPT_FAULTS = 256
_STATES = {name: state for state, name in enumerate(STATES)}
_FIXED = frozenset(
    (
        "native",
        "address",
        "capacity",
        "page_size",
        "red_zone",
        "page_count",
        "granule",
        "memory",
        "trap",
        "on_fault",
        "name",
        "provenance",
    )
)


class Pool:
    """A pool of pages, each with a fixed number and address. All methods may be called from any thread.

    capacity      bytes, or text such as "1 GiB"; reserved, not committed; a multiple of page_size, at most 16 TiB
    page_size     bytes or text, 4 KiB to 1 GiB, a whole number of granules; None: one granule
    memory        "anon": private to this process. "thp": the same in transparent huge pages of 2 MiB. "shared": a
                  memfd. "hugetlb": a memfd of huge pages that the system has set aside. Or a path on a hugetlbfs mount:
                  a file, created with mode 0600, or opened again if it has exactly capacity bytes and holds no frames;
                  or a directory, for an unnamed file. The file stays when the pool closes, without frames.
    trap          "auto": the first that works of "noautofill", "uffd", "guard", "mprotect", of those that go with the
                  memory; "none": plain mmap, which does not trap
    on_fault      "raise": a stray access through a view completes on a scratch page of bufpool.POISON bytes, and
                  StrayAccessError is raised in its thread at the next call of the library; "resume": the report goes to
                  stderr; "abort": so it does, and the process dies with a core dump that shows the access; "freeze": so
                  it does, and the thread stops there, for a debugger, until thaw() or "bufpool thaw PID". Guarded
                  access (page[...]) raises at once, whatever on_fault is.
    name          shown in reports; by default "pool-N"
    log           a file that receives each report as one line of JSON
    report_limit  the first reports of one place that are written and logged in full, further ones are counted; a place
                  is an instruction and its three innermost callers, of page[...] the Python line, and with
                  provenance "stacks" also who freed the page;
                  None: 16; 2**32 - 1: no limit. What is raised, collected and given to on_report is not limited
    on_report     a function that is called with each FaultReport, in the thread that strayed, at its next call of the
                  library; can be set later, too. The logger "bufpool" gets each report then as well, as record.report
    lazy_zero     a page allocated without data gets its frame with the first write
    host_handler  install no signal handlers: the host program calls bufpool_handle_signal() from its own
    granule       bytes or text; only "hugetlb" has a choice: a huge page size of this machine
    numa          "interleave", "local", or a list of nodes, as "0,2-3" or [0, 2]: where frames come from
    lock          frames are locked in memory as they come; the whole capacity counts against RLIMIT_MEMLOCK
    dump          pages go into core dumps, as far as /proc/PID/coredump_filter lets them
    reserve       hugetlb and paths: the kernel reserves a huge page for every page, at open and again after each free
    discard       paths: drop what an existing file holds, as after a crash; without it such a file is refused
    red_zones     an inaccessible granule before each page, and one after the last: an access that runs from a page
                  into its neighbour traps, too; addresses are a granule further apart
    quarantine    bytes or text: the number of a freed page is used again when so much has been freed after it, so that
                  an old pointer meets a page that traps, not its next owner's; 0: at once. When no other number is free
                  the oldest comes back before its time: no allocation fails for it
    fill          what a page holds that is allocated without data: "zeros", or "pattern": bufpool.FRESH bytes, so that
                  who reads it before it is written finds no plausible zeros
    free_lag      pages that free may leave their frames for the next allocation, which overwrites the oldest in place:
                  recycling asks the kernel for nothing, BUT THESE PAGES DO NOT TRAP YET. stats().lagging counts them,
                  settle() makes them trap; 0: there are none. Memory anon and thp; not with pins, audit, sample,
                  quarantine and lazy_zero
    scrub         overwrite each frame that free or evict takes away with bufpool.SCRUBBED bytes before it goes
    provenance    what is kept of each page's last allocate (or populate) and last free (or evict), for reports and for
                  Page.history. "off": nothing. "last": when and by which thread; 24 bytes a page that was ever touched.
                  "stacks": the native and the Python stack too
    provenance_depth  with "stacks": native frames kept of each call, 1 to 16; None: 8
    fork          "inherit": a child made by os.fork() or multiprocessing's "fork" has the pool, armed: of private
                  memory a copy, of other memory the same pages; "exclude": nothing is mapped in a child, and a fork
                  costs nothing
    check_headroom  a fill first looks whether the memory cgroups of this process (a container's limit) have room, and
                  raises PoolExhaustedError, where the kernel would kill the process. Others may take the room
                  meanwhile; hugetlb is not checked
    monitor       report stray accesses that system calls make, too (report.in_syscall names the call). Trap "uffd",
                  Linux 6.6, and a right that most users lack: UnsupportedError names the ways to get it

    pins          what page.pin() does. "off": nothing. "count": pins are counted, and misuse raises PageStateError: an
                  unpin without pin, a pin of a page that is not allocated, free or evict of one that is pinned.
                  "write": and a page without a write pin is read-only. "all": and a page without a pin is closed. These
                  two do not go with monitor; a child made by os.fork() has not got a pool of thp with "all"
    audit         how audit() finds clean pages that have changed. "off". "track": by the kernel's account of writes;
                  trap "uffd", Linux 6.7, not with thp and monitor. "checksum": by their content, everywhere. Not with
                  pins "write" and "all", and not for a pool that other processes have
    sample        one allocation in so many is guarded as under pins "all", from its first pin on; a pin of the others
                  costs a look at a bit. 0: none. Not with pins "write" and "all", trap "none", audit "checksum"
    seed          chooses the pages of sample: the same program with the same seed guards the same ones; None: by
                  chance, and stats().seed has it
    pin_keys      with pins "count", "write" and "all": only threads that have a page of the pool pinned for writing can
                  write to it, by protection keys of the processor, where there are any (UnsupportedError). Not with
                  thp, monitor, audit and sample

    capacity, page_size, memory, trap, on_fault, name, granule and provenance, as they came out, can be read from
    attributes, and address (of page 0), page_count and red_zone (bytes) beside them; none can be set. A pool cannot be
    copied or pickled. In a forked child close() and the end of a with block close the pool there only; without the pool
    they do nothing.

    Raises ArgumentError, UnsupportedError, PoolExhaustedError (no addresses; with reserve, too few huge pages),
    SystemCallError.
    """

    native: CData
    address: int
    capacity: int
    page_size: int
    red_zone: int
    page_count: int
    granule: int
    memory: str
    trap: str
    on_fault: str
    name: str
    provenance: str
    on_report: OnReport | None = None
    _memory: object = None  # what keeps memory that is not the library's: see adopt()
    _views: Views | None

    @options.configurable
    def __init__(
        self,
        capacity: sizes.Size,
        *,
        page_size: sizes.Size | None = 4096,
        memory: str | os.PathLike[str] = "anon",
        trap: str = "auto",
        on_fault: str = "raise",
        name: str | None = None,
        log: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        report_limit: int | None = None,
        on_report: OnReport | None = None,
        lazy_zero: bool = False,
        host_handler: bool = False,
        granule: sizes.Size | None = None,
        red_zones: bool = False,
        quarantine: sizes.Size = 0,
        fill: str = "zeros",
        scrub: bool = False,
        numa: str | Iterable[int] | None = None,
        lock: bool = False,
        dump: bool = False,
        reserve: bool = False,
        discard: bool = False,
        provenance: str = "off",
        provenance_depth: int | None = None,
        fork: str = "inherit",
        monitor: bool = False,
        pins: str = "off",
        audit: str = "off",
        sample: int = 0,
        seed: int | None = None,
        pin_keys: bool = False,
        check_headroom: bool = False,
        free_lag: int = 0,
    ) -> None:
        self._refuse_second()
        own = options.own(
            trap=trap,
            on_fault=on_fault,
            log=log,
            report_limit=report_limit,
            provenance=provenance,
            provenance_depth=provenance_depth,
            fork=fork,
            pins=pins,
            audit=audit,
        )
        flags = options.flags(
            lazy_zero=lazy_zero,
            host_handler=host_handler,
            lock=lock,
            dump=dump,
            reserve=reserve,
            discard=discard,
            red_zones=red_zones,
            scrub=scrub,
            monitor=monitor,
            pin_keys=pin_keys,
            check_headroom=check_headroom,
        )
        texts = options.texts(memory, name, numa, fill)
        lengths = options.sizes_of(capacity, page_size, granule, quarantine)
        own.update(sample_arguments(sample, seed), free_lag=lag_argument(free_lag))
        self.on_report = on_report
        self._open(lib.bufpool_open, {"flags": flags, **lengths, **texts, **own}, os.fspath(memory))

    @classmethod
    @options.configurable
    def attach(
        cls,
        pool: PoolHandle | str | os.PathLike[str],
        *,
        trap: str = "auto",
        on_fault: str = "raise",
        log: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        report_limit: int | None = None,
        on_report: OnReport | None = None,
        host_handler: bool = False,
        lock: bool = False,
        dump: bool = False,
        fork: str = "inherit",
        monitor: bool = False,
        pins: str = "off",
        sample: int = 0,
        seed: int | None = None,
        pin_keys: bool = False,
        check_headroom: bool = False,
        fixed_address: bool = False,
    ) -> Pool:
        """A pool that another process has opened: the same pages, states and all, armed before this returns.

        pool           a handle, from handle(), which stays the caller's; or the path of the pool's memory on hugetlbfs,
                       while a process of this user has a pool open on it
        fixed_address  at the address that the pool has in the process that opened it, or SystemCallError (EEXIST)

        The other options are those of Pool, and this process's own (sample: of what it allocates itself); sizes, name,
        memory, numa, provenance, red_zones, quarantine, fill, scrub, lazy_zero and reserve are the pool's, and audit is
        for pools of one process. close() ends the use here; when the opener closes the pool it is closed for all.

        Raises ArgumentError, UnsupportedError (also for a trap of one process only), PoolClosedError,
        PoolExhaustedError (no addresses), SystemCallError (ESRCH: nobody has a pool open on the path; EACCES: another
        user's; EUSERS: 1023 processes have it).
        """
        own = options.own(
            trap=trap,
            on_fault=on_fault,
            log=log,
            report_limit=report_limit,
            provenance="off",  # that is the pool's
            provenance_depth=None,
            fork=fork,
            pins=pins,
        )
        own.update(sample_arguments(sample, seed))
        flags = options.flags(
            host_handler=host_handler,
            lock=lock,
            dump=dump,
            monitor=monitor,
            pin_keys=pin_keys,
            check_headroom=check_headroom,
            fixed_address=fixed_address,
        )
        attached = cls.__new__(cls)
        attached.on_report = on_report
        if isinstance(pool, PoolHandle):
            handle, memory = pool.native(), None
        else:
            handle, memory = ffi.NULL, options.path_of_pool(pool)
            own["memory"] = c_text(memory, "pool")

        def function(config: CData, out: CData) -> int:
            return lib.bufpool_attach(config, handle, out)

        attached._open(function, {"flags": flags, **own}, memory)  # noqa: SLF001 (of this class)
        return attached

    def _open(self, function: Callable[[CData, CData], int], fields: dict[str, Any], memory: str | None) -> None:
        config = ffi.new("bufpool_config *", {"size": ffi.sizeof("bufpool_config"), **fields})
        native = ffi.new("bufpool_pool **")
        code = function(config, native)
        if code:
            raise failure(code)
        if not config.flags & lib.BUFPOOL_HOST_HANDLER and ffi.string(config.trap) != b"none":
            lib.bufpool_py_outlive()
        self._adopt(native[0], memory)

    def _refuse_second(self) -> None:
        if hasattr(self, "native"):
            raise BufpoolError(f"pool {self.name!r} has been opened already: make another with Pool(...)")

    def _adopt(self, handle: CData, memory: str | None = None) -> None:
        """Takes up an open pool; its handle and addresses stay valid for as long as this object lives.

        memory: as it was given, since the statistics cut a long path.
        """
        code = lib.bufpool_keep(handle)
        if code:
            raise failure(code)
        self.native = handle
        self._pid = os.getpid()
        facts = stats.of_pool(_statistics(handle))
        self.address, self.page_count, self.granule = facts.address, facts.pages, facts.granule
        self.capacity, self.page_size, self.red_zone = facts.capacity, facts.page_size, facts.red_zone
        self.memory = facts.memory if memory is None else memory
        self.trap, self.on_fault, self.name = facts.trap, facts.on_fault, facts.name
        self.provenance = facts.provenance
        self._views = Views(
            handle,
            self.address,
            pages=self.page_count,
            size=self.page_size,
            red_zone=self.red_zone,
            memory=self._memory,
        )
        self._recorded = facts.provenance == "stacks"
        self._call = call_recorded if self._recorded else call
        self._call_with_data = call_with_data_recorded if self._recorded else call_with_data
        self._frame_views = FrameViews(self)
        pools[key_of(handle)] = self
        listeners[self.address - self.red_zone] = self  # the pool's first address, as reports have it

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIXED and name in self.__dict__:
            raise AttributeError(f"{name} of pool {self.name!r} cannot be set: it was decided when the pool was opened")
        if name == "on_report" and not (value is None or callable(value)):
            raise TypeError(f"on_report is a {type(value).__name__}: it has to be a function of one argument, or None")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in _FIXED:
            raise AttributeError(f"{name} of pool {self.name!r} cannot be deleted")
        super().__delattr__(name)

    def __reduce__(self) -> NoReturn:  # what copy, deepcopy and pickle all call
        raise TypeError(
            "a Pool owns addresses of this process and cannot be copied or pickled: "
            "send the pages' contents, or pool.handle() for Pool.attach(), or open a pool there"
        )

    def __repr__(self) -> str:
        if "provenance" not in self.__dict__:  # the last of what is set when a pool has been opened
            return f"<{type(self).__name__}, not opened>"
        size, page_size = sizes.text(self.capacity), sizes.text(self.page_size)
        closed = ", closed" if self.closed else ""
        return f"<Pool {self.name!r}, {size} of {page_size} pages, {self.memory}, {self.trap}{closed}>"

    # ---- Pages -------------------------------------------------------------------------------------------------------

    def allocate(self, data: Buffer | None = None) -> Page:
        """Allocates a page of zeros, or one that begins with data and appears whole.

        Raises PoolExhaustedError, ArgumentError (data longer than a page), PoolClosedError.
        """
        if data is not None:
            return page_of(self, self._call_with_data(data, _allocate, self.native))
        if self._recorded:
            return page_of(self, self._call(_allocate_zeros, self.native))
        number = _allocate_zeros(self.native)
        return page_of(self, number if number >= 0 else answer(number, _allocate_zeros, self.native))

    def allocate_at(self, page: PageLike, data: Buffer | None = None) -> Page:
        """The same for a given number. Raises also PageStateError when the page is allocated or evicted."""
        number = page_number(self, page)
        self._call_with_data(data, _allocate_at, self.native, number)
        return page_of(self, number)

    def allocate_many(self, count: int, data: Buffer | None = None) -> npt.NDArray[np.uint64]:
        """Allocates count pages, all or none, of zeros or filled from data: count whole pages one after the other.

        Returns their numbers. Raises as allocate() does.
        """
        count = count_argument(count)
        if count > self.page_count:
            raise PoolExhaustedError(f"{count} pages are more than the {self.page_count} that {self.name!r} has")
        numbers = np.empty(count, np.uint64)
        out = ffi.from_buffer("uint64_t[]", numbers)
        if data is None:
            self._call(lib.bufpool_py_allocate_many, self.native, count, out)
        else:
            function, size = lib.bufpool_py_allocate_filled, count * self.page_size
            self._call_with_data(data, function, self.native, count, out, size=size)
        return numbers

    def free(self, page: PageLike) -> None:
        """Takes the frame away: the next touch traps. The number, if allocated or evicted, becomes free.

        Raises PageStateError (double free, never allocated, no such page), PoolClosedError.
        """
        number = page.number if type(page) is Page and page.pool is self else page_number(self, page)
        if self._recorded:
            self._call(_free, self.native, number)
            return
        result = _free(self.native, number)
        if result:
            answer(result, _free, self.native, number)

    def free_many(self, pages: NumbersLike) -> None:
        """The same for an array or an iterable of pages; refuses the whole batch if one of them is wrong."""
        self._batch(lib.bufpool_py_free_many, pages)

    def settle(self) -> None:
        """Takes the frames of all pages that lag (see free_lag): from here on they trap.

        Raises PoolClosedError, SystemCallError (those that are left lag on).
        """
        self._call(lib.bufpool_py_settle, self.native)

    def evict(self, page: PageLike) -> None:
        """Takes an allocated page's frame away and keeps its number taken, until populate() or free().

        Raises PageStateError (not allocated, evicted already, no such page), PoolClosedError.
        """
        self._call(_evict, self.native, page_number(self, page))

    def evict_many(self, pages: NumbersLike) -> None:
        """The same for an array or an iterable of pages; refuses the whole batch if one of them is wrong.

        Raises as evict() does, and PageStateError also for a page that is in the batch twice.
        """
        self._batch(lib.bufpool_py_evict_many, pages)

    def populate(self, page: PageLike, data: Buffer | None = None) -> None:
        """Gives an evicted page a frame and its content again. Raises as allocate_at() does."""
        self._call_with_data(data, _populate, self.native, page_number(self, page))

    def populate_many(self, pages: NumbersLike, data: Buffer | None = None) -> None:
        """The same for many pages, all or none; data holds as many whole pages one after the other."""
        numbers, function = self._numbers(pages), lib.bufpool_py_populate_many
        count, whole = len(numbers), ffi.from_buffer("uint64_t[]", numbers)
        self._call_with_data(data, function, self.native, count, whole, size=count * self.page_size)

    def stage(self, count: int) -> Frames:
        """Hands out count private frames to fill by any means, O_DIRECT too, before they are pages.

        Their content is not specified. They are this process's own until they are published, unstaged, or the pool is
        closed. Raises PoolExhaustedError (no memory), PoolClosedError.
        """
        return frames.stage(self, count)

    def publish(self, staged: FramesLike, pages: NumbersLike) -> None:
        """Makes each page, free or evicted, allocated with the content of its frame: it appears whole.

        The frames are used up, and their views released: BufferError if an array or a slice of one is in use. Refuses
        the whole batch if a frame or a page is wrong. Raises ArgumentError, PageStateError, PoolExhaustedError,
        PoolClosedError.
        """
        frames.publish(self, staged, pages)

    def withdraw(self, pages: NumbersLike) -> Frames:
        """Evicts pages and returns their content, as staged frames, in their order: every touch traps from here on.

        Raises PageStateError (not allocated, pinned, twice), PoolExhaustedError, PoolClosedError. If the kernel fails
        midway, the error's attribute frames has the first pages' frames, which are withdrawn.
        """
        return frames.withdraw(self, pages)

    def unstage(self, staged: FramesLike) -> None:
        """Gives frames back unused. Raises as publish() does."""
        frames.unstage(self, staged)

    def replace(self, victim: PageLike, page: PageLike) -> None:
        """Evicts the victim, and makes page, free or evicted, allocated with its content, to be overwritten in place.

        Raises PageStateError (the victim is not allocated, or is pinned; page is allocated), PoolClosedError.
        """
        frames.replace(self, victim, page)

    def read_from(self, fd: FileLike, offsets: OffsetsLike, pages: NumbersLike) -> Transfer:
        """Gives pages, free or evicted, by their numbers, the content of a file: page i from byte offsets[i] of it on.

        Each appears whole. fd is a descriptor or has fileno(); with O_DIRECT, too. Sort by offset: neighbours are one
        request. Raises TransferError if the file ends too early (ENODATA), the device fails, or a page is allocated:
        its .result says which pages have failed, which are as they were; the others are allocated. Arguments are
        checked first: ArgumentError (an offset or a page that cannot be, or comes twice), PageStateError (no such
        page), SystemCallError (fd is not open for it), PoolExhaustedError (no memory), PoolClosedError.
        """
        return pages_io.transfer(self, lib.bufpool_py_read_from, fd, offsets, pages)

    def write_to(self, fd: FileLike, offsets: OffsetsLike, pages: NumbersLike) -> Transfer:
        """Writes allocated pages to a file, page i to byte offsets[i] on, straight from their frames; syncs nothing.

        The pages stay as they are; where pins are counted each is pinned for reading meanwhile. Raises as read_from()
        does; TransferError if a page is not allocated, or is freed or evicted meanwhile, or the file takes no more.
        """
        return pages_io.transfer(self, lib.bufpool_py_write_to, fd, offsets, pages)

    def _numbers(self, pages: NumbersLike) -> npt.NDArray[np.uint64]:
        """A copy of the numbers, checked. An array may be a view of a page: a stray access to it comes first."""
        array = pages if isinstance(pages, np.ndarray) else page_array(self, pages)
        check()
        numbers = copied_numbers(array)
        reports = owed()
        if reports:
            deliver(reports, late=False)
        check_numbers(self, array, numbers)
        return numbers

    def _batch(self, function: Any, pages: NumbersLike) -> None:
        numbers = self._numbers(pages)
        self._call(function, self.native, len(numbers), ffi.from_buffer("uint64_t[]", numbers))

    def pin_many(self, pages: NumbersLike, write: bool = False) -> Pins:
        """Pins many pages, all or none, each for its own; unpins them when used in a with statement. See Page.pin().

        Raises PageStateError, PoolClosedError.
        """
        numbers = self._numbers(pages)
        out = ffi.from_buffer("uint64_t[]", numbers)
        self._call(lib.bufpool_py_pin_many, self.native, len(numbers), out, bool(write))
        return Pins(self, numbers, bool(write))

    def unpin_many(self, pages: NumbersLike, write: bool = False) -> None:
        """Unpins pages that are pinned for that, one after the other. Raises PageStateError, PoolClosedError."""
        unpin_many(self, self._numbers(pages), bool(write))
        check()

    def mark_clean(self, pages: NumbersLike) -> None:
        """From here on nobody is to write these pages: audit() finds what does. With pins counted an unpin does it too.

        Raises PageStateError (not allocated, pinned for writing), PoolClosedError. With audit "off" nothing happens.
        """
        self._batch(lib.bufpool_py_mark_clean, pages)

    def mark_dirty(self, pages: NumbersLike) -> None:
        """They may be written from here on: to be called before that. Raises PageStateError (no such page)."""
        self._batch(lib.bufpool_py_mark_dirty, pages)

    # ---- Looking -----------------------------------------------------------------------------------------------------

    def page(self, number: int) -> Page:
        """The page of that number, whatever its state. Raises PageStateError when there is none."""
        return page_of(self, page_number(self, number))

    def state(self, page: PageLike) -> str:
        """The page's state at this moment."""
        state = _state(self.native, page_number(self, page))
        if state < 0:
            raise failure(state)
        return STATES[state]

    def states(self, pages: NumbersLike) -> npt.NDArray[np.str_]:
        """The states of many pages, in their order, as text: (pool.states(numbers) == "evicted").sum() counts."""
        return states(self, self._numbers(pages))

    def pages(self, state: str = "allocated") -> npt.NDArray[np.uint64]:
        """The numbers of the pages of that state, rising; of "unallocated" only those below the highest ever used."""
        if state not in _STATES:
            raise ArgumentError(f"state {state!r} is none of {', '.join(_STATES)}")
        chunks, start, found = [], 0, ffi.new("size_t *")
        while True:
            numbers = np.empty(min(self.page_count, 1 << 16), np.uint64)
            out = ffi.from_buffer("uint64_t[]", numbers)
            call(lib.bufpool_py_list, self.native, _STATES[state], start, len(numbers), out, found)
            chunks.append(numbers[: found[0]])
            if found[0] < len(numbers):
                return np.concatenate(chunks)
            start = int(numbers[-1]) + 1

    def array(self, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """The memory of all pages as an array of two dimensions, one page a row, without a copy.

        pool.array()[numbers] copies many pages, pool.array()[numbers] = rows writes them. As through any view a stray
        access is raised at the next call: read_many() raises right there. Raises as Page.array() does.
        """
        return views_of(self).array(dtype)[:]

    def read_many(self, pages: NumbersLike, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Copies many pages by guarded access: a stray access raises StrayAccessError right here.

        Returns an array of uint8 and shape (number of pages, page_size); or out, any writable array in one piece of as
        many bytes, which after an error holds the pages before the one that strayed. Inside catch_faults() such a page
        is bufpool.POISON bytes. Raises PageStateError (no such page), ArgumentError (out does not fit).
        """
        numbers = self._numbers(pages)
        if self._given_back():
            raise PoolClosedError(f"pool {self.name!r} has been closed: its memory is the program's again")
        return read(self, numbers, out, place())

    def history(self, page: PageLike) -> PageHistory:
        """Who allocated and who freed the page last, as far as provenance keeps it. Works on a closed pool."""
        allocated, freed = ffi.new("bufpool_origin *"), ffi.new("bufpool_origin *")
        code = lib.bufpool_page_history(self.native, page_number(self, page), allocated, freed)
        if code:
            raise failure(code)
        return PageHistory(allocated=event_from_native(allocated[0]), freed=event_from_native(freed[0]))

    def pin_history(self, page: PageLike) -> PinHistory:
        """Who pinned and who unpinned the page last in this process, as far as provenance keeps it."""
        pinned, unpinned = ffi.new("bufpool_origin *"), ffi.new("bufpool_origin *")
        code = lib.bufpool_pin_history(self.native, page_number(self, page), pinned, unpinned)
        if code:
            raise failure(code)
        return PinHistory(pinned=event_from_native(pinned[0]), unpinned=event_from_native(unpinned[0]))

    def locate(self, address: int) -> Location | None:
        """The page of this pool in which an address lies, or None.

        In a red zone it is the nearer page, and the offset is past its end, or negative.
        """
        location = ffi.new("bufpool_location *", {"size": ffi.sizeof("bufpool_location")})
        where = integer_argument(address, "address")
        if not 0 <= where < 2**64 or lib.bufpool_locate(ffi.cast("void *", where), location):
            return None
        number = int(location.page)
        own = location.pool == self.native and number < self.page_count
        return Location(Page(self, number), signed(location.offset)) if own else None

    def explain(self, buffer: Any, length: int | None = None, *, write: bool = False) -> Explanation | None:
        """bufpool.explain(): which pages of a buffer, of this or any pool, are not accessible. Without touching it."""
        return explain(buffer, length, write=write)

    def thaw(self, policy: str = "resume") -> int:
        """Lets the threads go on that on_fault "freeze" has stopped in this pool; returns how many there were.

        policy "resume": the access completes on the scratch page; "abort": the process ends at it. Works on a closed
        pool. While a stopped thread holds the interpreter's lock only "bufpool thaw PID" works, from outside.
        """
        count = lib.bufpool_thaw(self.native, c_text(policy, "policy"))
        if count < 0:
            raise failure(count)
        return int(count)

    def stats(self) -> stats.PoolStats:
        """The pool's counters. Works on a closed pool."""
        check()
        return stats.of_pool(_statistics(self.native))

    @property
    def faults(self) -> tuple[FaultReport, ...]:
        """The latest stray accesses to this pool, at most 256, oldest first. Works on a closed pool."""
        faults = ffi.new(f"bufpool_fault[{_KEPT_FAULTS}]", [{"size": FAULT_SIZE}] * _KEPT_FAULTS)
        found = ffi.new("size_t *")
        code = lib.bufpool_faults(self.native, 0, _KEPT_FAULTS, faults, found)
        if code:
            raise failure(code)
        return tuple(from_native(faults[i]) for i in range(found[0]))

    def inspect(self, repair: bool = False) -> Findings:
        """Compares the page states with the frames that the kernel shows, the index, the counts and who lives.

        Exact on a quiet pool; of one at work, what is just being changed is passed over. With repair, what can be put
        right is: all but lost frames, of which somebody has to know what was in them. Findings are those before it.

        Raises UnsupportedError (a memory whose frames cannot be told here), PoolClosedError.
        """
        check()
        return inspect(self.native, repair)

    def audit(self) -> tuple[ChangedPage, ...]:
        """The clean pages that have changed, in rising order: see audit above, mark_clean(), and pins "count".

        It may run beside everything else. Raises UnsupportedError (the pool is not audited; other processes have, or
        had, it), PoolClosedError.
        """
        check()
        return audit(self.native, self.name)

    def handle(self) -> PoolHandle:
        """What another process needs for Pool.attach(): pass it on by multiprocessing or over a Unix socket.

        Each call gives a new one, to be closed. Raises UnsupportedError (memory or trap of one process only),
        PoolClosedError, SystemCallError.
        """
        check()
        return handle_of(self.native)

    def _given_back(self) -> bool:
        """Are the addresses the program's again? See adopt()."""
        return False

    # ---- The end -----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the pool has been closed."""
        return _state(self.native, 0) == CLOSED

    def close(self) -> None:
        """Frees every frame; the addresses keep trapping, as "closed". Does nothing again.

        Then raises the stray accesses still owed to this thread and, of this pool, to threads that have ended.
        """
        reports = self._close()
        if reports:
            deliver(reports)

    def _close(self) -> list[FaultReport]:
        if self.closed:
            self._end()  # where its opener has closed it for all, what is left of it here
            return owed()
        self._frame_views.release_all("close the pool with")
        reports: list[FaultReport] = []
        with kept(reports):
            try:
                reports += owed()
                reports += owed_to_ended(self.native, {report.thread_id for report in self.faults})
            finally:
                close = recorded(lib.bufpool_close) if self.provenance == "stacks" else lib.bufpool_close
                code = close(self.native)
            # Closed by another thread meanwhile; or a forked child has not got the pool.
            if code and code not in (lib.BUFPOOL_ECLOSED, lib.BUFPOOL_EUNSUPPORTED):
                raise failure(code)
        return reports

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        reports = self._close()
        if reports and error is not None:
            attach(error, reports)
        elif reports:
            deliver(reports)

    def __del__(self) -> None:
        if not hasattr(self, "native"):
            return
        if self._unclosed() and os.getpid() == self._pid:  # a forked child did not open it
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self._end()
        lib.bufpool_release(self.native)

    def _unclosed(self) -> bool:
        return not self.closed

    def _end(self) -> None:
        lib.bufpool_close(self.native)


pools: weakref.WeakValueDictionary[int, Pool] = weakref.WeakValueDictionary()  # those that Python has opened, or knows


def _statistics(handle: CData) -> CData:
    statistics = ffi.new("bufpool_statistics *", {"size": ffi.sizeof("bufpool_statistics")})
    code = lib.bufpool_stats(handle, statistics)
    if code:
        raise failure(code)
    return statistics


def key_of(handle: CData) -> int:
    """By which pools has the Pool of a native handle."""
    return int(ffi.cast("uintptr_t", handle))
