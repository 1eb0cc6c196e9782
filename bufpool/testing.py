"""Stray accesses in test suites: every one that happens while a test is watched fails it.

    with bufpool.testing.watch_faults("preset=test"):
        ...                                   # AssertionError at the end, with the reports

    class TestEngine(bufpool.testing.WatchedTests, unittest.TestCase):
        ...

`pytest --bufpool` does the same for a whole suite. It counts what this process strays, in any thread, what a child
that is forked strays, and what a program strays that is started meanwhile: if it imports bufpool, or reads
BUFPOOL_OPTIONS. Exceptions that the program swallows count. What a catch_faults() block has collected does not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import unittest
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bufpool import options, told
from bufpool._native import ffi, lib
from bufpool.errors import ArgumentError
from bufpool.faults import settle
from bufpool.pool import Pool, pools
from bufpool.report import FaultReport
from bufpool.report_log import LoggedReport, parse
from bufpool.report_text import lines

if TYPE_CHECKING:
    from typing_extensions import Self

Report = FaultReport | LoggedReport
_Key = tuple[int, int, int]  # process, pool, sequence: another copy of the library counts for itself

_COLLECTED = "collected"  # in the directory: a key, in a line for each report that a block has collected
_OPTIONS = "options"  # what children configure


def _key(report: Report) -> _Key:
    return report.pid, report.pool_address, report.sequence


def text_of(report: Report) -> str:
    """The whole report."""
    return str(report) if isinstance(report, FaultReport) else "\n".join(lines(report))


def headline(reports: Iterable[Report]) -> str:
    """How many there are, and what the first is."""
    found = list(reports)
    first = text_of(found[0]).partition("\n")[0].partition("bufpool: ")[2]
    where = f'{first} (page {found[0].page} of pool "{found[0].pool}", offset {found[0].offset})'
    return where if len(found) == 1 else f"{len(found)} stray accesses, the first: {where}"


class _Log:
    """A file to which pools of this process and of its children write their reports."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.owner = owner  # the test in which it was begun
        self.users: weakref.WeakSet[Pool] = weakref.WeakSet()
        self._offset = path.stat().st_size if path.exists() else 0

    def in_use(self) -> bool:
        return any(not pool.closed for pool in self.users)

    def read(self) -> Iterator[LoggedReport]:
        """What whole lines have been added."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # begun anew
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.splitlines():
            for entry in parse(line, 0):
                if isinstance(entry, LoggedReport):
                    yield entry


class Watch:
    """What strays from start() on. To be used from one thread; watches nest like with blocks."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._pid = os.getpid()
        self._pending: dict[_Key, Report] = {}
        self._seen: set[_Key] = set()
        self._witnessed: dict[_Key, FaultReport] = {}  # these know the Python stack
        self._floor = 0  # of this process's sequence: what came before start()
        self._begun = 0
        self._log = _Log(Path(), "")  # of this test
        self._logs: list[_Log] = []  # that one, and others to which pools write that are open
        self._old: list[_Log] = []
        self._directory = Path()
        self._defaults: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._environment: dict[str, str | None] = {}

    # ---- From outside ------------------------------------------------------------------------------------------------

    @property
    def reports(self) -> tuple[Report, ...]:
        """What has strayed since it was taken last, oldest first; children's are from their log, which has the same."""
        self._look()
        return tuple(sorted(self._pending.values(), key=lambda report: report.time))

    def take(self) -> tuple[Report, ...]:
        """The same, and it does not count any more, here or for a watch around this: for what a test expects."""
        reports = self.reports
        self._pending.clear()
        for collector in told.collectors:
            if collector != self._collect:
                for report in reports:
                    collector(report)
        return reports

    def start(self) -> Self:
        """Configures the pools to come. Raises ArgumentError (wrong options, or one with which a stray ends tests)."""
        before = options.exchange({})
        try:
            options.configure(self._text)
            self._defaults = options.exchange(before)
        except BaseException:
            options.exchange(before)
            raise
        if self._defaults.get("on_fault", "raise") not in ("raise", "resume"):
            raise ArgumentError(
                f"on_fault={self._defaults['on_fault']} would end, or stop, the tests: raise or resume is right"
            )
        self._before = before
        self._directory = Path(tempfile.mkdtemp(prefix="bufpool-"))
        self._environment = {name: os.environ.get(name) for name in ("BUFPOOL_OPTIONS", "BUFPOOL_TESTING")}
        settled = [report.sequence for pool in list(pools.values()) for report in _faults(pool, 0)]
        self._floor = max(settled, default=0)
        options.attendants.append(self)
        told.witnesses.append(self._witness)
        told.collectors.append(self._collect)
        self.begin("")
        os.environ["BUFPOOL_TESTING"] = str(self._directory)
        return self

    def begin(self, owner: str) -> None:
        """A test begins: what it opens has a log of its own, by which a child's stray is its opener's."""
        for log in [log for log in self._logs if not log.in_use()]:
            self._logs.remove(log)
            self._old.append(log)
        self._begun += 1
        self._log = _Log(self._directory / f"{self._begun}.jsonl", owner)
        self._logs.append(self._log)
        more = {"log": f"log='{self._log.path}'", "on_fault": "on_fault=resume"}
        parts = [self._text, *(part for name, part in more.items() if name not in self._defaults)]
        options.exchange({"log": str(self._log.path), **self._defaults})
        (self._directory / _OPTIONS).write_text(":".join(part for part in parts if part and part != more["on_fault"]))
        os.environ["BUFPOOL_OPTIONS"] = ":".join(filter(None, parts))  # for native code, here and in children

    def stop(self) -> list[tuple[str, Report]]:
        """Leaves all as it was. Returns what came too late for the tests, each with the test that opened the pool."""
        late = [("", report) for report in self.take()]
        for log in self._old:
            late += [(log.owner, report) for report in self._news(log)]
        options.exchange(self._before)
        options.attendants.remove(self)
        told.witnesses.remove(self._witness)
        told.collectors.remove(self._collect)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if os.getpid() == self._pid:
            shutil.rmtree(self._directory, ignore_errors=True)
        return late

    def check(self) -> None:
        """Raises AssertionError if something has strayed, with the reports; they are taken."""
        __tracebackhide__ = True  # pytest shows the test
        reports = self.take()
        if reports:
            raise AssertionError("\n\n".join([headline(reports), *map(text_of, reports)]))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        __tracebackhide__ = True
        try:
            if error is None:
                self.check()
        finally:
            self.stop()

    # ---- Told by the library -----------------------------------------------------------------------------------------

    def before(self, chosen: dict[str, Any]) -> None:
        """A pool is about to be opened: whatever it asks for, a stray does not end the tests."""
        if os.getpid() == self._pid and chosen.get("on_fault") in ("abort", "freeze"):
            chosen["on_fault"] = "raise"

    def after(self, chosen: dict[str, Any], pool: Any) -> None:
        """A pool is open, perhaps with a log of its own choice."""
        if chosen.get("log") is None or os.getpid() != self._pid:
            return
        path = Path(os.fsdecode(chosen["log"])).absolute()
        log = next((log for log in self._logs if log.path == path), None)
        if log is None:
            log = _Log(path, self._log.owner)
            self._logs.append(log)
        if isinstance(pool, Pool):
            log.users.add(pool)

    def _witness(self, report: FaultReport) -> None:
        if os.getpid() == self._pid and len(self._witnessed) < 4096:
            self._witnessed[_key(report)] = report

    def _collect(self, report: Report) -> None:
        _note_collected(self._directory, report)

    # ---- Looking -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if os.getpid() != self._pid:
            return
        found = [report for pool in list(pools.values()) for report in _faults(pool, self._floor)]
        settle({report.thread_id for report in found if _key(report) not in self._seen})
        for log in self._logs:
            self._pending.update((_key(report), report) for report in self._news(log))
        for report in [*found, *self._witnessed.values()]:  # the later know more
            key = _key(report)
            if report.sequence > self._floor and (key not in self._seen or key in self._pending):
                self._seen.add(key)
                self._pending[key] = report
        self._witnessed.clear()
        for key in self._collected():
            self._pending.pop(key, None)

    def _news(self, log: _Log) -> Iterator[LoggedReport]:
        for report in log.read():
            if _key(report) not in self._seen:
                self._seen.add(_key(report))
                yield report

    def _collected(self) -> set[_Key]:
        try:
            numbers = [int(word) for word in (self._directory / _COLLECTED).read_text().split()]
        except OSError:
            return set()
        return set(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False))


