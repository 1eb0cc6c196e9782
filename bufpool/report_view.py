"""Shows a log of reports on a terminal: one after the other, or grouped by site."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from bufpool import report_text
from bufpool.report_log import BadLine, Entry, LoggedReport, Suppressed, iso
from bufpool.report_sites import Log, Site
from bufpool.report_text import Names, no_names


def show(console: Console, entry: Entry, names: Names = no_names) -> None:
    """One entry of the log."""
    if isinstance(entry, LoggedReport):
        for line in report_text.lines(entry, names):
            _print(console, line, _style(line))
        _print(console, "")
    elif isinstance(entry, Suppressed):
        _print(console, report_text.suppressed(entry), "yellow")
        _print(console, "")
    else:
        _print(console, _bad(entry), "yellow")


def show_groups(console: Console, log: Log, names: Names = no_names) -> None:
    """Each site with its counts, and one of its reports."""
    unknown = log.finish()
    for number, site in enumerate(log.sorted_sites(), 1):
        _show_site(console, number, site, names)
    for counted in unknown:
        _print(console, report_text.suppressed(counted), "yellow")
    for bad in log.bad[:20]:
        _print(console, _bad(bad), "yellow")
    _print(console, summary(log))


def _show_site(console: Console, number: int, site: Site, names: Names) -> None:
    report = site.first
    _print(console, f"{number}. {times(site)}: {report_text.what(report)}", "bold red")
    _print(console, f"   in {report_text.title(report, names)}", "bold")
    for event in (report.pinned, report.freed, report.allocated):
        if event is not None:
            _print(console, f"   the page was {report_text.origin(event, names)}")
    _print(console, f"   first {iso(site.first.time)}, last {iso(site.last.time)}")
    pools = ", ".join(report_text.quoted(pool) for pool in sorted(site.pools))
    processes = ", ".join(map(str, sorted(site.pids)[:8])) + (", ..." if len(site.pids) > 8 else "")
    _print(console, f"   {report_text.pages(site)} of {pools}; process {processes}; {threads(site)}")
    for line in report_text.lines(report, names):
        _print(console, f"   {line}", "dim")
    _print(console, "")


def times(site: Site) -> str:
    """How often, and how many of them were only counted."""
    text = "once" if site.total == 1 else f"{site.total} times"
    return text + (f" ({site.suppressed} of them only counted)" if site.suppressed else "")


def threads(site: Site) -> str:
    """The thread, or how many of them."""
    if len(site.threads) == 1:
        ((thread_id, name),) = site.threads
        return f"thread {thread_id} {report_text.quoted(name)}"
    return f"{len(site.threads)} threads"


def summary(log: Log) -> str:
    """One line about all of it."""
    sites = len(log.sites)
    written = sum(site.count for site in log.sites.values())
    counted = sum(site.suppressed for site in log.sites.values())
    text = f"{written} report{'s' * (written != 1)} of {sites} site{'s' * (sites != 1)}"
    text += f", {counted} more only counted" if counted else ""
    return text + (f"; {bad_lines(len(log.bad))}" if log.bad else "")


def bad_lines(count: int) -> str:
    """How many lines were no reports."""
    return f"{count} line{'s' * (count != 1)} {'are' if count != 1 else 'is'} no report"


def show_notes(console: Console, notes: Iterable[str]) -> None:
    """What the symbolizer could not do."""
    for note in notes:
        _print(console, f"note: {report_text.clean(note)}", "yellow")


def _bad(entry: BadLine) -> str:
    return f"line {entry.number} is no report: {report_text.clean(entry.reason)}"


def _style(line: str) -> str:
    if line.startswith("=="):
        return "bold red" if "==ERROR" in line else "dim"
    return "" if line.startswith("    ") else "bold"


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)
