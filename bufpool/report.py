"""FaultReport: the record of one trapped stray access."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import attrs

from bufpool._native import ffi, lib

if TYPE_CHECKING:
    from bufpool._native import CData

FAULT_SIZE = ffi.sizeof("bufpool_fault")
_FRAME = re.compile(r"^ +#\d+ (0x[0-9a-f]+)(?! in process )\b", re.MULTILINE)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@attrs.frozen(kw_only=True)
class PageEvent:
    """What somebody did to a page. str() is one line, and a line for each frame of the Python stack."""

    event: str  # "allocate", "populate", "free", "evict", or "close", of the whole pool
    sequence: int  # counts the calls that changed the pool's pages, from 1; a batch is one call
    time: datetime  # UTC, exact to 66 microseconds
    thread_id: int  # 0: a thread that is not known any more
    thread_name: str
    pid: int  # of any process that has the pool
    process_name: str = ""  # as it was then
    python_stack: tuple[str, ...] = ()  # innermost last; in C what bufpool_set_caller() said; with "stacks"
    _raw: bytes = attrs.field(repr=False, eq=False)

    @property
    def native_stack(self) -> tuple[str, ...]:
        """The machine's stack, innermost first, as module+offset, from the library's caller on; with "stacks"."""
        carrier = ffi.new("bufpool_fault *")
        ffi.memmove(ffi.addressof(carrier, "freed"), self._raw, len(self._raw))
        text = _formatted(lib.bufpool_format_json, bytes(ffi.buffer(carrier)))
        return tuple(json.loads(text)["freed"]["native_stack"])

    def __str__(self) -> str:
        known = f'thread {self.thread_id} "{self.thread_name}"'
        if self.pid != os.getpid():
            known += f" of process {self.pid}"
            if self.process_name and self.pid != self.thread_id:
                known += f' "{self.process_name}"'
        who = known if self.thread_id else "a thread that is not known any more"
        line = f"{self.event} by {who}, {self.time.isoformat()} (event {self.sequence})"
        return "\n".join([line, *(f"    {frame}" for frame in self.python_stack)])


@attrs.frozen(kw_only=True)
class PageHistory:
    """A page's last events, as far as provenance keeps them; None: not recorded."""

    allocated: PageEvent | None  # or populated
    freed: PageEvent | None  # or evicted; or the pool was closed, if that came later


@attrs.frozen(kw_only=True)
class PinHistory:
    """A page's last pin and unpin in this process, as far as provenance keeps them; None: not recorded."""

    pinned: PageEvent | None
    unpinned: PageEvent | None


@attrs.frozen(kw_only=True)
class FaultReport:
    """One stray access. str() is the text report, to_json() one line of JSON."""

    sequence: int  # counts the faults of this process from 1
    address: int  # exact to the byte
    access: str  # "read", "write" or "execute"
    pool: str  # the pool's name
    pool_address: int
    pool_capacity: int  # bytes
    page: int
    page_size: int  # bytes
    offset: int  # bytes from the page's start; in a red zone page_size or more past the end of the page, or negative
    state: str  # "unallocated", "freed", ... "unpinned", "read-only", "red-zone"; "allocated" when raced or lost
    thread_id: int
    thread_name: str
    pid: int
    time: datetime  # UTC
    pc: int  # the instruction that made the access
    python_stack: tuple[str, ...] = attrs.field(default=(), eq=False)  # innermost last; of guarded access only
    allocated: PageEvent | None = None  # who allocated (or populated) the page last; None: not recorded
    freed: PageEvent | None = None  # who freed, evicted or unpinned it last; None: not recorded
    pinned: PageEvent | None = None  # of an unpinned or read-only page that has pins, who pinned it last
    read_pins: int = 0  # of such a page, in this process
    write_pins: int = 0  # the same; with others_pin another thread's
    below: int | None = None  # the nearest allocated page below, within 4096 pages
    above: int | None = None  # the same above
    process_name: str = ""  # of pid
    in_syscall: str | None = None  # the system call that made the access; None: made by the program
    raced: bool = False  # the page was allocated between the access and the report
    forked: bool = False  # made in a forked child that has not got the pool
    inherited: bool = False  # made in a forked child, to its own pool, which it has inherited
    fork_note: str | None = None  # of a fork, and why the pool was not inherited; or its descriptors were closed
    went_through: bool = False  # a write to a read-only page, which was let through
    others_pin: bool = False  # with pin_keys: another thread has pinned the page for writing
    lost: bool = False  # the page is allocated, but its frame was taken past the pool: by truncating or punching a file
    red_zone: int = 0  # bytes, before each page of the pool and after the last
    sample: int = 0  # one allocation of the pool in so many is guarded; 0: no sampling
    seed: int | None = None  # of a pool that samples: with it the same program guards the same pages again
    limited: bool = False  # over the pool's report_limit: only counted, not written and not logged
    _raw: bytes = attrs.field(repr=False, eq=False)

    @property
    def native_stack(self) -> tuple[str, ...]:
        """The machine's stack, innermost first, as module+offset."""
        return tuple(json.loads(self.to_json())["native_stack"])

    def symbolized(self) -> str:
        """The report as text, with functions, files and lines from llvm-symbolizer or addr2line; takes its time.

        str() names the functions that their modules export. Raises SymbolizerError when neither tool is installed.
        """
        from bufpool import report_log, report_text, symbolize

        symbolizer = symbolize.find()
        (report,) = report_log.parse(self.to_json().encode(), 1)
        assert isinstance(report, report_log.LoggedReport)
        symbolizer.look_up([report])
        return "\n".join([*report_text.lines(report, symbolizer.names), *(f"  note: {n}" for n in symbolizer.notes)])

    def to_json(self) -> str:
        """One line of JSON, as the pool's log has it; for guarded access with the Python stack."""
        text = _formatted(lib.bufpool_format_json, self._raw)
        return f'{text[:-1]},"python_stack":{json.dumps(self.python_stack)}}}' if self.python_stack else text

    def __str__(self) -> str:
        text = _formatted(lib.bufpool_format_text, self._raw).rstrip("\n")
        if self.pid == os.getpid():
            text = _FRAME.sub(lambda match: match[0] + _function(int(match[1], 16), self.pc), text)
        if not self.python_stack:
            return text
        return "\n".join([text, "  Python, innermost last:", *(f"    {line}" for line in self.python_stack)])


