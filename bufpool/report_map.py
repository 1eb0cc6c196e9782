"""The map of a pool on the page: its whole range as a strip, and the pages around the hits one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from xml.etree.ElementTree import Element

import attrs

from bufpool import sizes
from bufpool.report_log import LoggedReport
from bufpool.report_markup import add, style_of
from bufpool.report_text import clean, quoted

_BUCKETS = 240
_MARGIN = 4  # pages shown on either side of a hit
_GAP = 16  # pages between two hits that still share a window
_CELLS = 64  # of a window; a longer one has several pages in a cell
_WINDOWS = 8
_ROWS = 50  # of the table of pages


@attrs.define
class PoolMap:
    """Where a pool was hit."""

    pool: LoggedReport  # any report of it
    pages: dict[int, tuple[str, int]] = attrs.Factory(dict)  # the state at the last hit, and how many
    around: set[int] = attrs.Factory(set)  # pages that were allocated when a neighbour was hit
    total: int = 0

    def add(self, report: LoggedReport) -> None:
        """Takes a hit up."""
        _, count = self.pages.get(report.page, ("", 0))
        self.pages[report.page] = report.state, count + 1
        self.around.update(page for page in (report.below, report.above) if page is not None)
        self.total += 1

    @property
    def page_count(self) -> int:
        """Of the pool; at least so many as were hit."""
        return max(self.pool.pool_capacity // self.pool.page_size, max(self.pages) + 1)

    def windows(self) -> list[tuple[int, int, int]]:
        """The neighbourhoods of the hits: the first page, the one behind the last, and how many hits."""
        found: list[tuple[int, int, int]] = []
        count = self.page_count
        for page, (_, hits) in sorted(self.pages.items()):
            start, end = max(0, page - _MARGIN), min(count, page + _MARGIN + 1)
            if found and start <= found[-1][1] + _GAP - 2 * _MARGIN:
                found[-1] = found[-1][0], end, found[-1][2] + hits
            else:
                found.append((start, end, hits))
        return found


def add_map(card: Element, each: PoolMap) -> None:
    """The strip, the windows and a table with the same in words."""
    pool = each.pool
    add(card, "h3", f"{quoted(pool.pool)} of process {pool.pid}")
    end = pool.pool_address + pool.pool_capacity + (pool.pool_capacity // pool.page_size + 1) * pool.red_zone
    facts = (
        f"[{pool.pool_address:#x}, {end:#x}), {sizes.text(pool.pool_capacity)}: "
        f"{each.page_count:,} pages of {sizes.text(pool.page_size)}, "
        f"memory {clean(pool.memory)}, trap {clean(pool.trap)}"
    )
    add(card, "p", facts, class_="soft")
    label = f"{_hits(each.total)} to {len(each.pages)} of {each.page_count} pages"
    strip = add(card, "svg", class_="strip", view_box=f"0 0 {_BUCKETS} 1", ratio="none", role="img", label=label)
    for place, width, state, title in _buckets(each):
        mark = add(strip, "rect", class_=style_of(state), x=f"{place:g}", y="0", width=f"{width:g}", height="1")
        add(mark, "title", title)
    ends = add(card, "div", class_="ends")
    add(ends, "span", "page 0")
    add(ends, "span", f"page {each.page_count - 1:,}")
    _add_windows(card, each)
    _add_table(card, each)


def _hits(count: int) -> str:
    return f"{count:,} hit{'s' * (count != 1)}"


def _buckets(each: PoolMap) -> Iterator[tuple[float, float, str, str]]:
    """Marks of the strip: place, width, state, title. Each is wide enough to be seen."""
    count = each.page_count
    found: dict[int, list[int]] = {}
    for page in each.pages:
        found.setdefault(page * _BUCKETS // count, []).append(page)
    for bucket, pages in sorted(found.items()):
        states = Counter[str]()
        for page in pages:
            state, hits = each.pages[page]
            states[state] += hits
        which = f"page {pages[0]:,}" if len(pages) == 1 else f"{len(pages)} pages, {min(pages):,} to {max(pages):,}"
        words = ", ".join(f"{hits:,} {clean(state)}" for state, hits in states.most_common())
        title = f"{which}: {_hits(states.total())} ({words})"
        place, width = float(bucket), 1.0
        if count < _BUCKETS:  # a page is wider than a bucket
            place, width = pages[0] * _BUCKETS / count, _BUCKETS / count
        yield place, width, states.most_common(1)[0][0], title


def _add_windows(card: Element, each: PoolMap) -> None:
    windows = each.windows()
    shown = sorted(sorted(windows, key=lambda window: -window[2])[:_WINDOWS])
    for start, end, _ in shown:
        step = -(-(end - start) // _CELLS)
        text = f"pages {start:,} to {end - 1:,}" + (f", {step:,} in a square" if step > 1 else "")
        add(card, "p", text, class_="window")
        cells = add(card, "ol", class_="cells", label=text)
        for first in range(start, end, step):
            _add_cell(cells, each, first, min(first + step, end))
    if len(windows) > len(shown):
        add(card, "p", f"and {len(windows) - len(shown):,} places more with fewer hits", class_="soft")


def _add_cell(cells: Element, each: PoolMap, first: int, end: int) -> None:
    name = f"page {first:,}" if end - first == 1 else f"pages {first:,} to {end - 1:,}"
    states = Counter[str]()
    for page in range(first, end):
        state, count = each.pages.get(page, ("", 0))
        states[state] += count
    total = states.total()
    if total:
        state = states.most_common(1)[0][0]
        style = f"hit {style_of(state)}"
        cell = add(cells, "li", class_=style, title=f"{name}, {clean(state)}: {_hits(total)}")
        add(cell, "b", _brief(total))
    elif any(page in each.around for page in range(first, end)):
        add(cells, "li", class_="around", title=f"{name}: allocated")
    else:
        add(cells, "li", title=f"{name}: not hit")


def _brief(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if count >= size:
            return f"{count / size:.2g}{unit}" if count < 10 * size else f"{count // size}{unit}"
    return str(count)


def _add_table(card: Element, each: PoolMap) -> None:
    details = add(card, "details")
    add(details, "summary", "as a table", class_="soft")
    table = add(details, "table")
    row = add(add(table, "thead"), "tr")
    for name, style in (("page", "number"), ("address", ""), ("state", ""), ("hits", "number")):
        add(row, "th", name, class_=style, scope="col")
    body = add(table, "tbody")
    most = sorted(each.pages.items(), key=lambda item: (-item[1][1], item[0]))
    for page, (state, count) in most[:_ROWS]:
        row = add(body, "tr")
        add(row, "td", f"{page:,}", class_="number")
        add(
            row,
            "td",
            f"{each.pool.pool_address + each.pool.red_zone + page * (each.pool.page_size + each.pool.red_zone):#x}",
            class_="mono",
        )
        add(row, "td", clean(state))
        add(row, "td", f"{count:,}", class_="number")
    if len(most) > _ROWS:
        add(details, "p", f"and {len(most) - _ROWS:,} pages more with fewer hits", class_="soft")
