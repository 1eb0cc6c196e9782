"""One frame of `bufpool top` as lines that fit a terminal."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import numpy as np
from rich.console import Console
from rich.text import Text

from bufpool import sizes
from bufpool.report_text import quoted
from bufpool.tables import STATES
from bufpool.top import Frame, PoolSample, Process

STRIP_ROWS = 3  # of an occupancy strip, where there is room
_NARROW = 64  # columns; below, what stands side by side stands one below the other
_STYLES = {"allocated": "green", "evicted": "yellow", "freed": "blue", "unallocated": "dim"}
_SHADES = "\u2591\u2592\u2593\u2588"  # how much of a cell is taken, in quarters
_NOWHERE = "\u00b7"
_CALLS = (
    ("allocations", "allocations"),
    ("frees", "frees"),
    ("evictions", "evictions"),
    ("populates", "populates"),
    ("faults", "stray accesses"),
)


@attrs.frozen(kw_only=True)
class Room:
    """What the terminal has. height None: as many lines as it takes."""

    width: int
    height: int | None
    shades: bool  # colours and block characters; else letters


def room_of(console: Console, *, endless: bool) -> Room:
    """Of a console's terminal; endless: it scrolls."""
    shades = console.color_system is not None and console.encoding.lower().startswith("utf")
    return Room(width=max(20, console.width), height=None if endless else console.height, shades=shades)


def lines(frame: Frame, room: Room) -> list[Text]:
    """The frame. Each line is at most as wide as the terminal; there are no more than it has."""
    found = _lines(frame, room)
    for line in found:
        line.truncate(room.width, overflow="ellipsis")
    return found


def _lines(frame: Frame, room: Room) -> list[Text]:
    head = _sides(Text(f"bufpool top: {frame.title}", "bold"), _clock(frame), room.width)
    foot = [Text(f"note: {note}", "yellow") for note in frame.notes]
    if frame.private:
        names = ", ".join(map(str, frame.private[:4])) + ", ..." * (len(frame.private) > 4)
        foot.append(Text(f"private, so bufpool_stats() alone tells of them: {names}", "dim"))
    foot += _legend(room)
    below = [line for text in foot for line in _wrapped(text, room.width)]
    blocks = [_Block.of(pool, room) for pool in frame.pools]
    if room.height is None:
        return [head, *(line for block in blocks for line in block.whole(STRIP_ROWS, len(block.processes))), *below]
    free = max(0, room.height - 1 - len(below))
    return [head, *_fitted(blocks, free)[:free], *below][: room.height]


@attrs.frozen(kw_only=True)
class _Block:
    """The lines of one pool."""

    numbers: list[Text]
    strips: dict[int, list[Text]]  # by the rows that it may have
    head: Text  # of the processes
    processes: list[Text]
    brief: Text

    @classmethod
    def of(cls, pool: PoolSample, room: Room) -> _Block:
        head, *processes = _processes(pool, room.width)
        return cls(
            numbers=[*_wrapped(_title(pool), room.width), *_numbers(pool, room.width)],
            strips={rows: _strip(pool, room, rows) for rows in (STRIP_ROWS, 1)},
            head=head,
            processes=processes,
            brief=_brief(pool, room.width),
        )

    def whole(self, rows: int, shown: int) -> list[Text]:
        found = [*self.numbers, *self.strips[rows], self.head, *self.processes[:shown]]
        if len(self.processes) > shown:
            found.append(Text(f"{'':>8} and {len(self.processes) - shown:,} more processes", "dim"))
        return [*found, Text()]

    def height(self, rows: int, shown: int) -> int:
        count = len(self.processes)
        return len(self.numbers) + len(self.strips[rows]) + 2 + min(count, shown) + (count > shown)


def _fitted(blocks: list[_Block], free: int) -> list[Text]:
    """As many pools in full as there is room for, with as many of their processes; of the others a line each."""
    for full in range(len(blocks), 0, -1):
        others = len(blocks) - full
        for rows in (STRIP_ROWS, 1):
            for shown in range(free, 0, -1):
                if sum(block.height(rows, shown) for block in blocks[:full]) + others <= free:
                    found = [line for block in blocks[:full] for line in block.whole(rows, shown)]
                    return found + [block.brief for block in blocks[full:]]
    briefs = [block.brief for block in blocks[1:]]
    return [*blocks[0].whole(1, 1), *briefs] if blocks else []


def _title(pool: PoolSample) -> Text:
    facts = pool.facts
    text = Text(f"pool {quoted(facts.name)}", "bold cyan")
    size = f"{facts.pages:,} page{'s' * (facts.pages != 1)} of {sizes.text(facts.page_size)}"
    text.append(f"  {facts.memory}, {sizes.text(facts.capacity)}: {size}", "not bold default")
    if pool.foreign:
        text.append("; pids of another namespace", "not bold default")
    return text