def from_native(fault: CData, python_stack: tuple[str, ...] = ()) -> FaultReport:
    """A report with its own copy of a bufpool_fault."""
    return FaultReport(
        sequence=fault.sequence,
        address=fault.address,
        access=_text(lib.bufpool_access_name(fault.access)),
        pool=_text(fault.pool_name),
        pool_address=fault.pool_address,
        pool_capacity=fault.pool_capacity,
        page=fault.page,
        page_size=fault.page_size,
        offset=signed(fault.offset),
        state=_text(lib.bufpool_state_name(fault.state)),
        thread_id=fault.thread_id,
        thread_name=_text(fault.thread_name),
        pid=fault.pid,
        time=_time(fault.time_ns),
        pc=fault.pc,
        python_stack=python_stack,
        allocated=event_from_native(fault.allocated),
        freed=event_from_native(fault.freed),
        pinned=event_from_native(fault.pinned),
        read_pins=fault.read_pins,
        write_pins=fault.write_pins,
        below=_page(fault.below),
        above=_page(fault.above),
        in_syscall=_text(fault.in_syscall) or None,
        process_name=_text(fault.process_name),
        raced=bool(fault.flags & lib.BUFPOOL_FAULT_RACED),
        forked=bool(fault.flags & lib.BUFPOOL_FAULT_FORKED),
        inherited=bool(fault.flags & lib.BUFPOOL_FAULT_INHERITED),
        fork_note=_text(fault.fork_note) or None,
        went_through=bool(fault.flags & lib.BUFPOOL_FAULT_WENT_THROUGH),
        others_pin=bool(fault.flags & lib.BUFPOOL_FAULT_OTHERS_PIN),
        lost=bool(fault.flags & lib.BUFPOOL_FAULT_LOST),
        red_zone=fault.red_zone,
        sample=fault.sample,
        seed=fault.seed if fault.sample else None,
        limited=bool(fault.flags & lib.BUFPOOL_FAULT_LIMITED),
        raw=bytes(ffi.buffer(ffi.addressof(fault), FAULT_SIZE)),
    )


def event_from_native(origin: CData) -> PageEvent | None:
    """A bufpool_origin; None when nothing is recorded."""
    if origin.sequence == 0:
        return None
    return PageEvent(
        event=_text(lib.bufpool_event_name(origin.event)),
        sequence=origin.sequence,
        time=_time(origin.time_ns),
        thread_id=origin.thread_id,
        thread_name=_text(origin.thread_name),
        pid=origin.pid,
        process_name=_text(origin.process_name),
        python_stack=tuple(_text(origin.caller).splitlines()),
        raw=bytes(ffi.buffer(ffi.addressof(origin), ffi.sizeof("bufpool_origin"))),
    )


def _function(address: int, pc: int) -> str:
    """ " in f+0x12", if the code's module exports f. A return address may be the next function's."""
    back = 0 if address == pc else 1
    name, _, offset = _symbol(address - back).rpartition("+")
    return f" in {name}+{int(offset, 16) + back:#x}" if name else ""


@functools.lru_cache(maxsize=4096)
def _symbol(address: int) -> str:
    buffer = ffi.new("char[]", 512)
    lib.bufpool_symbol(address, buffer, 512)
    return _text(buffer)


def signed(offset: int) -> int:
    """An offset before a page's beginning comes as a large number."""
    return offset - 2**64 if offset >= 2**63 else offset


def _page(number: int) -> int | None:
    return None if number == lib.BUFPOOL_NO_PAGE else number


def _time(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _formatted(function: Callable[..., int], raw: bytes) -> str:
    fault = ffi.from_buffer("bufpool_fault *", raw)
    size = 4096
    while True:
        buffer = ffi.new("char[]", size)
        length = function(fault, buffer, size)
        if length < size:
            return _text(buffer)
        size = length + 1


def _text(value: Any) -> str:
    return ffi.string(value).decode("utf-8", "replace")
