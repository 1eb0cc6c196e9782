"""Reading a log: whatever a line holds, reading goes on."""

from __future__ import annotations

import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_samples import event, line, report, suppressed

import bufpool
from bufpool import report_log
from bufpool.report_log import BadLine, Entry, LoggedReport, Suppressed


def read(*lines: bytes) -> list[Entry]:
    return list(report_log.read(io.BytesIO(b"".join(lines))))


def reasons(entries: list[Entry]) -> list[str]:
    return [entry.reason for entry in entries if isinstance(entry, BadLine)]


def test_what_a_pool_writes_is_read(make_pool: Any, tmp_path: Path) -> None:
    pool = make_pool(log=tmp_path / "log", provenance="stacks", name="x", report_limit=2)
    page = pool.allocate()
    pool.allocate()
    page.free()
    with bufpool.catch_faults() as caught:
        for _ in range(4):
            page[100] = 1
    with (tmp_path / "log").open("rb") as stream:
        entries = list(report_log.read(stream))
    first, second, *counted = entries
    assert isinstance(first, LoggedReport)
    assert isinstance(second, LoggedReport)
    fault = caught.reports[0]
    names = "sequence address access pool pool_address page offset state pc pid time thread_id thread_name native_stack"
    for name in f"{names} process_name below above lost page_size in_syscall".split():
        assert getattr(first, name) == getattr(fault, name), name
    assert first.freed is not None
    assert fault.freed is not None
    assert first.freed.caller == fault.freed.python_stack != ()
    assert first.freed.time == fault.freed.time
    assert [(type(entry), getattr(entry, "count", 0)) for entry in counted] == [(Suppressed, 1), (Suppressed, 2)]
    # Once more through our own JSON.
    again = read(*(json.dumps(entry.as_dict()).encode() + b"\n" for entry in (first, *counted)))  # type: ignore[union-attr]
    assert again == [first, *counted]


def test_the_oldest_form_is_read() -> None:
    old = report()
    for key in ("below", "above", "allocated", "freed", "lost", "raced", "forked"):
        del old[key]
    (entry,) = read(line(old))
    assert isinstance(entry, LoggedReport)
    assert (entry.below, entry.above, entry.allocated, entry.freed, entry.in_syscall) == (None,) * 5


