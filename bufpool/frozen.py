"""frozen_threads() and thaw(): the threads that on_fault "freeze" has stopped in a process, from outside of it.

The process keeps a record of them in a memfd (native/src/frozen.h has its layout), which is found among its
descriptors: so this works while a stopped thread holds the interpreter's lock. What is found is checked before it is
believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs

from bufpool.descriptors import descriptors
from bufpool.errors import ArgumentError, BufpoolError

_NAME = "/memfd:bufpool-frozen"
_FACTS = struct.Struct("=8sIiIIIIII")  # struct bp_frozen_facts
_SLOT = struct.Struct("=IIiIqQQQQII")  # the head of struct bp_frozen_slot
_VERSION = 1
_STOPPED = 2
_WISH_OFFSET = 4
_WISHES = {"resume": 1, "abort": 2}
_PLACES = ("in the kernel, on the access itself", "in the handler")
_PATIENCE = 10.0  # seconds that a thread has to go on
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@attrs.frozen(kw_only=True)
class FrozenThread:
    """A thread that on_fault "freeze" has stopped."""

    thread_id: int
    since: datetime  # UTC
    address: int  # the stray access, exact to the byte
    pc: int
    place: str  # where the thread waits: in the kernel, on the access itself, or in the handler
    text: str  # the report
    report: dict[str, Any]  # the same, as the pool's log has it
    slot: int = attrs.field(repr=False)  # where the record has it

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "thread_id": self.thread_id,
            "since": self.since.isoformat(),
            "address": f"0x{self.address:x}",
            "pc": f"0x{self.pc:x}",
            "place": self.place,
            "report": self.report,
        }


@attrs.frozen
class _Record:
    fd: int
    slots: int
    slot_offset: int
    slot_size: int
    text_offset: int
    json_offset: int
    text_size: int

    def threads(self) -> tuple[FrozenThread, ...]:
        found = (self._thread(self.slot_offset + n * self.slot_size) for n in range(self.slots))
        return tuple(thread for thread in found if thread is not None)

    def _thread(self, at: int) -> FrozenThread | None:
        head = _SLOT.unpack(os.pread(self.fd, _SLOT.size, at))
        state, _, thread_id, place, since, _, address, pc, _, text_length, json_length = head
        if state != _STOPPED:
            return None
        text = os.pread(self.fd, min(text_length, self.text_size), at + self.text_offset)
        report = os.pread(self.fd, min(json_length, self.text_size), at + self.json_offset)
        if os.pread(self.fd, _SLOT.size, at) != _SLOT.pack(*head):
            return None  # it has gone on meanwhile
        return FrozenThread(
            thread_id=thread_id,
            since=_EPOCH + timedelta(microseconds=since // 1000),
            address=address,
            pc=pc,
            place=_PLACES[place % len(_PLACES)],
            text=_printable(text),
            report=_parsed(report),
            slot=at,
        )

    def wish(self, thread: FrozenThread, wish: int) -> None:
        os.pwrite(self.fd, struct.pack("=I", wish), thread.slot + _WISH_OFFSET)


def _printable(text: bytes) -> str:
    """The terminal is not to be steered by what another process has written."""
    decoded = text.decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in decoded).rstrip("\n")


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        report = json.loads(text)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def frozen_threads(pid: int) -> tuple[FrozenThread, ...]:
    """The threads that are stopped in a process. Raises BufpoolError when it cannot be looked at, or has no record."""
    with _record(pid) as record:
        return record.threads()


def thaw(pid: int, *, thread: int | None = None, policy: str = "resume") -> tuple[int, ...]:
    """Lets stopped threads of a process go on: all of them, or one. Returns their ids, when they have.

    policy "resume": the access completes on the scratch pattern; "abort": the process ends at it.
    """
    if policy not in _WISHES:
        raise ArgumentError(f"policy {policy!r} is none of {', '.join(_WISHES)}")
    with _record(pid) as record:
        chosen = [found for found in record.threads() if thread is None or found.thread_id == thread]
        if thread is not None and not chosen:
            raise ArgumentError(f"thread {thread} of process {pid} is not frozen")
        for found in chosen:
            record.wish(found, _WISHES[policy])
        deadline = time.monotonic() + _PATIENCE
        waiting = {found.thread_id for found in chosen}
        while waiting and time.monotonic() < deadline and not _is_dead(pid):
            time.sleep(0.01)
            waiting &= {found.thread_id for found in record.threads()}
    if waiting and not _is_dead(pid):
        names = ", ".join(map(str, sorted(waiting)))
        raise BufpoolError(
            f"thread {names} of process {pid} has not gone on in {_PATIENCE:.0f} s: has a debugger stopped it?"
        )
    return tuple(found.thread_id for found in chosen)


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True


@contextlib.contextmanager
def _record(pid: int) -> Iterator[_Record]:
    """The record of a process, checked."""
    for path, name in descriptors(pid).items():
        if not name.startswith(_NAME):
            continue
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise BufpoolError(f"the record of process {pid} cannot be opened: {error.strerror}") from None
        try:
            record = _checked(fd, pid)
            if record is not None:
                yield record
                return
        finally:
            os.close(fd)
    raise BufpoolError(
        f'process {pid} has no record of frozen threads: no pool of it was opened with on_fault "freeze"'
    )


def _checked(fd: int, pid: int) -> _Record | None:
    """None: another process's record, inherited; or none of ours."""
    status = os.fstat(fd)
    data = os.pread(fd, _FACTS.size, 0)
    if not stat.S_ISREG(status.st_mode) or len(data) < _FACTS.size:
        return None
    magic, version, owner, slots, offset, size, text_offset, json_offset, text_size = _FACTS.unpack(data)
    if magic != b"BPFROZEN" or owner not in _names_of(pid):
        return None
    if version != _VERSION:
        raise BufpoolError(f"process {pid} has another version of bufpool (record {version}, here {_VERSION})")
    fits = max(text_offset, json_offset) + text_size <= size and _SLOT.size <= min(text_offset, json_offset)
    if not fits or slots > 4096 or offset + slots * size > status.st_size:
        raise BufpoolError(f"the record of process {pid} is damaged")
    return _Record(fd, slots, offset, size, text_offset, json_offset, text_size)


def _names_of(pid: int) -> set[int]:
    """The process's id here, and in the namespaces that it lives in, whose innermost it knows itself by."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {pid}
    line = re.search(r"^NSpid:([\s\d]+)$", status, re.MULTILINE)
    return {int(part) for part in line[1].split()} if line else {pid}
