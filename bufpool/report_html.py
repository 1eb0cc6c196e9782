"""A log of reports as one self-contained page: no script, nothing from elsewhere.

Everything that comes from the log is put in as text of an element or of an attribute (xml.etree escapes it), never as
markup; the page's security policy allows its own style sheet and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from datetime import datetime, timezone
from importlib import resources
from string import Template
from xml.etree.ElementTree import Element, tostring

import attrs

from bufpool import report_text, report_view
from bufpool.report_log import BadLine, Entry, LoggedReport, Suppressed, iso
from bufpool.report_map import PoolMap, add_map
from bufpool.report_markup import add, style_of
from bufpool.report_sites import Log, Site
from bufpool.report_text import Names, clean, no_names
from bufpool.symbolize import Symbolizer

_MOST_SITES = 100
_MOST_POOLS = 20
_BARS = 60
_LATEST = 253402300799.0  # the last second that a datetime can hold


@attrs.define
class Page:
    """What the page needs of a log, entry by entry."""

    log: Log = attrs.Factory(Log)
    maps: dict[tuple[int, str, int], PoolMap] = attrs.Factory(dict)
    times: list[tuple[float, str]] = attrs.Factory(list)

    def add(self, entry: Entry) -> None:
        """Takes an entry up."""
        self.log.add(entry)
        if isinstance(entry, LoggedReport):
            key = (entry.pid, entry.pool, entry.pool_address)
            self.maps.setdefault(key, PoolMap(entry)).add(entry)
            self.times.append((entry.time.timestamp(), entry.state))

    def render(self, source: str, symbolizer: Symbolizer | None = None) -> str:
        """The page."""
        unknown = self.log.finish()
        sites = self.log.sorted_sites()
        names: Names = no_names
        if symbolizer is not None:
            symbolizer.look_up(report for site in sites[:_MOST_SITES] for report in (site.first, site.last))
            names = symbolizer.names
        body = Element("main")
        add(body, "h1", "Stray accesses")
        written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        add(body, "p", f"{clean(source)}, read by bufpool on {written}", class_="soft")
        self._add_facts(body)
        self._add_sites(body, sites, names)
        self._add_timeline(body)
        self._add_pools(body)
        self._add_remarks(body, symbolizer, unknown)
        template = (resources.files("bufpool") / "report_page.html").read_text(encoding="utf-8")
        style = re.search(r"<style>(.*?)</style>", template, re.DOTALL)
        assert style
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        markup = tostring(body, encoding="unicode", method="html")
        title = tostring(_text(f"Stray accesses: {clean(source)}"), encoding="unicode", method="html")
        return Template(template).substitute(
            hash=f"sha256-{digest}", title=title.removeprefix("<i>").removesuffix("</i>"), body=markup
        )

    def _add_facts(self, body: Element) -> None:
        sites = self.log.sites.values()
        facts = add(body, "dl", class_="facts")
        written, counted = sum(site.count for site in sites), sum(site.suppressed for site in sites)
        _fact(facts, "reports", f"{written:,}")
        if counted:
            _fact(facts, "only counted", f"{counted:,}")
        _fact(facts, "sites", f"{len(sites):,}")
        _fact(facts, "pools", f"{len({(pid, address) for pid, _, address in self.maps}):,}")
        _fact(facts, "processes", f"{len({pid for site in sites for pid in site.pids}):,}")
        _fact(facts, "threads", f"{len({thread for site in sites for thread in site.threads}):,}")
        if self.log.bad:
            _fact(facts, "lines that are no report", f"{len(self.log.bad):,}")
        states = Counter(state for _, state in self.times)
        if states:
            _fact(facts, "states", ", ".join(f"{n:,} {clean(s)}" for s, n in states.most_common(6)), wide=True)
            first, last = min(self.times)[0], max(self.times)[0]
            _fact(facts, "from, to", f"{_moment(first)} to {_moment(last, first)}", wide=True)

    def _add_sites(self, body: Element, sites: list[Site], names: Names) -> None:
        add(body, "h2", "Faults by site")
        if not sites:
            add(body, "p", "There are no reports in this log, or none that were asked for.")
        for site in sites[:_MOST_SITES]:
            _add_site(body, site, names)
        if len(sites) > _MOST_SITES:
            add(body, "p", f"and {len(sites) - _MOST_SITES:,} sites more, each with fewer.", class_="soft")

    def _add_timeline(self, body: Element) -> None:
        if not self.times:
            return
        first, last = min(self.times)[0], max(self.times)[0]
        width = (last - first) / _BARS or 1.0
        bars: list[Counter[str]] = [Counter() for _ in range(_BARS)]
        for moment, state in self.times:
            bars[min(_BARS - 1, int((moment - first) / width))][state] += 1
        most = max(bar.total() for bar in bars)
        add(body, "h2", "Timeline")
        card = add(body, "div", class_="card pool")
        add(card, "p", f"Reports in each {_span(width)}; the highest bar is {most:,}.", class_="soft")
        label = f"{len(self.times)} reports from {_moment(first)} to {_moment(last)}"
        drawing = add(card, "svg", class_="bars", view_box=f"0 0 {_BARS} {most}", ratio="none", role="img", label=label)
        for number, bar in enumerate(bars):
            height = 0
            for state, count in sorted(bar.items()):
                height += count
                place = {"x": f"{number + 0.08:g}", "y": str(most - height), "width": "0.84", "height": str(count)}
                mark = add(drawing, "rect", class_=style_of(state), **place)
                add(mark, "title", f"{_moment(first + number * width)}: {count:,} {clean(state)}")
        _add_ends(card, _moment(first), _moment(last, first))
        _add_legend(card, {state for _, state in self.times})

    def _add_pools(self, body: Element) -> None:
        if self.maps:
            add(body, "h2", "Pools")
        maps = sorted(self.maps.values(), key=lambda each: -each.total)
        for each in maps[:_MOST_POOLS]:
            card = add(body, "section", class_="card pool")
            add_map(card, each)
            _add_legend(card, {state for state, _ in each.pages.values()}, around=bool(each.around))
        if len(maps) > _MOST_POOLS:
            add(body, "p", f"and {len(maps) - _MOST_POOLS:,} pools more, each with fewer.", class_="soft")

    def _add_remarks(self, body: Element, symbolizer: Symbolizer | None, unknown: list[Suppressed]) -> None:
        notes = [report_text.suppressed(counted) for counted in unknown]
        notes += [] if symbolizer is None else [clean(note) for note in symbolizer.notes]
        if not self.log.bad and not notes:
            return
        add(body, "h2", "Remarks")
        remarks = add(body, "ul", class_="soft")
        for note in notes:
            add(remarks, "li", note)
        for bad in self.log.bad[:20]:
            add(remarks, "li", _bad(bad))
        if len(self.log.bad) > 20:
            add(remarks, "li", f"and {len(self.log.bad) - 20:,} lines more that are no report")


def _text(text: str) -> Element:
    element = Element("i")
    element.text = text
    return element


def _bad(bad: BadLine) -> str:
    return f"line {bad.number} is no report: {clean(bad.reason)}"


def _fact(facts: Element, name: str, value: str, *, wide: bool = False) -> None:
    holder = add(facts, "div", **({"class_": "wide"} if wide else {}))
    add(holder, "dt", name)
    add(holder, "dd", value)


def _add_site(body: Element, site: Site, names: Names) -> None:
    report = site.first
    details = add(body, "details", class_="site card")
    line = add(details, "summary")
    count = add(line, "div", f"{site.total:,}", class_="count")
    add(count, "small", f"{site.count:,} in full" if site.suppressed else "once" if site.total == 1 else "times")
    middle = add(line, "div")
    headline = add(middle, "p")
    add(headline, "span", f"{report_text.what(report)}", class_=f"what {style_of(report.state)}")
    add(middle, "p", f"in {report_text.title(report, names)}", class_="mono")
    for event in (report.pinned, report.freed, report.allocated):
        if event is not None:
            add(middle, "p", f"the page was {report_text.origin(event, names)}", class_="soft")
    pools = ", ".join(report_text.quoted(pool) for pool in sorted(site.pools))
    add(middle, "p", f"{report_text.pages(site)} of {pools}; {report_view.threads(site)}", class_="soft")
    when = add(line, "div", class_="when soft")
    first, last = site.first.time.timestamp(), site.last.time.timestamp()
    add(when, "p", f"first {_moment(first)}")
    if last > first:
        add(when, "p", f"last {_moment(last, first)}")
    add(when, "p", "show the report", class_="more")
    inside = add(details, "div", class_="inside")
    _add_report(inside, report, names)
    if site.last is not site.first:
        other = add(inside, "details")
        add(other, "summary", "the last one", class_="soft")
        _add_report(other, site.last, names)


def _add_report(parent: Element, report: LoggedReport, names: Names) -> None:
    add(parent, "pre", "\n".join(report_text.lines(report, names)), tabindex="0", label=f"report {report.sequence}")


def _add_ends(card: Element, left: str, right: str) -> None:
    ends = add(card, "div", class_="ends")
    add(ends, "span", left)
    add(ends, "span", right)


def _add_legend(card: Element, states: set[str], *, around: bool = False) -> None:
    legend = add(card, "ul", class_="legend", label="legend")
    for state in sorted(states):
        item = add(legend, "li", class_=style_of(state))
        add(item, "i")
        add(item, "span", clean(state))
    if around:
        item = add(legend, "li", class_="s-allocated")
        add(item, "i", class_="ring")
        add(item, "span", "allocated, next to a hit")


def _moment(timestamp: float, other: float | None = None) -> str:
    """A time of day with its date; without, if it is the same day as the other."""
    timestamp = min(timestamp, _LATEST)
    text = iso(datetime.fromtimestamp(timestamp, timezone.utc))[:-4]  # milliseconds
    date, _, time = text.partition("T")
    if other is not None and iso(datetime.fromtimestamp(min(other, _LATEST), timezone.utc))[:10] == date:
        return f"{time} UTC"
    return f"{date} {time} UTC"


def _span(seconds: float) -> str:
    for unit, length in (("day", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
