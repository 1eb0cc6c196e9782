"""Reading a log of fault reports: lines of JSON, some of which may be torn, foreign or hostile.

Whatever a line holds, it comes out as a report, as a count of reports that were not written, or as a bad line with the
reason; never as an exception.
"""

from __future__ import annotations

import json
import os
import time as clock
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import attrs

LONGEST = 1 << 20  # bytes of a line; bufpool's own have less than 32 KiB
_CHUNK = 1 << 16
_STARTS = ('{"sequence":', '{"suppressed":')
_U64 = (1 << 64) - 1


@attrs.frozen(kw_only=True)
class LoggedEvent:
    """Who allocated, freed or pinned the page."""

    event: str
    sequence: int
    time: datetime
    thread_id: int
    thread_name: str
    pid: int
    process_name: str
    native_stack: tuple[str, ...]
    caller: tuple[str, ...]  # innermost last


@attrs.frozen(kw_only=True)
class LoggedReport:
    """One stray access, as FaultReport has it. What an older log lacks has its default."""

    sequence: int
    time: datetime
    pid: int
    thread_id: int
    thread_name: str
    process_name: str
    access: str
    state: str
    address: int
    pc: int
    pool: str
    pool_address: int
    pool_capacity: int
    page: int
    offset: int
    page_size: int
    red_zone: int
    sample: int
    seed: int | None
    memory: str
    trap: str
    signal: int
    raced: bool
    forked: bool
    inherited: bool
    fork_note: str | None
    lost: bool
    went_through: bool
    others_pin: bool
    read_pins: int
    write_pins: int
    in_syscall: str | None
    below: int | None
    above: int | None
    allocated: LoggedEvent | None
    freed: LoggedEvent | None
    pinned: LoggedEvent | None
    native_stack: tuple[str, ...]
    python_stack: tuple[str, ...]

    @property
    def place(self) -> tuple[str, ...]:
        """The instruction and its three innermost callers: what is one place for report_limit."""
        return self.native_stack[:4] or (hex(self.pc),)

    def as_dict(self) -> dict[str, Any]:
        """What json.dumps() takes; every member is there."""
        members = attrs.asdict(self)
        for key in ("address", "pc", "pool_address"):
            members[key] = hex(members[key])
        members["seed"] = None if self.seed is None else str(self.seed)
        for holder in (members, members["allocated"], members["freed"], members["pinned"]):
            if holder is not None:
                holder["time"] = iso(holder["time"])
        return members


@attrs.frozen(kw_only=True)
class Suppressed:
    """Reports of one place that were only counted; the count is all of them so far."""

    count: int
    time: datetime
    pid: int
    pool: str
    pc: int | None  # None: of many places
    place: str | None
    first_sequence: int  # of the place's first report
    limit: int

    def as_dict(self) -> dict[str, Any]:
        """What json.dumps() takes."""
        members = {"suppressed": self.count, **attrs.asdict(self), "time": iso(self.time)}
        members["pc"] = None if self.pc is None else hex(self.pc)
        del members["count"]
        return members


@attrs.frozen
class BadLine:
    """A line that is no report."""

    number: int  # counted from 1
    reason: str


Entry = LoggedReport | Suppressed | BadLine


def iso(time: datetime) -> str:
    """As the log has it."""
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# ---- One line --------------------------------------------------------------------------------------------------------


class _WrongError(Exception):
    """Why a line is no report."""


_Fields = dict[str, Any]


def _member(fields: _Fields, key: str, kind: type, name: str, default: Any = ...) -> Any:
    value = fields.get(key, default)
    if value is ...:
        raise _WrongError(f'"{key}" is missing')
    if value is None and default is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _WrongError(f'"{key}" is not {name}')
    return value


def _number(fields: _Fields, key: str, default: Any = ...) -> Any:
    value = _member(fields, key, int, "a number", default)
    if value is not None and not 0 <= value <= _U64:
        raise _WrongError(f'"{key}" is out of range')
    return value


