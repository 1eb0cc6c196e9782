"""FaultReport: the record of one trapped stray access."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import attrs

from bufpool._native import ffi, lib

if TYPE_CHECKING:
    from bufpool._native import CData

FAULT_SIZE = ffi.sizeof("bufpool_fault")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@attrs.frozen(kw_only=True)
class FaultReport:
    """One stray access. str() is the text report, to_json() one line of JSON."""

    sequence: int  # counts the faults of this process from 1
    address: int  # exact to the byte
    access: str  # "read", "write" or "execute"
    pool: str  # the pool's name
    page: int
    page_size: int  # bytes
    offset: int  # bytes from the page's start
    state: str  # of the page: "unallocated", "freed", "evicted", "closed"; "allocated" when raced or lost
    thread_id: int
    thread_name: str
    pid: int
    time: datetime  # UTC
    pc: int  # the instruction that made the access
    python_stack: tuple[str, ...] = attrs.field(default=(), eq=False)  # innermost last; of guarded access only
    allocated: str | None = None  # who allocated the page last; None: not recorded
    freed: str | None = None  # who freed the page last; None: not recorded
    in_syscall: str | None = None  # the system call that made the access; None: made by the program
    raced: bool = False  # the page was allocated between the access and the report
    forked: bool = False  # made in a forked child of the process that has the pool
    lost: bool = False  # the page is allocated, but its frame was taken past the pool: by truncating or punching a file
    _raw: bytes = attrs.field(repr=False, eq=False)

    @property
    def native_stack(self) -> tuple[str, ...]:
        """The machine's stack, innermost first, as module+offset."""
        return tuple(json.loads(self.to_json())["native_stack"])

    def to_json(self) -> str:
        """One line of JSON, as the pool's log has it; for guarded access with the Python stack."""
        text = _formatted(lib.bufpool_format_json, self._raw)
        return f'{text[:-1]},"python_stack":{json.dumps(self.python_stack)}}}' if self.python_stack else text

    def __str__(self) -> str:
        text = _formatted(lib.bufpool_format_text, self._raw).rstrip("\n")
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
        page=fault.page,
        page_size=fault.page_size,
        offset=fault.offset,
        state=_text(lib.bufpool_state_name(fault.state)),
        thread_id=fault.thread_id,
        thread_name=_text(fault.thread_name),
        pid=fault.pid,
        time=_EPOCH + timedelta(microseconds=fault.time_ns // 1000),
        pc=fault.pc,
        python_stack=python_stack,
        raced=bool(fault.flags & lib.BUFPOOL_FAULT_RACED),
        forked=bool(fault.flags & lib.BUFPOOL_FAULT_FORKED),
        lost=bool(fault.flags & lib.BUFPOOL_FAULT_LOST),
        raw=bytes(ffi.buffer(ffi.addressof(fault), FAULT_SIZE)),
    )


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
