"""What `pytest --bufpool` does: each phase of a test is watched, and fails if something strays. See pytest_bufpool."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bufpool.errors import ArgumentError
from bufpool.testing import Report, Watch, headline, text_of


def plugin(config: pytest.Config, text: str) -> Any:
    """The plugin for this process: one that runs tests, or one that has others do so (xdist)."""
    if "::" in text or (text and Path(text).exists()):
        raise pytest.UsageError(
            f'--bufpool took "{text}" for its options, and that is where tests are: write --bufpool= {text}, '
            "or put --bufpool last (in addopts: --bufpool=)"
        )
    if text and "=" not in text:
        raise pytest.UsageError(
            f'--bufpool took "{text}" for its options, which are key=value: write --bufpool=preset=test, '
            "or put --bufpool last"
        )
    watch = Watch(text or os.environ.get("BUFPOOL_OPTIONS") or "preset=test")
    try:
        watch.start()
    except ArgumentError as error:
        raise pytest.UsageError(f"--bufpool: {error}") from None
    if getattr(config.option, "dist", "no") == "no" or hasattr(config, "workerinput"):
        return _Tests(config, watch)
    watch.stop()
    return _Controller()


class _Late:
    """Strays that came when no test was there to be failed."""

    def __init__(self) -> None:
        self.late: list[str] = []

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.late:
            terminalreporter.section("bufpool: stray accesses outside of the tests", red=True)
            for text in self.late:
                terminalreporter.write_line(text)

    def _judge(self, session: pytest.Session) -> None:
        if self.late and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Controller(_Late):
    """Under xdist: hears from the workers."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.late += getattr(node, "workeroutput", {}).get("bufpool", [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._judge(session)


class _Tests(_Late):
    """In a process that runs tests."""

    def __init__(self, config: pytest.Config, watch: Watch) -> None:
        super().__init__()
        self._config = config
        self.watch = watch
        self._stopped = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        self._keep([("", report) for report in self.watch.take()])
        self.watch.begin(item.nodeid)
        return (yield from self._phase(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        return (yield from self._phase(item, "call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        return (yield from self._phase(item, "teardown"))

    def _phase(self, item: pytest.Item, when: str) -> Generator[None, object, object]:
        try:
            result = yield
        except BaseException as error:
            reports = self._show(item, when)
            if reports and isinstance(error, pytest.skip.Exception):
                raise pytest.fail.Exception(headline(reports), pytrace=False) from None
            raise
        reports = self._show(item, when)
        if reports:
            pytest.fail(headline(reports), pytrace=False)
        return result

    def _show(self, item: pytest.Item, when: str) -> Sequence[Report]:
        reports = self.watch.take()
        if reports:
            item.add_report_section(when, "stray accesses (bufpool)", "\n\n".join(map(text_of, reports)) + "\n")
        return reports

    def _keep(self, late: list[tuple[str, Report]]) -> None:
        for owner, report in late:
            self.late.append(f"to a pool that was opened by {owner}:\n{text_of(report)}" if owner else text_of(report))

    @pytest.hookimpl(trylast=True)  # after a run that was cut short fixtures are torn down here, too
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._stop()
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["bufpool"] = self.late
        self._judge(session)

    def pytest_unconfigure(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._keep(self.watch.stop())
