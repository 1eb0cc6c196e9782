"""Who is told of a report: the logger "bufpool", and the pool's on_report.

Both at a defined point in the thread that strayed (or, once it has ended, in the one that closes the pool), never in
the signal handler. An Exception in either is printed to stderr and loses no report; what ends programs, such as
KeyboardInterrupt, goes on its way when all have been told.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from bufpool.report import FaultReport

logger = logging.getLogger("bufpool")
logger.addHandler(logging.NullHandler())

OnReport = Callable[[FaultReport], object]


class Listener(Protocol):
    """A pool: what it wants to be called with each report."""

    on_report: OnReport | None


listeners: weakref.WeakValueDictionary[int, Listener] = weakref.WeakValueDictionary()  # by the pool's address


# Called with each report that a thread takes over, and with each that a catch_faults() block has collected; they raise
# nothing. See bufpool.testing.
witnesses: list[OnReport] = []
collectors: list[Callable[[Any], object]] = []


class _Depth(threading.local):
    value = 0


_depth = _Depth()


def tell(reports: Sequence[FaultReport]) -> None:
    """Logs each report at ERROR (but for those over the pool's report_limit), then calls on_report."""
    if not reports:
        return
    depth, _depth.value = _depth.value, _depth.value + 1
    ending: BaseException | None = None
    try:
        for function, report in _calls(reports, depth):
            try:
                _shielded(function, report)
            except BaseException as error:
                ending = ending or error
    finally:
        _depth.value = depth
    if ending is not None:
        raise ending


def _calls(reports: Sequence[FaultReport], depth: int) -> Iterator[tuple[OnReport, FaultReport]]:
    """What is called.

    A handler of the logger, or an on_report, may stray itself: that is logged, but on_report is not called again; and
    what strays while that is logged is not logged again.
    """
    for report in reports:
        for witness in witnesses:
            yield witness, report
        if depth < 2 and not report.limited:
            yield _log, report
        listener = listeners.get(report.pool_address)
        if depth < 1 and listener is not None and listener.on_report is not None:
            yield listener.on_report, report


def _log(report: FaultReport) -> None:
    logger.error("%s", report, extra={"report": report})


def _shielded(function: OnReport, report: FaultReport) -> None:
    try:
        function(report)
    except Exception as error:
        with contextlib.suppress(Exception):  # stderr may be closed, or full
            head = f"bufpool: {function!r} was told of report {report.sequence}, and raised:\n"
            to_stderr(head + "".join(traceback.format_exception(error)))


def to_stderr(text: str) -> None:
    """Without a stderr (as of a daemon) print() would write to stdout."""
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