def _brief(pool: PoolSample, width: int) -> Text:
    text = Text(f"pool {quoted(pool.facts.name)}", "bold cyan")
    states = ", ".join(f"{pool.census.states[state]:,} {state}" for state in STATES[1:])
    count = len(pool.processes)
    tail = f"  {states}; {count} process{'es' * (count != 1)}; {pool.counts.faults:,} stray"
    text.append(tail, "not bold default")
    text.truncate(width, overflow="ellipsis")
    return text


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def _numbers(pool: PoolSample, width: int) -> list[Text]:
    about = "" if pool.census.exact else "~"
    left = []
    for state in ("allocated", "evicted", "freed", "unallocated"):
        count = pool.census.states[state]
        words = f"{state:<12}{_number(about, count):>14} {_percent(count, pool):>7}"
        left.append(Text(words, _STYLES[state]))
    left.append(Text(f"{'scratched':<12}{_number(about, pool.census.scratched):>14}"))
    busy = Text(f"{'busy':<12}{_number(about, pool.busy):>14}")
    if pool.left:
        busy.append(f" ({about}{pool.left:,} of dead)", "red")
    left.append(busy)
    if pool.census.unknown:
        left.append(Text(f"{'damaged':<12}{_number(about, pool.census.unknown):>14}", "red"))
    right = []
    for name, words in _CALLS:
        rate = None if pool.per_second is None else pool.per_second[name]
        count = getattr(pool.counts, name)
        style = "red" if name == "faults" and count else ""
        right.append(Text(f"{words:<15}{count:>14,} {_rate(rate):>10}", style))
    if width < _NARROW + 10:
        return left + right
    return [
        _sides(a, b, width if width < 100 else 90)
        for a, b in zip(left, right + [Text()] * (len(left) - len(right)), strict=True)
    ]


def _number(about: str, value: int) -> str:
    return f"{about}{value:,}"


def _percent(pages: int, pool: PoolSample) -> str:
    return f"{100 * pages / pool.facts.pages:.1f} %"


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}/s" if value >= 10 or value == 0 else f"{value:.1f}/s"


# ---- The occupancy strip ---------------------------------------------------------------------------------------------


def _strip(pool: PoolSample, room: Room, rows: int) -> list[Text]:
    census = pool.census
    if pool.counts.high_water == 0:
        return [Text("no page was ever allocated", "dim")]
    cells = census.cells
    if len(cells) > room.width * rows:
        cells = _merged(cells, room.width * rows)
    each = -(-census.end // len(cells))
    text = f"pages 0 to {census.end - 1:,}"
    text += f", {each:,} a cell" if each > 1 else ""
    text += f"; no later one was ever used ({_percent(census.end, pool)})" * (census.end < pool.facts.pages)
    found = _wrapped(Text(text, "dim"), room.width)
    for start in range(0, len(cells), room.width):
        row = Text()
        drawn = [_cell(cell, room.shades) for cell in cells[start : start + room.width].tolist()]
        for style, run in itertools.groupby(drawn, key=lambda each: each[1]):
            row.append("".join(character for character, _ in run), style)
        found.append(row)
    return found


def _merged(cells: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    starts = [len(cells) * n // count for n in range(count)]
    return np.asarray(np.add.reduceat(cells, starts, axis=0))


def _cell(cell: list[int], shades: bool) -> tuple[str, str]:
    """The colour by the state that most of what is taken in it has, the character by how much that is."""
    *states, busy = cell
    total = sum(states)
    if total == 0:
        return " ", ""  # not looked at
    if total == states[0]:
        return (_NOWHERE if shades else "."), "dim"
    by_name = dict(zip(STATES, states, strict=True))
    name = "allocated" if by_name["allocated"] >= by_name["evicted"] else "evicted"
    count = by_name["allocated"] + by_name["evicted"]
    if count == 0:
        name, count = "freed", by_name["freed"]
    style = _STYLES[name]
    if busy > count // 2:
        name, count, style = "busy", busy, "red"
    if shades:
        return _SHADES[min(3, 4 * count // total)], style
    return (name[0].upper() if count * 2 >= total else name[0]), style


def _legend(room: Room) -> list[Text]:
    if room.shades:
        text = Text()
        for name in ("allocated", "evicted", "freed"):
            text.append("\u2588 ", _STYLES[name]).append(f"{name}  ")
        text.append("\u2588 ", "red").append("busy  ").append(f"{_NOWHERE} unallocated", "dim")
        return [text]
    return [Text("A allocated, E evicted, F freed, B busy (small: less than half), . unallocated")]


# ---- Processes -------------------------------------------------------------------------------------------------------


def _processes(pool: PoolSample, width: int) -> list[Text]:
    """A head, then a line for each."""
    wide = width >= _NARROW
    head = Text(f"{'pid':>8} {'name':<15} {'stray':>8}", "bold")
    # The dead first, then those that stray: with many they are what is looked for.
    order = sorted(pool.processes, key=lambda each: (each.alive, -each.faults, each.pid))
    return [head, *(_process(each, wide) for each in order)]


def _process(each: Process, wide: bool) -> Text:
    rate = f" {_rate(each.faults_per_second):>9} " if wide else " "
    text = Text(f"{each.pid:>8} {each.name:<15.15} {each.faults:>8,}{rate}", "red" if each.faults else "")
    if not each.alive:
        text.append("died, not yet repaired" if wide else "died", "bold red")
    elif each.opener:
        text.append("opened it" if wide else "opener", "not bold default")
    return text


# ---- Lines -----------------------------------------------------------------------------------------------------------


def _clock(frame: Frame) -> Text:
    return Text(f"{frame.time.astimezone():%H:%M:%S}")


def _sides(left: Text, right: Text, width: int) -> Text:
    """One at each end of a line."""
    text = left.copy()
    text.truncate(max(1, width - right.cell_len - 1))
    text.append(" " * max(1, width - text.cell_len - right.cell_len))
    return text.append_text(right)


def _wrapped(text: Text, width: int) -> list[Text]:
    return list(text.wrap(_PLAIN, width, overflow="fold"))


_PLAIN = Console(color_system=None, width=200)