WRONG: list[tuple[Any, str]] = [
    (b"", ""),
    (b"   ", ""),
    (b"garbage", "no JSON"),
    (b"\x00\xff\xfe\x80", "no JSON"),
    (b"7", "no report"),
    (b"[1]", "no report"),
    (b"null", "no report"),
    (b'"sequence"', "no report"),
    (b'{"level":"info"}', '"sequence" is missing'),
    (b'{"sequence":1}', "is missing"),
    (b"[" * 100_000, "no JSON"),
    (b'{"sequence":' + b"9" * 5000 + b"}", "no JSON|is missing|out of range"),
    ({"sequence": "1"}, '"sequence" is not a number'),
    ({"sequence": True}, '"sequence" is not a number'),
    ({"sequence": 1.5}, '"sequence" is not a number'),
    ({"sequence": -1}, '"sequence" is out of range'),
    ({"page": 1 << 64}, '"page" is out of range'),
    ({"page_size": 0}, '"page_size" is out of range'),
    ({"pool": None}, '"pool" is not a text'),
    ({"pool": 7}, '"pool" is not a text'),
    ({"address": "zz"}, '"address" is not an address'),
    ({"address": "-0x5"}, '"address" is out of range'),
    ({"pc": 7}, '"pc" is not a text'),
    ({"time": "yesterday"}, '"time" is not a time'),
    ({"time": "0001-01-01T00:00:00+23:59"}, '"time" is not a time'),
    ({"time": 7}, '"time" is not a text'),
    ({"native_stack": "x"}, '"native_stack" is not a list'),
    ({"native_stack": [1]}, "not a list of texts"),
    ({"freed": "x"}, '"freed" is not an object'),
    ({"freed": {}}, '"event" is missing'),
    ({"freed": event(caller=[[]])}, "not a list of texts"),
    ({"raced": "yes"}, '"raced" is not true or false'),
    (suppressed(suppressed="many"), '"suppressed" is not a number'),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_line_is_said_and_passed(wrong: Any, reason: str) -> None:
    text = wrong if isinstance(wrong, bytes) else json.dumps({**report(), **wrong}).encode()
    entries = read(line(report(sequence=1)), text + b"\n", line(report(sequence=2)))
    assert [entry.sequence for entry in entries if isinstance(entry, LoggedReport)] == [1, 2]
    if not reason:
        assert len(entries) == 2
    else:
        assert len(entries) == 3
        assert re.search(reason, reasons(entries)[0])
        assert isinstance(entries[1], BadLine)
        assert entries[1].number == 2


def test_a_report_that_was_glued_to_a_torn_one_is_found() -> None:
    whole = line(report(sequence=2))
    entries = read(line(report())[:200] + whole, line(report(sequence=3))[:90] + line(suppressed()))
    assert [type(entry) for entry in entries] == [BadLine, LoggedReport, BadLine, Suppressed]


def test_a_torn_last_line_is_said() -> None:
    entries = read(line(report()), line(report())[:-30])
    assert [type(entry) for entry in entries] == [LoggedReport, BadLine]


def test_a_last_line_without_a_line_break_counts() -> None:
    assert [type(entry) for entry in read(line(report()).rstrip())] == [LoggedReport]


def test_a_huge_line_is_not_kept() -> None:
    entries = read(line(report()), b"x" * (3 * report_log.LONGEST) + b"\n", line(report(sequence=2)))
    assert [type(entry) for entry in entries] == [LoggedReport, BadLine, LoggedReport]
    assert "longer than" in reasons(entries)[0]


def test_a_log_of_zeros_does_no_harm() -> None:
    """As a disk may leave them after a crash, or copytruncate at the front."""
    entries = read(b"\0" * 5000 + line(report(sequence=4)), b"\0" * (2 * report_log.LONGEST))
    assert [type(entry) for entry in entries] == [BadLine, LoggedReport, BadLine]


def test_no_change_of_bytes_raises() -> None:
    """Whatever is broken in a log: what comes is an entry."""
    whole = line(report()) + line(suppressed()) + line(report(sequence=2))
    generator = random.Random(1)
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(generator.randrange(1, 6)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        for entry in read(bytes(broken)):
            assert isinstance(entry, (LoggedReport, Suppressed, BadLine))
            if not isinstance(entry, BadLine):
                json.dumps(entry.as_dict())


# ---- Following -------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def append(log: Path, data: bytes) -> None:
    with log.open("ab") as stream:
        stream.write(data)


Step = Callable[[], object]


def followed(log: Path, steps: list[Step]) -> list[Entry]:
    """What follow() gives while each of the steps is taken where it would wait."""
    rest: Iterator[Step] = iter(steps)
    done = False

    def wait() -> None:
        nonlocal done
        step = next(rest, None)
        if step is None:
            done = True
        else:
            step()

    return list(report_log.follow(log, wait, lambda: done))


def numbers(entries: list[Entry]) -> list[int | None]:
    return [entry.sequence if isinstance(entry, LoggedReport) else None for entry in entries]


def test_what_is_appended_is_followed(log: Path) -> None:
    append(log, line(report(sequence=1)))
    second = line(report(sequence=2))
    steps: list[Step] = [
        lambda: append(log, second[:50]),
        lambda: append(log, second[50:] + line(report(sequence=3))),
    ]
    assert numbers(followed(log, steps)) == [1, 2, 3]


def test_a_file_that_is_not_there_yet_is_awaited(log: Path) -> None:
    assert numbers(followed(log, [lambda: None, lambda: append(log, line(report(sequence=7)))])) == [7]


def test_a_rotated_log_is_followed(log: Path) -> None:
    append(log, line(report(sequence=1)))
    old = log.with_suffix(".1")

    def late() -> None:
        append(old, line(report(sequence=2)))  # by a process that has the old file open
        append(log, line(report(sequence=3)))

    assert numbers(followed(log, [lambda: log.rename(old), late])) == [1, 2, 3]


def test_a_log_that_is_cut_is_followed(log: Path) -> None:
    append(log, line(report(sequence=1)) + b'{"sequence":')
    entries = followed(log, [lambda: os.truncate(log, 0), lambda: append(log, line(report(sequence=2)))])
    assert numbers(entries) == [1, None, 2]
