"""What a thread is owed: stray accesses become exceptions at the next call, or go to catch_faults().

An access through a view cannot raise where it is made. It completes on a scratch pattern, and the fault is owed to the
thread that made it. Every call of the library begins by asking for what is owed, and only then does its work.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from bufpool._native import ffi, lib
from bufpool.arguments import data_argument
from bufpool.errors import ArgumentError, BufpoolError, StrayAccessError, failure
from bufpool.report import FAULT_SIZE, FaultReport, from_native
from bufpool.told import collectors, tell, to_stderr

if TYPE_CHECKING:
    from bufpool._native import CData

POISON = bytes([lib.BUFPOOL_POISON])
_check = lib.bufpool_py_check  # asked so often that finding it by name would count
_CALLER_SIZE = 512  # of bufpool_origin.caller


class _Thread(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.fault = ffi.new("bufpool_fault *", {"size": FAULT_SIZE})  # filled in by native calls
        self.catchers: list[catch_faults] = []  # innermost last


_thread = _Thread()


class catch_faults:  # noqa: N801 (used as a function is)
    """Collects this thread's stray accesses inside a with block, in place of raising them.

    A guarded read gives bytes of bufpool.POISON, a guarded write has no effect. Blocks nest: the innermost collects.
    What the thread is owed from before the block is raised on entry. A block ends in the thread where it began. All
    tasks of an asyncio loop are one thread, so a block collects what any of them does while it is open: it should
    contain no await.
    """

    def __init__(self) -> None:
        self._reports: list[FaultReport] = []

    @property
    def reports(self) -> tuple[FaultReport, ...]:
        """The reports, oldest first; complete when the block has ended."""
        return tuple(self._reports)

    def __enter__(self) -> catch_faults:
        check()
        _thread.catchers.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self not in _thread.catchers:
            raise BufpoolError("this catch_faults() block was entered in another thread: it has to end there, too")
        try:
            self.add(*owed())
        finally:
            _thread.catchers.remove(self)

    def add(self, *reports: FaultReport) -> None:
        """Collects reports; the library's own use."""
        self._reports += reports
        for collector in collectors:
            for report in reports:
                collector(report)


def catcher() -> catch_faults | None:
    """The innermost catch_faults() block of this thread."""
    return _thread.catchers[-1] if _thread.catchers else None


def check() -> None:
    """Raises the stray accesses that this thread is still owed, of any pool."""
    if _check():
        reports = _taken_over(_check, begun=True)
        if reports:
            deliver(reports)


def owed() -> list[FaultReport]:
    """Takes over what this thread is owed, oldest first."""
    return _taken_over(_check, begun=True) if _check() else []


def settle(thread_ids: set[int]) -> None:
    """Takes over what this thread, and those that have ended, are owed: nothing of it is raised any more.

    thread_ids are those that strayed.
    """
    _await_end_of_joined(thread_ids)
    reports = owed() + _taken_over(lib.bufpool_py_check_ended, ffi.NULL)
    catching = catcher()
    if catching is not None:
        catching.add(*reports)


def owed_to_ended(pool: CData, thread_ids: set[int]) -> list[FaultReport]:
    """Takes over what is owed to threads that have ended; thread_ids are those that strayed."""
    _await_end_of_joined(thread_ids)
    return _taken_over(lib.bufpool_py_check_ended, pool)


def _taken_over(function: Callable[..., int], *arguments: object, begun: bool = False) -> list[FaultReport]:
    """Takes over what there is; those that were answered in place are logged, the others returned too.

    begun: a native call has filled in the first already.
    """
    every: list[FaultReport] = []
    reports: list[FaultReport] = []
    with kept(reports):
        while begun or function(*arguments):
            begun = False
            fault = _last_fault()
            every.append(from_native(fault[0]))
            if not fault.flags & lib.BUFPOOL_FAULT_TOLD:
                reports.append(every[-1])
        tell(every)
    return reports


def _last_fault() -> CData:
    """What the native call that has just returned was about; the next fault of this thread takes its place."""
    fault = _thread.fault
    lib.bufpool_last_fault(fault)
    return fault


def _taken(fault: CData, stack: tuple[str, ...] = ()) -> FaultReport:
    """The same for the one that a call has ended with."""
    report = from_native(fault[0], stack)
    with kept([] if fault.flags & lib.BUFPOOL_FAULT_TOLD else [report]):
        tell([report])
    return report


@contextlib.contextmanager
def kept(reports: list[FaultReport]) -> Iterator[None]:
    """What has been taken over is not lost when on_report, or Ctrl-C, ends the program before it is raised."""
    try:
        yield
    except BaseException as error:
        catching = catcher()
        if catching is not None:
            catching.add(*reports)
        elif reports:
            attach(error, reports)
        raise


def _await_end_of_joined(thread_ids: set[int]) -> None:
    """Thread.join() returns shortly before the kernel ends the thread, and only then has it ended for C."""
    gone = thread_ids - {thread.native_id or 0 for thread in threading.enumerate()}
    deadline = time.monotonic() + 1.0  # a thread that C started may live on: it is owed its faults still
    while any(Path(f"/proc/self/task/{thread_id}").exists() for thread_id in gone) and time.monotonic() < deadline:
        time.sleep(0.0005)


@atexit.register
def _say_the_rest() -> None:
    """At the end of the program nobody asks any more."""
    for report in owed() + _taken_over(lib.bufpool_py_check_ended, ffi.NULL):
        if not report.limited:
            with contextlib.suppress(OSError, ValueError):  # stderr is closed, or full
                to_stderr(f"{report}\n")
    lib.bufpool_flush(ffi.NULL)  # of threads that still run