def _offset(fields: _Fields) -> int:
    """Negative before a page's beginning, in a red zone."""
    value = _member(fields, "offset", int, "a number", ...)
    if not -_U64 // 2 <= value <= _U64:
        raise _WrongError('"offset" is out of range')
    return int(value)


def _string(fields: _Fields, key: str, default: Any = ...) -> Any:
    return _member(fields, key, str, "a text", default)


def _flag(fields: _Fields, key: str) -> bool:
    return bool(_member(fields, key, bool, "true or false", False))


def _address(fields: _Fields, key: str, default: Any = ...) -> Any:
    text = _string(fields, key, default)
    try:
        value = None if text is None else int(text, 16)
    except ValueError:
        raise _WrongError(f'"{key}" is not an address') from None
    if value is not None and not 0 <= value <= _U64:
        raise _WrongError(f'"{key}" is out of range')
    return value


def _seed(fields: _Fields) -> int | None:
    """A number as a text: JSON's own lose bits in many readers."""
    text = _string(fields, "seed", None)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_U64)) and int(text) <= _U64):
        raise _WrongError('"seed" is not a number')
    return int(text)


def _time(fields: _Fields, key: str = "time") -> datetime:
    text = _string(fields, key)
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise _WrongError(f'"{key}" is not a time') from None


def _strings(fields: _Fields, key: str) -> tuple[str, ...]:
    values = _member(fields, key, list, "a list", [])
    if not all(isinstance(value, str) for value in values):
        raise _WrongError(f'"{key}" is not a list of texts')
    return tuple(values)


def _event(fields: _Fields, key: str) -> LoggedEvent | None:
    inner = _member(fields, key, dict, "an object", None)
    if inner is None:
        return None
    return LoggedEvent(
        event=_string(inner, "event"),
        sequence=_number(inner, "sequence"),
        time=_time(inner),
        thread_id=_number(inner, "thread_id", 0),
        thread_name=_string(inner, "thread_name", ""),
        pid=_number(inner, "pid", 0),
        process_name=_string(inner, "process_name", ""),
        native_stack=_strings(inner, "native_stack"),
        caller=_strings(inner, "caller"),
    )


def _report(fields: _Fields) -> LoggedReport:
    page_size = _number(fields, "page_size")
    if page_size < 1:
        raise _WrongError('"page_size" is out of range')
    return LoggedReport(
        sequence=_number(fields, "sequence"),
        time=_time(fields),
        pid=_number(fields, "pid"),
        thread_id=_number(fields, "thread_id", 0),
        thread_name=_string(fields, "thread_name", ""),
        process_name=_string(fields, "process_name", ""),
        access=_string(fields, "access"),
        state=_string(fields, "state"),
        address=_address(fields, "address"),
        pc=_address(fields, "pc"),
        pool=_string(fields, "pool"),
        pool_address=_address(fields, "pool_address"),
        pool_capacity=_number(fields, "pool_capacity"),
        page=_number(fields, "page"),
        offset=_offset(fields),
        page_size=page_size,
        red_zone=_number(fields, "red_zone", 0),
        sample=_number(fields, "sample", 0),
        seed=_seed(fields),
        memory=_string(fields, "memory", ""),
        trap=_string(fields, "trap", ""),
        signal=_number(fields, "signal", 0),
        raced=_flag(fields, "raced"),
        forked=_flag(fields, "forked"),
        inherited=_flag(fields, "inherited"),
        fork_note=_string(fields, "fork_note", None),
        lost=_flag(fields, "lost"),
        went_through=_flag(fields, "went_through"),
        others_pin=_flag(fields, "others_pin"),
        read_pins=_number(fields, "read_pins", 0),
        write_pins=_number(fields, "write_pins", 0),
        in_syscall=_string(fields, "in_syscall", None),
        below=_number(fields, "below", None),
        above=_number(fields, "above", None),
        allocated=_event(fields, "allocated"),
        freed=_event(fields, "freed"),
        pinned=_event(fields, "pinned"),
        native_stack=_strings(fields, "native_stack"),
        python_stack=_strings(fields, "python_stack"),
    )


