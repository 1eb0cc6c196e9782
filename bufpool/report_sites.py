"""A log's reports, chosen, and grouped by site: the place that strayed, and the history of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import attrs

from bufpool.report_log import BadLine, Entry, LoggedEvent, LoggedReport, Suppressed


@attrs.frozen(kw_only=True)
class Filter:
    """Which entries are wanted; what is empty lets everything pass. Bad lines always pass."""

    pools: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    states: frozenset[str] = frozenset()
    since: datetime | None = None

    def passes(self, entry: Entry) -> bool:
        """Whether it is wanted."""
        if isinstance(entry, BadLine):
            return True
        return (
            (not self.pools or entry.pool in self.pools)
            and (not self.pids or entry.pid in self.pids)
            and (not self.states or isinstance(entry, Suppressed) or entry.state in self.states)
            and (self.since is None or entry.time >= self.since)
        )

    def chosen(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those that are wanted. A count of reports has no state: it goes with the report that it counts on from."""
        in_state = set()
        for entry in entries:
            if self.states and isinstance(entry, LoggedReport) and entry.state in self.states:
                in_state.add((entry.pid, entry.pool, entry.sequence))
            other = (
                self.states
                and isinstance(entry, Suppressed)
                and (entry.pid, entry.pool, entry.first_sequence) not in in_state
            )
            if not other and self.passes(entry):
                yield entry


Key = tuple[object, ...]


@attrs.define
class Site:
    """The reports of one place whose pages have had the same history: who freed or pinned them, who allocated them."""

    first: LoggedReport
    last: LoggedReport
    count: int = 0
    suppressed: int = 0  # reports that were only counted
    pools: set[str] = attrs.Factory(set)
    pids: set[int] = attrs.Factory(set)
    pages: set[int] = attrs.Factory(set)
    threads: set[tuple[int, str]] = attrs.Factory(set)

    @property
    def total(self) -> int:
        """Stray accesses, written or counted."""
        return self.count + self.suppressed


@attrs.define
class Log:
    """A log as a whole: not each report, but the sites."""

    sites: dict[Key, Site] = attrs.Factory(dict)
    bad: list[BadLine] = attrs.Factory(list)
    _sequences: dict[tuple[int, str, int], Key] = attrs.Factory(dict)
    _counts: dict[tuple[int, str, int], Suppressed] = attrs.Factory(dict)

    def add(self, entry: Entry) -> None:
        """Takes an entry up."""
        if isinstance(entry, BadLine):
            self.bad.append(entry)
        elif isinstance(entry, Suppressed):
            key = (entry.pid, entry.pool, entry.first_sequence)
            known = self._counts.get(key)
            if known is None or entry.count >= known.count:
                self._counts[key] = entry
        else:
            self._add_report(entry)

    def _add_report(self, report: LoggedReport) -> None:
        events = (report.pinned, report.freed, report.allocated)
        key = (report.place, report.access, report.state, *map(_history, events))
        site = self.sites.setdefault(key, Site(report, report))
        site.count += 1
        site.first = min(site.first, report, key=lambda each: each.time)
        site.last = max(site.last, report, key=lambda each: each.time)
        site.pools.add(report.pool)
        site.pids.add(report.pid)
        site.pages.add(report.page)
        site.threads.add((report.thread_id, report.thread_name))
        self._sequences.setdefault((report.pid, report.pool, report.sequence), key)

    def finish(self) -> list[Suppressed]:
        """Gives each site the reports that were only counted; returns those whose first report is not in the log."""
        unknown = []
        for site in self.sites.values():
            site.suppressed = 0
        for key, counted in self._counts.items():
            if key in self._sequences:
                self.sites[self._sequences[key]].suppressed += counted.count
            else:
                unknown.append(counted)
        return unknown

    def sorted_sites(self) -> list[Site]:
        """The most frequent first; of the same, the earliest."""
        return sorted(self.sites.values(), key=lambda site: (-site.total, site.first.time))


def _history(event: LoggedEvent | None) -> Key:
    """Where an event was made: the Python stack says it best."""
    return () if event is None else (event.event, event.caller or event.native_stack)


def collect(entries: Iterable[Entry]) -> Log:
    """A log from its entries."""
    log = Log()
    for entry in entries:
        log.add(entry)
    return log
