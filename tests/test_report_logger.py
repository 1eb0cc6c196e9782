"""The logger "bufpool", on_report, and the rate limit as Python sees it."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bufpool

PoolMaker = Callable[..., bufpool.Pool]
Child = Callable[..., "subprocess.CompletedProcess[str]"]


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    handler = Collector()
    logging.getLogger("bufpool").addHandler(handler)
    yield handler.records
    logging.getLogger("bufpool").removeHandler(handler)


def reports(records: list[logging.LogRecord]) -> list[bufpool.FaultReport]:
    assert all(record.name == "bufpool" and record.levelno == logging.ERROR for record in records)
    return [record.report for record in records]  # type: ignore[attr-defined]


def stray(pool: bufpool.Pool, number: int = 3) -> None:
    assert pool.page(number).buffer[7] == bufpool.POISON


def test_what_is_raised_is_logged_once(any_pool: bufpool.Pool, records: list[logging.LogRecord]) -> None:
    with pytest.raises(bufpool.StrayAccessError) as caught:
        any_pool.page(3)[7]
    assert reports(records) == [caught.value.report]
    assert records[0].getMessage() == str(caught.value.report)
    assert reports(records)[0].python_stack


def test_what_is_owed_is_logged_when_it_is_raised(any_pool: bufpool.Pool, records: list[logging.LogRecord]) -> None:
    stray(any_pool, 3)
    stray(any_pool, 4)
    assert records == []
    with pytest.raises(bufpool.StrayAccessError) as caught:
        any_pool.stats()
    assert reports(records) == list(caught.value.reports)
    assert len(records) == 2


def test_what_is_collected_is_logged(any_pool: bufpool.Pool, records: list[logging.LogRecord]) -> None:
    with bufpool.catch_faults() as caught:
        stray(any_pool)
        any_pool.page(4)[:2]
        any_pool.allocate(any_pool.page(5).buffer[:16])
    assert reports(records) == list(caught.reports)
    assert [report.page for report in caught.reports] == [3, 4, 5]


def test_what_is_owed_to_an_ended_thread_is_logged_at_close(
    make_pool: PoolMaker, in_thread: Any, records: list[logging.LogRecord]
) -> None:
    pool = make_pool()
    in_thread(lambda: stray(pool))
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.close()
    assert reports(records) == [caught.value.report]


def test_resume_logs_at_the_next_call(
    make_pool: PoolMaker, records: list[logging.LogRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool(on_fault="resume")
    stray(pool)
    assert "stray read of an unallocated page" in capfd.readouterr().err
    assert records == []
    number = pool.allocate().number  # the call is made all the same
    assert pool.state(number) == "allocated"
    assert [report.page for report in reports(records)] == [3]
    assert reports(records) == list(pool.faults)
    bufpool.check()
    pool.close()
    assert len(records) == 1
    assert capfd.readouterr().err == ""


def test_resume_logs_an_ended_thread_s_at_close(
    make_pool: PoolMaker, in_thread: Any, records: list[logging.LogRecord]
) -> None:
    pool = make_pool(on_fault="resume")
    in_thread(lambda: stray(pool))
    pool.close()
    assert [report.page for report in reports(records)] == [3]


def test_a_loop_does_not_flood_the_logger(make_pool: PoolMaker, records: list[logging.LogRecord]) -> None:
    pool = make_pool(report_limit=5)
    with bufpool.catch_faults() as caught:
        for number in range(64):
            pool.page(number)[0]
    assert len(caught.reports) == len(pool.faults) == 64
    assert [report.limited for report in caught.reports] == [False] * 5 + [True] * 59
    assert reports(records) == list(caught.reports[:5])
    assert pool.stats().reports_limited == 59


@pytest.mark.parametrize("limit", [0, -1, 2**32])
def test_a_wrong_limit_is_refused(limit: int) -> None:
    with pytest.raises(bufpool.ArgumentError, match=f"report_limit {limit} must be from 1 to 4294967295"):
        bufpool.Pool(4096, report_limit=limit)


def test_the_log_has_the_limit_too(make_pool: PoolMaker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = make_pool(log=log, report_limit=2)
    with bufpool.catch_faults():
        for number in range(10):
            pool.page(number)[0]
    pool.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["page"] for line in lines if "page" in line] == [0, 1]
    assert [line["suppressed"] for line in lines if "page" not in line] == [1, 2, 4, 8]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_two_lines_are_two_places(make_pool: PoolMaker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = make_pool(log=log, report_limit=2)
    with bufpool.catch_faults():
        for _ in range(5):
            pool.page(1)[0]
            pool.page(2)[0]
            pool.page(3)[0:4]
            pool.page(4)[0:4]
            pool.page(5)[0] = 1
            bytes(pool.page(6))
    pool.close()
    pages = [json.loads(line).get("page") for line in log.read_text().splitlines()]
    assert [page for page in pages if page is not None] == [1, 2, 3, 4, 5, 6] * 2


def test_who_freed_the_page_tells_strays_through_views_apart(make_pool: PoolMaker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = make_pool(log=log, report_limit=2, provenance="stacks")
    one, other = pool.allocate(), pool.allocate()
    views = [page.buffer for page in (one, other)]
    one.free()
    other.free()
    for _ in range(5):
        for view in views:
            view[0]
            with pytest.raises(bufpool.StrayAccessError):
                bufpool.check()
    pool.close()
    pages = [json.loads(line).get("page") for line in log.read_text().splitlines()]
    assert [page for page in pages if page is not None] == [one.number, other.number] * 2


# ---- on_report -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_fault", ["raise", "resume"])
def test_on_report_is_called_at_the_next_call(make_pool: PoolMaker, on_fault: str) -> None:
    told: list[bufpool.FaultReport] = []
    pool = make_pool(on_fault=on_fault, on_report=told.append, report_limit=1)
    with bufpool.catch_faults() as caught:
        stray(pool, 3)
        stray(pool, 4)
        assert told == []
        pool.allocate()
        assert told == list(pool.faults)
    assert [report.page for report in caught.reports] == ([3, 4] if on_fault == "raise" else [])
    pool.on_report = None
    with bufpool.catch_faults():
        stray(pool, 5)
    assert len(told) == 2


def test_on_report_is_of_one_pool(make_pool: PoolMaker) -> None:
    told: list[bufpool.FaultReport] = []
    first, second = make_pool(on_report=told.append), make_pool()
    with bufpool.catch_faults():
        stray(second, 1)
        stray(first, 2)
    assert [report.page for report in told] == [2]


def test_an_error_in_on_report_loses_nothing(make_pool: PoolMaker, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(report: bufpool.FaultReport) -> None:
        raise KeyError(report.page)

    pool = make_pool(on_report=broken)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.page(9)[0]
    assert caught.value.report.page == 9
    error = capsys.readouterr().err
    assert "KeyError: 9" in error
    assert "broken" in error


def test_on_report_may_stray_itself(make_pool: PoolMaker, records: list[logging.LogRecord], capsys: Any) -> None:
    pool = make_pool()
    calls: list[int] = []

    def strays(report: bufpool.FaultReport) -> None:
        calls.append(report.page)
        pool.page(report.page + 1)[0]

    pool.on_report = strays
    with pytest.raises(bufpool.StrayAccessError) as caught:
        pool.page(9)[0]
    assert caught.value.report.page == 9
    assert calls == [9]
    assert [report.page for report in reports(records)] == [9, 10]
    assert "StrayAccessError" in capsys.readouterr().err


def test_a_logging_handler_may_stray_itself(make_pool: PoolMaker) -> None:
    pool = make_pool()

    class Straying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with bufpool.catch_faults():
                stray(pool, record.report.page + 1)  # type: ignore[attr-defined]

    handler = Straying()
    logging.getLogger("bufpool").addHandler(handler)
    try:
        with pytest.raises(bufpool.StrayAccessError) as caught:
            pool.page(9)[0]
    finally:
        logging.getLogger("bufpool").removeHandler(handler)
    assert caught.value.report.page == 9
    assert [fault.page for fault in pool.faults] == [9, 10, 11]


def test_on_report_must_be_callable(make_pool: PoolMaker) -> None:
    with pytest.raises(TypeError, match="on_report is a str"):
        make_pool(on_report="x")
    pool = make_pool()
    with pytest.raises(TypeError, match="on_report is a int"):
        pool.on_report = 7  # type: ignore[assignment]


# ---- The end ---------------------------------------------------------------------------------------------------------


def test_nothing_is_printed_without_a_handler(child: Child) -> None:
    done = child("""
        pool = bufpool.Pool(64 * PAGE)
        with bufpool.catch_faults():
            pool.page(3)[0]
        pool.close()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_left_at_the_end_is_said(child: Child) -> None:
    done = child("""
        import logging
        logging.basicConfig(format="LOGGED %(message)s", stream=sys.stdout)
        pools = bufpool.Pool(64 * PAGE), bufpool.Pool(64 * PAGE, on_fault="resume")
        for pool in pools:
            pool.page(3).buffer[7]
    """)
    assert done.returncode == 0
    assert done.stdout.count("LOGGED") == 2
    assert done.stderr.count("==ERROR: bufpool: stray read") == 2  # one by the handler, one at the end


