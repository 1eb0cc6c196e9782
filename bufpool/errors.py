"""The exceptions of bufpool, all below BufpoolError, and how the native codes become one of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bufpool._native import ffi, lib

if TYPE_CHECKING:
    from bufpool.pages_io import Transfer
    from bufpool.report import FaultReport


class BufpoolError(Exception):
    """Every error that bufpool raises, but for TypeError, IndexError and AttributeError."""


class ArgumentError(BufpoolError, ValueError):
    """An argument has a wrong value; the sentence names it and what would be right."""


class PageStateError(BufpoolError, ValueError):
    """The page's state forbids it: double free, already allocated, no page of that number."""


class PoolClosedError(BufpoolError, ValueError):
    """The pool has been closed."""


class PoolExhaustedError(BufpoolError, MemoryError):
    """The pool has too few free pages, or the system has no memory for them."""


class SystemCallError(BufpoolError, OSError):
    """The system refused; errno says why."""


class TransferError(SystemCallError):
    """Pages were not read, or not written. result says which, and why; errno is that of the first."""

    def __init__(self, number: int, sentence: str, result: Transfer) -> None:
        super().__init__(number, sentence)
        self.result = result

    def __reduce__(self) -> tuple[type[TransferError], tuple[int | None, str, Transfer]]:
        return TransferError, (self.errno, self.strerror or "", self.result)


class UnsupportedError(BufpoolError, OSError):
    """This kernel or these rights do not allow it; the sentence says what would."""


class SQLiteStateError(BufpoolError, RuntimeError):
    """SQLite's state forbids it: connections are open, the page cache is installed already, or it is not."""


class StrayAccessError(BufpoolError):
    """A page was touched that is not accessible.

    report is the first fault, reports all that were owed to the thread by then, oldest first. note is empty, or says
    that they were made earlier than at the call that raises them.
    """

    def __init__(self, reports: Sequence[FaultReport], note: str = "") -> None:
        self.report = reports[0]
        self.reports = tuple(reports)
        self.note = note
        super().__init__(self.reports)

    def __str__(self) -> str:
        lines = [str(self.report)]
        if len(self.reports) > 1:
            lines.append(f"({len(self.reports) - 1} more stray accesses are in .reports)")
        if self.note:
            lines.append(f"({self.note})")
        return "\n".join(lines)


_CLASSES: dict[int, type[BufpoolError]] = {
    lib.BUFPOOL_EARGUMENT: ArgumentError,
    lib.BUFPOOL_EEXHAUSTED: PoolExhaustedError,
    lib.BUFPOOL_ESTATE: PageStateError,
    lib.BUFPOOL_ECLOSED: PoolClosedError,
    -errno.ENOMEM: PoolExhaustedError,
}


def failure(code: int, sentence: str = "") -> BufpoolError:
    """The exception for a negative result; the sentence is by default that of this thread's last native call."""
    sentence = sentence or last_sentence() or _text(lib.bufpool_strerror(code))
    if code == lib.BUFPOOL_EUNSUPPORTED:
        return UnsupportedError(errno.EOPNOTSUPP, sentence)
    kind = _CLASSES.get(code)
    if kind:
        return kind(sentence)
    reason = os.strerror(-code)
    return SystemCallError(-code, sentence if reason in sentence else f"{sentence} ({reason})")


def last_sentence() -> str:
    """What this thread's last failed native call says."""
    buffer = ffi.new("char[]", 1024)
    lib.bufpool_last_error(buffer, 1024)
    return _text(buffer)


def _text(value: object) -> str:
    return ffi.string(value).decode("utf-8", "replace")
