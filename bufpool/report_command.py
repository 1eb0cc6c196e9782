"""What `bufpool report` does: reads a log, chooses, and shows it in one of the ways."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

from bufpool import report_log, report_view, symbolize
from bufpool.errors import ArgumentError, BufpoolError, SystemCallError
from bufpool.report_html import Page
from bufpool.report_log import BadLine, Entry, LoggedReport
from bufpool.report_sites import Filter, Log
from bufpool.report_text import Names, no_names
from bufpool.symbolize import Symbolizer

_BATCH = 256  # reports that are symbolized together
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@attrs.frozen(kw_only=True)
class Request:
    """What is asked for."""

    path: str  # "-": standard input
    wanted: Filter
    symbolize: bool = False
    follow: bool = False
    group: bool = False
    as_json: bool = False
    html: str | None = None


def parse_since(text: str) -> datetime:
    """A time, or an age such as "10m". Raises ArgumentError."""
    match = _AGE.fullmatch(text.strip())
    try:
        if match:
            return datetime.now(timezone.utc) - timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return found.astimezone(timezone.utc)  # without a zone it is the local time
    except (ValueError, OverflowError):
        raise ArgumentError(
            f'{text!r} is no time: write an age such as "90s", "10m", "2h", "1d", or a time such as "2026-01-31T12:34"'
        ) from None


def request(
    path: str,
    *,
    pools: tuple[str, ...],
    pids: tuple[int, ...],
    states: tuple[str, ...],
    since: str | None,
    **ways: Any,
) -> Request:
    """From the command's options. Raises ArgumentError."""
    given = [f"--{name.removeprefix('as_')}" for name in ("group", "as_json", "html") if ways[name]]
    if len(given) > 1 or (given and ways["follow"] and given != ["--json"]):
        given += ["--follow"] * ways["follow"]
        raise ArgumentError(f"{' and '.join(given)} do not go together")
    wanted = Filter(
        pools=frozenset(pools),
        pids=frozenset(pids),
        states=frozenset(states),
        since=None if since is None else parse_since(since),
    )
    return Request(path=path, wanted=wanted, **ways)


def run(request: Request, console: Console, notices: Console) -> None:
    """Does it; what is no report is said on notices. Raises BufpoolError when the log cannot be read."""
    symbolizer = symbolize.find() if request.symbolize else None
    with _opened(request) as entries:
        chosen = request.wanted.chosen(entries)
        if request.html is not None:
            _write_page(request, chosen, symbolizer, notices)
        elif request.group:
            _group(console, chosen, symbolizer)
        else:
            _list(request, console, notices, chosen, symbolizer)


@contextlib.contextmanager
def _opened(request: Request) -> Iterator[Iterator[Entry]]:
    if request.path == "-":
        if sys.stdin is None:
            raise SystemCallError(errno.EBADF, "cannot read standard input: it is closed")
        yield _checked(report_log.read(sys.stdin.buffer), "standard input")
        return
    try:
        stream = open(request.path, "rb")  # noqa: PTH123, SIM115 (the path may be any bytes; closed below)
    except OSError as error:
        raise _failure("read", repr(request.path), error) from None
    with stream:
        if not request.follow:
            yield _checked(report_log.read(stream), repr(request.path))
            return
    yield _checked(report_log.follow(request.path), repr(request.path))


def _checked(entries: Iterator[Entry], name: str) -> Iterator[Entry]:
    """So that an error of reading is told from one of writing."""
    try:
        yield from entries
    except OSError as error:
        raise _failure("read", name, error) from None


def _failure(verb: str, name: str, error: OSError) -> BufpoolError:
    return SystemCallError(error.errno, f"cannot {verb} {name}: {error.strerror}")


def _names(symbolizer: Symbolizer | None) -> Names:
    return no_names if symbolizer is None else symbolizer.names


def _list(
    request: Request, console: Console, notices: Console, entries: Iterator[Entry], symbolizer: Symbolizer | None
) -> None:
    names, bad, seen = _names(symbolizer), 0, 0
    live = request.follow or request.path == "-"
    size = 1 if live or symbolizer is None else _BATCH
    while batch := list(itertools.islice(entries, size)):
        if symbolizer is not None:
            symbolizer.look_up(entry for entry in batch if isinstance(entry, LoggedReport))
        for entry in batch:
            seen += 1
            bad += isinstance(entry, BadLine)
            if not request.as_json:
                report_view.show(console, entry, names)
            elif not isinstance(entry, BadLine):
                print(json.dumps(_members(entry, symbolizer), ensure_ascii=True), flush=live)
    if symbolizer is not None:
        report_view.show_notes(notices, symbolizer.notes)
    if bad:
        report_view.show_notes(notices, [report_view.bad_lines(bad)])
    if seen == bad:
        report_view.show_notes(notices, [f"no reports in {request.path!r}, or none that were asked for"])


def _members(entry: Any, symbolizer: Symbolizer | None) -> dict[str, Any]:
    members: dict[str, Any] = entry.as_dict()
    if symbolizer is not None and isinstance(entry, LoggedReport):
        for holder in (members, members["allocated"], members["freed"], members["pinned"]):
            if holder is not None:
                exact = holder is members
                stack = enumerate(holder["native_stack"])
                holder["native_names"] = [symbolizer.names(place, exact and n == 0) for n, place in stack]
    return members


def _group(console: Console, entries: Iterator[Entry], symbolizer: Symbolizer | None) -> None:
    log = Log()
    for entry in entries:
        log.add(entry)
    if symbolizer is not None:
        symbolizer.look_up(site.first for site in log.sites.values())
    report_view.show_groups(console, log, _names(symbolizer))
    if symbolizer is not None:
        report_view.show_notes(console, symbolizer.notes)


def _private(path: str, flags: int) -> int:
    """As the log is: what it says is not for everybody."""
    return os.open(path, flags, 0o600)


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # there is none yet, or it cannot be written either
        return False


def _write_page(request: Request, entries: Iterator[Entry], symbolizer: Symbolizer | None, notices: Console) -> None:
    assert request.html is not None
    if request.path != "-" and request.html != "-" and _is_same(request.html, request.path):
        raise ArgumentError(f"--html {request.html!r} is the log itself: write the page to another file")
    page = Page()
    for entry in entries:
        page.add(entry)
    text = page.render("standard input" if request.path == "-" else request.path, symbolizer)
    if request.html == "-":
        sys.stdout.buffer.write(text.encode())
    else:
        try:
            with open(request.html, "w", encoding="utf-8", opener=_private) as stream:
                stream.write(text)
        except OSError as error:
            raise _failure("write", repr(request.html), error) from None
    report_view.show_notes(notices, [] if symbolizer is None else symbolizer.notes)
    name = "the page" if request.html == "-" else request.html
    report_view.show_notes(notices, [f"{name}: {report_view.summary(page.log)}"])