def _say_the_rest_in_workers() -> None:
    """multiprocessing ends a forked worker by os._exit(): of all exit handlers only its own finalizers run."""
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return

    def finalize(say: Callable[[], None]) -> None:
        util.Finalize(None, say, exitpriority=-100)

    util.register_after_fork(_say_the_rest, finalize)  # a starting worker drops what it inherits, then calls these
    if sys.modules["multiprocessing.process"].parent_process() is not None:  # it has started already
        finalize(_say_the_rest)


_say_the_rest_in_workers()  # imported by a worker
os.register_at_fork(after_in_child=_say_the_rest_in_workers)


def deliver(reports: list[FaultReport], *, late: bool = True) -> None:
    """Raises them in one StrayAccessError, or hands them to the innermost catcher; late: not made by this call."""
    catching = catcher()
    if catching is None:
        raise StrayAccessError(reports, _earlier(reports) if late else "")
    catching.add(*reports)


def _earlier(reports: list[FaultReport]) -> str:
    here = {report.thread_id for report in reports} == {threading.get_native_id()}
    return f"made earlier {'in this thread ' if here else ''}through a view, raised at this call"


def attach(error: BaseException, reports: list[FaultReport]) -> None:
    """Shows stray accesses with an exception that is already on its way: as what happened before it."""
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            break
        error = before
    stray = StrayAccessError(reports)
    stray.__context__ = error.__context__
    error.__context__ = stray
    error.__suppress_context__ = False


def call(function: Callable[..., int], *arguments: object) -> int:
    """Calls a native function of prelude.h: its result, or the exception for it."""
    result = function(*arguments)
    return result if result >= 0 else answer(result, function, *arguments)


def answer(result: int, function: Callable[..., int], *arguments: object) -> int:
    """What to make of its result below 0. Where that was only to be told, or is collected, the call is made again."""
    while result < 0:
        if result == lib.BUFPOOL_PY_OWED:
            reports = _taken_over(_check, begun=True)
            if reports:
                deliver(reports)
        elif result == lib.BUFPOOL_ESTRAY:
            raise StrayAccessError([_taken(_last_fault(), python_stack())])
        else:
            raise failure(result)
        result = function(*arguments)
    return result


def call_with_data(data: Any, function: Callable[..., int], *arguments: object, size: int | None = None) -> int:
    """The same for function(*arguments, data, size) that reads bytes-like data, which may itself lie in a hole.

    data None is NULL and 0; size, if given, is what data must have.
    """
    if data is None:
        return call(function, *arguments, ffi.NULL, 0)
    if type(data) is bytes and size is None:  # lies on Python's own heap
        return call(function, *arguments, data, len(data))
    with data_argument(data) as memory:
        source, found = memory, ffi.sizeof(memory)
        if size is not None and size != found:
            raise ArgumentError(f"data must be {size} bytes, as many as the pages have together, not {found}")
        while True:
            try:
                return call(function, *arguments, source, found)
            except StrayAccessError as error:
                catching = catcher()
                if catching is None:
                    raise
                catching.add(error.report)
                source = _salvaged(source, error.report)


def recorded(function: Callable[..., int]) -> Callable[..., int]:
    """call() or call_with_data() for pools that record stacks: C is told who makes the call."""

    @functools.wraps(function)
    def with_caller(*arguments: Any, **keywords: Any) -> int:
        lib.bufpool_set_caller(_caller(sys._getframe(1)))  # if there is no room left, provenance_lost counts
        try:
            return function(*arguments, **keywords)
        finally:
            lib.bufpool_set_caller(ffi.NULL)

    return with_caller


call_recorded = recorded(call)
call_with_data_recorded = recorded(call_with_data)


def _caller(frame: FrameType | None) -> bytes:
    """The Python calls outside the library as one text, the innermost last; of them as many as C keeps."""
    lines: list[bytes] = []
    length = 0
    for line in _calls(frame):
        lines.append(line.encode("utf-8", "surrogateescape"))
        length += len(lines[-1]) + 1
        if length > _CALLER_SIZE:
            break
    return b"\n".join(reversed(lines))


def _salvaged(data: CData, report: FaultReport) -> CData:
    """A copy of data with the pattern in place of what cannot be read; report is the fault that is known already."""
    size = ffi.sizeof(data)
    start = int(ffi.cast("uintptr_t", data))
    copy = ffi.new("char[]", POISON * size)
    fault = ffi.new("bufpool_fault *", {"size": FAULT_SIZE})
    done = 0
    while True:
        readable = report.address - start - done
        lib.bufpool_guarded_copy(copy + done, data + done, readable, ffi.NULL)
        done += readable + report.page_size - report.offset
        if done >= size or lib.bufpool_guarded_copy(copy + done, data + done, size - done, fault) == 0:
            return ffi.from_buffer("char[]", ffi.buffer(copy, size))
        report = _taken(fault, python_stack())
        deliver([report], late=False)


def python_stack() -> tuple[str, ...]:
    """The Python calls of this thread outside the library, innermost last."""
    return tuple(reversed(list(_calls(sys._getframe(1)))))


def _calls(frame: FrameType | None) -> Iterator[str]:
    """The calls from a frame outwards, beginning with the first outside the library."""
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == __package__:
        frame = frame.f_back
    while frame is not None:
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
