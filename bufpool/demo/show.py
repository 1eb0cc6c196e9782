"""How the demo's results look: one table of times and counts, and the story of the planted bug."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bufpool.demo.corpus import Corpus
from bufpool.demo.planted import MARK
from bufpool.demo.queries import QUERIES
from bufpool.demo.rounds import Comparison, seconds

_STACK_LINES = 4  # of the report's stack that are shown


def corpus_text(corpus: Corpus) -> str:
    """What was loaded."""
    source = f"{corpus.files:,} files, {corpus.lines:,} lines, {corpus.source_bytes / 1e6:.1f} MB of Python"
    return f"{source} in a database of {corpus.pages:,} pages of {corpus.page_size} bytes"


def comparison_table(comparisons: list[Comparison], rounds: int) -> Table:
    """Queries by configurations; below, what the caches did."""
    table = Table("query", box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.title = f"Milliseconds, medians of {rounds} rounds, each run in a fresh process"
    table.add_column("rows", justify="right")
    for comparison in comparisons:
        table.add_column(f"{comparison.configuration.name}:\nstock", justify="right")
        table.add_column("\npool", justify="right")
    for query in QUERIES:
        rows = comparisons[0].stock[0].answers[query].rows
        table.add_row(query, f"{rows:,}", *_milliseconds(comparisons, query))
    table.add_section()
    table.add_row("[bold]all queries", "", *_milliseconds(comparisons))
    table.add_row("pages used, at most", "", *_counts(comparisons, "pages"))
    table.add_row("pages evicted", "", *_counts(comparisons, "evictions"))
    table.caption = _caption(comparisons)
    return table


def _caption(comparisons: list[Comparison]) -> str:
    traps = {run.trap for comparison in comparisons for run in comparison.pool}
    if not traps:
        return ""
    used = f"pool: SQLite on a pool with trap {', '.join(str(trap) for trap in traps)}"
    return f"{used}, whose evictions include pages of temporary tables"


def _milliseconds(comparisons: list[Comparison], query: str | None = None) -> Iterator[str]:
    for comparison in comparisons:
        for runs in (comparison.stock, comparison.pool):
            median = seconds(runs, query)
            yield "-" if median is None else f"{median * 1000:.1f}"


def _counts(comparisons: list[Comparison], field: str) -> Iterator[str]:
    for comparison in comparisons:
        for runs in (comparison.stock, comparison.pool):
            count = getattr(runs[-1], field) if runs else None
            yield "-" if count is None else f"{count:,}"


def ratio_lines(comparisons: list[Comparison]) -> Iterator[str]:
    """The ratios beside their goals."""
    for comparison in comparisons:
        ratio, kind = comparison.ratio(), comparison.configuration
        if ratio is not None:
            met = "[green]met[/]" if ratio <= kind.goal else "[yellow]missed in this run[/]"
            name = f"{kind.name} ({kind.meaning})"
            yield f"{name}: pool / stock [bold]{ratio:.2f}[/], median of rounds; goal {kind.goal:.2f}, {met}"


def answers_line(comparisons: list[Comparison]) -> str:
    """How much was compared. To be called when all answers are identical."""
    runs = [run for comparison in comparisons for run in comparison.stock + comparison.pool]
    rows = sum(answer.rows for answer in runs[0].answers.values())
    return f"[green]identical answers[/]: {len(QUERIES)} queries, {rows:,} rows, the same hash in all {len(runs)} runs"


Story = tuple[str, list[str | Text]]  # a title, and lines


def planted_plain(result: dict[str, Any]) -> Story:
    """What plain mmap does about the planted bug."""
    lines = [
        *_beginning(result),
        f"it reads:  {_bytes(result['seen'])}: no error",
        f"it writes: {_bytes(MARK.decode())}: no error" + (", and that reads back" if result["seems"] else ""),
        "when the page is used again, "
        + ("the write is in it" if result["kept"] else "the write is lost, without a word"),
        f"{result['touched']} evicted pages touched at random: [bold]{_noticed(result)} noticed",
    ]
    return "The planted bug on plain mmap (trap none)", [*lines]


def planted_pool(result: dict[str, Any]) -> Story:
    """What the pool does about it, with the report."""
    found = [f"{report['access']} at {report['address']:#x}" for report in result["reports"]]
    lines = [
        *_beginning(result),
        f"it reads, and it writes; reported: [bold]{', '.join(found) or 'nothing'}",
        f"{result['touched']} evicted pages touched at random: [bold]{_noticed(result)} trapped[/], each address exact",
        "",
    ]
    return f"The planted bug on the pool (trap {result['trap']})", [*lines, *_report(result["text"] or "")]


def _beginning(result: dict[str, Any]) -> list[str]:
    return [
        f"a pointer into a page of the cache, {result['address']:#x}, sees {_bytes(result['before'])}",
        "other pages are read until that page is evicted; the pointer is kept by mistake",
    ]


def _noticed(result: dict[str, Any]) -> int:
    return int(result["touched"]) - len(result["missed"])


def _report(text: str) -> Iterator[Text]:
    """The report, with the outer part of its stack left out."""
    hidden = 0
    for line in text.splitlines():
        number = line.strip().partition(" ")[0].removeprefix("#")
        if line.strip().startswith("#") and int(number) >= _STACK_LINES:
            hidden += 1
            continue
        if hidden:
            yield Text(f"    ... and {hidden} more", style="dim")
            hidden = 0
        yield Text(line, style="red" if "ERROR" in line else "")


def _bytes(text: str) -> str:
    return escape(repr(text.encode("latin-1"))[1:])
