"""A run as pictures: the ratios as bars with their goals, and the curves of cost against size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from suite import tables, words
from suite.curves import CURVES, series

# Safe for those who do not tell red from green.
MET, MISSED, WITHOUT, SLOWER = "#0b6e99", "#d1703c", "#9db8c6", "#e5bd9c"
STYLES = ("o-", "s-", "^-", "v-", "D-", "P-", "X-")
Results = Mapping[str, Any]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=90, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)


def _color(row: Mapping[str, Any]) -> str:
    if row["met"] is None:
        return SLOWER if words.loses(row) else WITHOUT
    return MET if row["met"] else MISSED


def _lines(results: Results) -> list[tuple[str, Mapping[str, Any] | None]]:
    """From the top down: the groups' names, and their rows of ratios."""
    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for group in results["groups"]:
        rows = [row for row in tables.plain(results, group["name"]) if row["kind"] == "ratio"]
        if rows:
            lines += [(group["name"], None), *((row["title"], row) for row in rows)]
    return lines


def _bar(axes: Any, y: int, row: Mapping[str, Any]) -> None:
    low, _, high = row["spread"]
    value = row["value"]
    # From 1 on: to the left bufpool is faster, to the right it is slower.
    axes.barh(y, value - 1, 0.72, left=1, color=_color(row), zorder=2)
    axes.plot([low, high], [y, y], color="#222222", linewidth=1, zorder=3)
    side = "left" if value > 1 else "right"
    text = f"{value:.2f}" if value > 0.05 else f"{value:.1g}"
    end, shift = (max(high, value), 4) if value > 1 else (min(low, value), -4)
    style = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": 7.5}
    axes.annotate(text, (end, y), (shift, 0), **style)
    if row["goal"] is not None:
        axes.plot([row["goal"]] * 2, [y - 0.44, y + 0.44], color="#000000", linewidth=2.2, zorder=4)


def ratios(results: Results, path: Path) -> None:
    """Bars from 1 to the ratio, on a logarithmic scale; the goal as a mark across."""
    lines = _lines(results)
    if not lines:
        return
    figure, axes = plt.subplots(figsize=(12, 1.3 + 0.235 * len(lines)), layout="constrained")
    for y, (_, row) in enumerate(lines):
        if row is not None:
            _bar(axes, y, row)
    axes.axvline(1, color="#444444", linewidth=1, zorder=1)
    axes.set_xscale("log")
    values = [value for _, row in lines if row is not None for value in (row["value"], row["goal"] or 1)]
    axes.set_xlim(min(values) / 2.2, max(values) * 1.6)
    ticks = [
        x
        for x in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
        if axes.get_xlim()[0] < x < axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(len(lines) - 0.5, -0.7)
    labels = axes.set_yticks(range(len(lines)), [title for title, _ in lines], fontsize=7.5)
    for label, (_, row) in zip(labels, lines, strict=True):
        if row is None:
            label.label1.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("time of bufpool : time of the other side; to the left of 1 bufpool is faster", fontsize=9)
    shown = [
        Patch(color=MET, label="goal met"),
        Patch(color=MISSED, label="goal missed"),
        Patch(color=WITHOUT, label="no goal"),
        Patch(color=SLOWER, label="no goal, slower"),
        Line2D([], [], color="#000000", marker="|", markersize=10, linestyle="", markeredgewidth=2.2, label="the goal"),
        Line2D([], [], color="#222222", linewidth=1, label="quartiles of the rounds"),
    ]
    figure.legend(handles=shown, loc="outside upper center", ncols=6, frameon=False, fontsize=8.5)
    _save(figure, path)


def _draw_curve(axes: Any, results: Results, name: str, colors: dict[str, Any]) -> None:
    about = CURVES[name]
    ticks: set[float] = set()
    for title, points in series(results["rows"], name).items():
        sizes = sorted(points)
        ticks.update(sizes)
        number = len(colors)
        color, style = colors.setdefault(title, (mpl.colormaps["tab20"](number % 20), STYLES[number % len(STYLES)]))
        costs = [points[x]["value"] for x in sizes]
        if len(sizes) == 1:  # what has no batches is a floor for all of them
            axes.axhline(costs[0], color=color, linestyle="--", linewidth=1.1, label=title)
            continue
        axes.plot(sizes, costs, style, color=color, markersize=4, linewidth=1.3, label=title)
        low, high = ([points[x]["spread"][quartile] for x in sizes] for quartile in (0, 2))
        axes.fill_between(sizes, low, high, color=color, alpha=0.15)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2 if about.cost == "bytes" else 10)
    axes.set_xticks(sorted(ticks), [about.written(x) for x in sorted(ticks)], fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    unit = words.size if about.cost == "bytes" else words.duration
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(about.size, fontsize=9)
    axes.set_title(about.title, fontsize=9.5)
    axes.grid(color="#e4e4e4")
    axes.spines[["top", "right"]].set_visible(False)


def curves(results: Results, names: tuple[str, str], path: Path) -> None:
    """Two curves side by side, with one legend; the bands are the quartiles."""
    if not any(series(results["rows"], name) for name in names):
        return
    figure, panels = plt.subplots(1, 2, figsize=(13, 6), layout="constrained", sharey=names[0].startswith("mapping"))
    colors: dict[str, Any] = {}
    for axes, name in zip(panels, names, strict=True):
        _draw_curve(axes, results, name, colors)
    found: dict[str, Any] = {}
    for axes in panels:
        found |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path)


def draw(results: Results, folder: Path) -> None:
    ratios(results, folder / "bench-ratios.png")
    curves(results, ("mapping alone", "mapping beside"), folder / "bench-mapping.png")
    curves(results, ("open time", "open memory"), folder / "bench-open.png")
