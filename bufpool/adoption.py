"""adopt(): a pool of memory that the program has mapped itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

from bufpool import options, sizes
from bufpool._native import ffi, lib
from bufpool.arguments import c_text, integer_argument
from bufpool.errors import ArgumentError
from bufpool.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from bufpool._native import CData
    from bufpool.report import FaultReport
    from bufpool.told import OnReport

Memory = Union["Buffer", tuple[int, int]]
_PAGE = 4096  # bytes


class AdoptedPool(Pool):
    """A pool whose memory is the program's, and is so again when the pool is closed."""

    def __init__(self, memory: object, open_it: Callable[[AdoptedPool], None]) -> None:
        self._refuse_second()
        self._memory = memory
        open_it(self)

    def _given_back(self) -> bool:
        return self.closed

    def _close(self) -> list[FaultReport]:
        reports = super()._close()
        self._memory = self._views = None  # from here on it is kept by views of pages alone
        return reports


@options.configurable
def adopt(
    memory: Memory,
    *,
    fd: int | None = None,
    page_size: sizes.Size | None = None,
    trap: str = "auto",
    on_fault: str = "raise",
    name: str | None = None,
    log: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
    report_limit: int | None = None,
    on_report: OnReport | None = None,
    host_handler: bool = False,
    quarantine: sizes.Size = 0,
    fill: str = "zeros",
    scrub: bool = False,
    provenance: str = "off",
    provenance_depth: int | None = None,
    fork: str = "inherit",
    pins: str = "off",
) -> Pool:
    """A pool of memory that the program has mapped itself: all of its pages are allocated, and keep what is in them.

    memory     a writable buffer: an mmap.mmap, the buf of a SharedMemory, an array or a memoryview of one; or (address,
               length) of what stays mapped for as long as the pool is open. Whole pages of private or shared anonymous
               memory, memfd, POSIX or System V shared memory, a file on tmpfs, or huge pages
    fd         the file that is mapped there, to be checked; it stays yours, and is not needed
    page_size  bytes or text; None: one page of the mapping
    trap       "auto": "uffd" if that works for this memory, else "mprotect"

    The other options are those of Pool. While the pool is open the buffer cannot be closed or resized, nor afterwards
    while there are views of pages. Nobody else may use the memory while this runs; with pins "write" or "all" it is
    closed when this returns. close() gives it back, accessible, with what is in it; nothing traps there any more, and
    guarded access (page[...]) raises PoolClosedError. A stray access through a view to an unpinned page goes through.

    Raises ArgumentError (not writable, not whole pages, a pool's already, no mapping, another file's), UnsupportedError
    (what is mapped cannot be trapped, and why), PoolExhaustedError (no memory for all of it), SystemCallError.
    """
    own = options.own(
        trap=trap,
        on_fault=on_fault,
        log=log,
        report_limit=report_limit,
        provenance=provenance,
        provenance_depth=provenance_depth,
        fork=fork,
        pins=pins,
    )
    own["name"] = ffi.NULL if name is None else c_text(name, "name")
    own["fill"] = c_text(fill, "fill")
    lengths = options.sizes_of(_PAGE, page_size, None, quarantine)
    fields = {"flags": options.flags(host_handler=host_handler, scrub=scrub), **lengths, **own}
    file = -1 if fd is None else _descriptor(fd)
    kept, address, length = _range_of(memory)

    def function(config: CData, out: CData) -> int:
        return lib.bufpool_adopt(ffi.cast("void *", address), length, file, config, out)

    def open_it(pool: AdoptedPool) -> None:
        pool.on_report = on_report
        pool._open(function, fields, None)  # noqa: SLF001 (of its own class)

    return AdoptedPool(kept, open_it)


def _descriptor(fd: Any) -> int:
    number = integer_argument(fd, "fd")
    if not 0 <= number < 2**31:
        raise ArgumentError(f"fd {number} is no descriptor: leave it out where there is none")
    return number


def _range_of(memory: Any) -> tuple[object, int, int]:
    """What keeps it, its address and its length in bytes."""
    if isinstance(memory, tuple):
        return (None, *_numbers(memory))
    try:
        kept = memoryview(memory)
    except TypeError:
        raise TypeError(
            f"memory must be a writable buffer, or a tuple (address, length), not {type(memory).__name__}"
        ) from None
    if kept.readonly:
        raise ArgumentError(f"memory is a {type(memory).__name__} that is read-only: its pages cannot be a pool's")
    if not kept.c_contiguous:
        raise ArgumentError("memory must lie in one piece, and this array does not")
    with ffi.from_buffer(kept) as data:
        address = int(ffi.cast("uintptr_t", data))
    if address % _PAGE or kept.nbytes % _PAGE or kept.nbytes == 0:
        raise ArgumentError(
            f"memory is a {type(memory).__name__} of {kept.nbytes} bytes at {address:#x}: only whole pages of {_PAGE} "
            "bytes can be adopted. What is made on the heap does not begin with a page; an mmap.mmap(-1, size) does, "
            "and numpy.frombuffer() makes an array of it"
        )
    return kept, address, kept.nbytes


def _numbers(memory: tuple[Any, ...]) -> tuple[int, int]:
    if len(memory) != 2:
        raise ArgumentError(f"memory is a tuple of {len(memory)}: it has to be (address, length)")
    address, length = integer_argument(memory[0], "address"), integer_argument(memory[1], "length")
    if not (0 < address < 2**64 and 0 < length < 2**64 and address + length <= 2**64):
        raise ArgumentError(f"there is no memory of {length} bytes at {address:#x}")
    return address, length