def watch_faults(text: str = "preset=test") -> Watch:
    """A with block at whose end stray accesses are an AssertionError; text is as for bufpool.configure()."""
    return Watch(text)


class WatchedTests:
    """For unittest, to stand before TestCase among a class's bases: a test that strays fails.

    bufpool_options are the defaults of the pools that it makes; self.bufpool_faults is the Watch, of which take()
    gives the strays that a test expects.
    """

    bufpool_options = "preset=test"
    bufpool_faults: Watch

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Runs the test, watched until its cleanups are done."""
        self.bufpool_faults = Watch(self.bufpool_options).start()
        try:
            self.addCleanup(self.bufpool_faults.check)  # type: ignore[attr-defined]
            return super().run(result)  # type: ignore[misc,no-any-return]
        finally:
            self.bufpool_faults.stop()


def watch_child(directory: str) -> None:
    """In a process that a watched test has started: its pools report to the test. Called when it imports bufpool."""
    place = Path(directory)
    try:
        text = (place / _OPTIONS).read_text()
    except OSError:  # it has outlived the tests
        return
    options.configure(text)
    told.collectors.append(lambda report: _note_collected(place, report))


def _note_collected(directory: Path, report: Report) -> None:
    with contextlib.suppress(OSError), (directory / _COLLECTED).open("a") as file:
        print(*_key(report), file=file)


def _faults(pool: Pool, after: int) -> tuple[FaultReport, ...]:
    """Most pools have none, which is cheap to know."""
    found = ffi.new("size_t *")
    one = ffi.new("bufpool_fault *", {"size": ffi.sizeof("bufpool_fault")})
    if lib.bufpool_faults(pool.native, after, 1, one, found) or not found[0]:
        return ()
    return pool.faults
