"""A run as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from suite import words
from suite.curves import CURVES, series

Results = Mapping[str, Any]

# The tables of memories and traps: what each is about, and its works with the words that head their columns.
CELLS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "traps": (
        "One page, steady state; plain mmap of the same memory: first touch + memcpy, and giving it back.",
        {"fill": ("allocate + fill", "plain"), "free": ("free", "plain")},
    ),
    "pins": (
        'One page: pin + unpin, for reading ("all") and for writing ("write"), beside mprotect on + off of plain mmap '
        "of the same memory; alone, and with a reader on the other core.",
        {work + where: (f'"{work}"{where}', "mprotect") for work in ("all", "write") for where in ("", ", reader")},
    ),
}


def machine(results: Results) -> str:
    """One sentence on where and when."""
    about = results["machine"]
    low, high = min(results["load"]), max(results["load"])
    return (
        f"Linux {about['kernel']} on {'a virtual machine with ' if about['virtual'] else ''}{about['cores']} cores "
        f"({about['cpu']}), {about['memory_gib']:.0f} GiB, transparent huge pages `{about['transparent_huge_pages']}`, "
        f"{'as root' if about['root'] else 'without privilege'}; commit {about['commit']}, {about['date']}; "
        f"load average {low:.1f} to {high:.1f} (the bench's own is about 1)."
    )


def plain(results: Results, group: str | None = None) -> list[dict[str, Any]]:
    """The rows that stand for themselves, of a group or of all."""
    return [
        row for row in results["rows"]
        if not row["cell"] and not row.get("point") and group in (None, row["group"])
    ]  # fmt: skip


def _title(row: Mapping[str, Any]) -> str:
    return row["title"] + (f" ({row['note']})" if row["note"] else "")


def _group(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| work | bufpool | other | against | figure | quartiles | rounds | goal | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        ours, other = (words.amount(row, side[1]) for side in (row["ours"], row["others"]))
        figure = words.figure(row, row["value"])
        figure = f"**{figure}**" if words.loses(row) else figure
        yield (
            f"| {_title(row)} | {ours} | {other} | {row['against']} | {figure} "
            f"| {words.quartiles(row)} | {row['rounds']} | {words.goal(row)} | {words.verdict(row)} |"
        )


def cells(results: Results, name: str) -> list[str]:
    """A table with a line for each memory and trap; none if no row is about these works."""
    works = CELLS[name][1]
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        if row["cell"] and row["cell"]["work"] in works:
            found.setdefault((row["cell"]["memory"], row["cell"]["trap"]), {})[row["cell"]["work"]] = row
    if not found:
        return []
    heads = "".join(f" {ours}, ns | {other}, ns | ratio |" for ours, other in works.values())
    lines = [f"| memory | trap |{heads}", "|---|---|" + "---|---|---|" * len(works)]
    for (memory, trap), row_of in found.items():
        line = f"| {memory} | {trap} |"
        for work in works:
            row = row_of.get(work)
            line += f" {row['ours'][1]:.0f} | {row['others'][1]:.0f} | {row['value']:.2f} |" if row else " | | |"
        lines.append(line)
    return lines


def curve(results: Results, name: str) -> list[str]:
    """A table with a line for each series, and a column for each size."""
    found = series(results["rows"], name)
    if not found:
        return []
    about = CURVES[name]
    sizes = sorted({x for points in found.values() for x in points})
    lines = [
        f"| {about.size} | {' | '.join(about.written(x) for x in sizes)} |",
        "|---|" + "---|" * len(sizes),
    ]
    for title, points in found.items():
        texts = (words.figure(points[x], points[x]["value"]) if x in points else "" for x in sizes)
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return lines


def not_run(results: Results) -> list[str]:
    return [f"- {row['title']} ({row['group']}): {row['why']}" for row in results["not_run"]]


def _score(rows: Iterable[Mapping[str, Any]]) -> str:
    verdicts = [row["met"] for row in rows if row["met"] is not None]
    return f"{sum(verdicts)} of {len(verdicts)} goals met" if verdicts else ""


def markdown(results: Results) -> str:
    """All of it: bench/results/bench.md."""
    lines = [
        "# The bench",
        "",
        machine(results),
        "Pages of 4 KiB, but 2 MiB where the row says so. Medians of interleaved rounds in one run; the quartiles are",
        "those of the rounds. A ratio below 1 means that bufpool is faster. What missed its goal, or has none and was",
        f"slower, is in bold. {_score(results['rows'])}. `../README.md` says what each row does.",
        "",
        "![ratios](bench-ratios.png)",
    ]
    for group in results["groups"]:
        rows = plain(results, group["name"])
        if rows:
            lines += ["", f"## {group['name']}", "", *_group(rows)]
    for name, (about, _) in CELLS.items():
        found = cells(results, name)
        if found:
            lines += ["", f"## Memories and traps: {name}", "", about, "", *found]
    for name, about in CURVES.items():
        found = curve(results, name)
        if found:
            lines += ["", f"## {about.title}", "", *found]
    if results["not_run"]:
        lines += ["", "## Not run", "", *not_run(results)]
    lines += ["", "## Time", "", *times(results)]
    return "\n".join(lines) + "\n"


def times(results: Results) -> list[str]:
    """What each group took of its budget."""
    lines = ["| group | seconds | budget |", "|---|---|---|"]
    for group in results["groups"]:
        over = group["seconds"] > group["budget"]
        seconds = f"**{group['seconds']:.0f}**" if over else f"{group['seconds']:.0f}"
        lines.append(f"| {group['name']} | {seconds} | {group['budget']} |")
    lines.append(f"| all | {results['seconds']:.0f} | {results['budget']} |")
    return lines


def readme(results: Results) -> str:
    """README's block: a line for each row."""
    lines = [
        machine(results) + " Goals: " + _score(plain(results)) + ".",
        "",
        "| work: bufpool against plain mmap (or what is named) | ratio | quartiles | goal |",
        "|---|---|---|---|",
    ]
    for group in results["groups"]:
        rows = plain(results, group["name"])
        if rows:
            lines.append(f"| **{group['name']}** | | | |")
        for row in rows:
            wanted = words.goal(row) + (", **missed**" if row["met"] is False else "")
            lines.append(f"| {_title(row)} | {words.figure(row, row['value'])} | {words.quartiles(row)} | {wanted} |")
    if results["not_run"]:
        lines += ["", "Not run, and why:", "", *not_run(results)]
    return "\n".join(lines) + "\n"