def _suppressed(fields: _Fields) -> Suppressed:
    return Suppressed(
        count=_number(fields, "suppressed"),
        time=_time(fields),
        pid=_number(fields, "pid"),
        pool=_string(fields, "pool"),
        pc=_address(fields, "pc", None),
        place=_string(fields, "place", None),
        first_sequence=_number(fields, "first_sequence"),
        limit=_number(fields, "limit", 0),
    )


def _entry(text: str) -> LoggedReport | Suppressed:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise _WrongError("it is no JSON, or cut short") from None
    if not isinstance(fields, dict):
        raise _WrongError("it is JSON, but no report")
    if "suppressed" in fields:
        return _suppressed(fields)
    if "sequence" in fields:
        return _report(fields)
    raise _WrongError('it is JSON, but no report: "sequence" is missing')


def parse(line: bytes, number: int) -> Iterator[Entry]:
    """A line's entries: none (an empty line), one, or, behind what a torn line has left, two."""
    text = line.decode("utf-8", "replace").strip()
    if not text:
        return
    try:
        yield _entry(text)
        return
    except _WrongError as error:
        wrong = BadLine(number, str(error))
    yield wrong
    start = max(text.rfind(mark) for mark in _STARTS)
    if start > 0:
        try:
            yield _entry(text[start:])
        except _WrongError:
            return


# ---- Files -----------------------------------------------------------------------------------------------------------


class _Lines:
    """Cuts what is read into lines, and numbers them. None stands for a line that was too long to keep."""

    def __init__(self) -> None:
        self._rest = b""
        self._number = 0
        self._overlong = False

    def feed(self, data: bytes) -> Iterator[Entry]:
        pieces = (self._rest + data).split(b"\n")
        self._rest = pieces.pop()
        for piece in pieces:
            yield from self._take(piece)
        if len(self._rest) > LONGEST:
            self._rest, self._overlong = b"", True

    def end(self) -> Iterator[Entry]:
        """The file ends here: what is left has no line break."""
        rest, self._rest = self._rest, b""
        if rest.strip() or self._overlong:
            yield from self._take(rest)

    def _take(self, line: bytes) -> Iterator[Entry]:
        self._number += 1
        if self._overlong or len(line) > LONGEST:
            self._overlong = False
            yield BadLine(self._number, f"it is longer than {LONGEST} bytes")
        else:
            yield from parse(line, self._number)


def read(stream: BinaryIO) -> Iterator[Entry]:
    """What a log holds, up to its end."""
    lines = _Lines()
    some = getattr(stream, "read1", stream.read)  # what there is: a pipe may be slow
    while data := some(_CHUNK):
        yield from lines.feed(data)
    yield from lines.end()


def follow(
    path: str | os.PathLike[str],
    wait: Callable[[], None] = lambda: clock.sleep(0.2),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Entry]:
    """The same, and then what is appended, for ever; also to the file that takes its name, or once it was cut."""
    while not stop():
        try:
            stream = open(path, "rb")  # noqa: PTH123, SIM115 (closed below)
        except FileNotFoundError:  # being rotated
            wait()
            continue
        with stream:
            yield from _follow(stream, path, wait, stop)


def _follow(
    stream: BinaryIO, path: str | os.PathLike[str], wait: Callable[[], None], stop: Callable[[], bool]
) -> Iterator[Entry]:
    lines = _Lines()
    while True:
        replaced = _is_replaced(stream, path)  # asked first: what came before it is still read
        while data := stream.read(_CHUNK):
            yield from lines.feed(data)
        if replaced or stop():
            yield from lines.end()
            return
        if os.fstat(stream.fileno()).st_size < stream.tell():
            yield from lines.end()
            stream.seek(0)
        else:
            wait()


def _is_replaced(stream: BinaryIO, path: str | os.PathLike[str]) -> bool:
    try:
        now = Path(path).stat()
    except OSError:
        return False
    mine = os.fstat(stream.fileno())
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)