@pytest.mark.parametrize("stderr", ["None", "closed", "full"])
def test_without_a_stderr_nothing_is_lost(child: Child, stderr: str) -> None:
    done = child(f"""
        pool = bufpool.Pool(64 * PAGE, on_report=lambda report: 1 / 0)
        sys.stderr = None if "{stderr}" == "None" else open("/dev/full", "w", 1)
        if "{stderr}" == "closed":
            sys.stderr.close()
        try:
            pool.page(3)[0]
        except bufpool.StrayAccessError as error:
            print("raised:", error.report.page)
        pool.page(4).buffer[0]  # said at the end
        sys.stdout.flush()
    """)
    assert done.returncode == (120 if stderr == "full" else 0)  # 120: Python cannot flush it
    assert done.stdout == "raised: 3\n"
    assert "Traceback" not in done.stderr


def test_what_ends_a_program_goes_through_on_report(make_pool: PoolMaker) -> None:
    def interrupted(_: bufpool.FaultReport) -> None:
        raise KeyboardInterrupt

    pool = make_pool(on_report=interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.page(9)[0]
    assert pages_before(caught.value) == [9]


def pages_before(error: BaseException) -> list[int]:
    """Of the stray accesses that are shown with an exception."""
    assert isinstance(error.__context__, bufpool.StrayAccessError)
    return [report.page for report in error.__context__.reports]


def test_what_ends_a_program_loses_no_report(make_pool: PoolMaker, records: list[logging.LogRecord]) -> None:
    told: list[int] = []

    def interrupted(report: bufpool.FaultReport) -> None:
        told.append(report.page)
        if len(told) % 3 == 1:
            raise KeyboardInterrupt

    pool = make_pool(on_report=interrupted)
    for page in (1, 2, 3):
        stray(pool, page)
    with pytest.raises(KeyboardInterrupt) as caught:
        bufpool.check()
    assert told == pages_before(caught.value) == [report.page for report in reports(records)] == [1, 2, 3]
    bufpool.check()

    collected = bufpool.catch_faults()

    def collect() -> None:
        with collected:
            for page in (4, 5, 6):
                stray(pool, page)

    with pytest.raises(KeyboardInterrupt):
        collect()
    assert told[3:] == [report.page for report in collected.reports] == [4, 5, 6]
    stray(pool, 7)  # that block collects no more
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.stats()
    assert (told[6:], pages_before(caught.value)) == ([7], [7])


def test_a_pool_is_closed_when_on_report_ends_the_program() -> None:
    def ended(report: bufpool.FaultReport) -> None:
        raise SystemExit(report.page)

    with pytest.raises(SystemExit) as caught, bufpool.Pool("64 KiB", on_report=ended) as pool:
        stray(pool, 3)
    assert (pool.closed, caught.value.code, pages_before(caught.value)) == (True, 3, [3])


@pytest.mark.parametrize("name", ["directory", "link", "missing/log", "fifo"])
def test_a_log_that_cannot_be_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(bufpool.SystemCallError, match=f'cannot open the log "{tmp_path / name}"'):
        bufpool.Pool(4096, log=tmp_path / name)
    assert not (tmp_path / "file").exists()
