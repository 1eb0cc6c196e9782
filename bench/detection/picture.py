"""The campaign as a picture: who detects what, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from tables import totals

# Safe for those who do not tell red from green.
COSTS = {"pages": "#777777", "sqlite": "#c98b2b"}
TITLES = {"pages": "a small engine: each page pinned for every use", "sqlite": "SQLite's queries"}
NAMED, DETECTED, MISSED, LACKING = "#0b6e99", "#8cc4de", "#f0e6d8", "#ffffff"


def _color(result: dict[str, Any] | None) -> str:
    if result is None or result["lacking"] or result["broken"]:
        return LACKING
    if not result["detected"]:
        return MISSED
    return NAMED if result["page_named"] else DETECTED


def _draw_costs(cost: Any, detectors: list[dict[str, Any]]) -> None:
    """Two bars for each detector."""
    low = top = 1.0
    for x, entry in enumerate(detectors):
        for (workload, found), shift in zip(entry["slowdowns"].items(), (-0.21, 0.21), strict=False):
            if not found or found["slowdown"] is None:
                continue
            slowdown = found["slowdown"]
            spread = [[slowdown - found["least"]], [found["most"] - slowdown]]
            style = {"color": COSTS[workload], "ecolor": "#222222", "capsize": 2, "zorder": 2}
            cost.bar(x + shift, slowdown, 0.38, yerr=spread, **style)
            cost.text(x + shift, found["most"] * 1.15, f"{slowdown:.1f}x", ha="center", va="bottom", fontsize=8)
            low, top = min(low, slowdown), max(top, found["most"])
    cost.set_yscale("log")
    cost.set_ylim(low / 2, 5 * top)
    shown = [Patch(color=color, label=TITLES[workload]) for workload, color in COSTS.items()]
    cost.legend(handles=shown, loc="upper left", frameon=False, fontsize=8.5)


def draw(results: dict[str, Any], path: Path) -> None:
    """Writes the picture: above what the detectors cost, below a field for each bug and detector."""
    rows, detectors = results["rows"], totals(results)
    height = 3.1 + 0.27 * len(rows)
    figure, (cost, field) = plt.subplots(
        2, 1, figsize=(11.5, height), height_ratios=[2, 0.27 * len(rows)], sharex=True, layout="constrained"
    )
    _draw_costs(cost, detectors)
    cost.set_ylabel("time of correct work,\nplain mmap = 1", fontsize=9)
    cost.grid(axis="y", color="#dddddd", zorder=0)
    cost.spines[["top", "right"]].set_visible(False)
    cost.tick_params(bottom=False)

    for y, row in enumerate(rows):
        for x, entry in enumerate(detectors):
            result = row["results"].get(entry["name"])
            color = _color(result)
            field.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=color, linewidth=0))
            text = "not here" if result is None else result["answer"]
            field.text(
                x, y, text, ha="center", va="center", fontsize=7.5, color="white" if color == NAMED else "#333333"
            )
    field.set_ylim(len(rows) - 0.5, -0.5)
    field.set_xlim(-0.55, len(detectors) - 0.45)
    field.set_yticks(range(len(rows)), [f"{row['bug']}  {row['number']:>2}" for row in rows], fontsize=8)
    titles = []
    for entry in detectors:
        title = entry["title"].replace(", ", ",\n")
        titles.append(title if entry["lacking"] else f"{title}\n{entry['detected']} of {entry['tried']}")
    field.set_xticks(range(len(detectors)), titles, fontsize=8.5)
    field.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    field.spines[:].set_visible(False)
    legend = [
        Patch(color=NAMED, label="detected, and the page named"),
        Patch(color=DETECTED, label="detected"),
        Patch(color=MISSED, label="not detected"),
    ]
    notes = [
        f"{row['number']}: {row['stricter']['name']} trap{'s' * (not row['stricter']['name'].endswith('s'))} it"
        + (", tried under qemu" if row["stricter"]["lacking"] or row["stricter"]["where"] != "here" else "")
        for row in rows
        if row.get("stricter") and (row["stricter"]["detected"] or row["stricter"]["logged"] == "passed")
    ]
    figure.legend(
        handles=legend,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        title=".  ".join(notes),
        title_fontsize=8.5,
    )
    figure.suptitle("Seeded bugs of a buffer pool: who detects them, and at what cost", fontsize=12)
    figure.savefig(path, dpi=90, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
