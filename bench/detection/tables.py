"""The campaign's tables, of what the JSON has."""

from __future__ import annotations

from typing import Any

NAMED = " ●"  # behind an answer: the page is named


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not here"
    answer = f"**{result['answer']}**" if result["answer"] == "broken" else str(result["answer"])
    return answer + (NAMED if result["page_named"] else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _paragraphs(text: str) -> str:
    return "".join(" ".join(each.split()) + "\n\n" for each in text.split("\n\n"))


def totals(results: dict[str, Any]) -> list[dict[str, Any]]:
    """For each detector: how many bugs it has detected, of how many it named the page, and what it costs."""
    found = []
    for detector in results["detectors"]:
        name = detector["name"]
        tried = [row["results"][name] for row in results["rows"] if name in row["results"]]
        found.append(
            {
                **detector,
                "tried": sum(not each["lacking"] and not each["broken"] for each in tried),
                "detected": sum(each["detected"] for each in tried),
                "named": sum(each["page_named"] for each in tried),
                "blamed": sum(each["blamed"] for each in tried),
                "slowdowns": {workload: found.get(name) for workload, found in results["slowdowns"].items()},
            }
        )
    return found


def _slowdown(entry: dict[str, Any], workload: str) -> str:
    found = entry["slowdowns"].get(workload)
    if not found or found["slowdown"] is None:
        return ""
    spread = f" ({found['least']:.1f} to {found['most']:.1f})"
    return f"{found['slowdown']:.1f}{spread if found['least'] < found['most'] else ''}"


def _stricter(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    if not result["lacking"]:
        why = f"; not here: {result['why_not_here'].split(';')[0]}" if result["why_not_here"] else ""
        return f"With {result['name']}: {_cell(result)}, {result['where']}{why}."
    return (
        f"With {result['name']}: not tried here, {result['lacking'].split(';')[0]}. In `make test-noautofill`, "
        f'under qemu: "{result["check"]}" {result["logged"]} ([log](test-noautofill.txt)).'
    )


def summary(results: dict[str, Any]) -> str:
    """A line for each detector."""
    text = _line(["detector", "detected", "page named", "by whom", "slowdown, pages", "slowdown, SQLite"])
    text += _line(["---"] * 6)
    for entry in totals(results):
        if entry["lacking"]:
            text += _line([entry["title"], entry["lacking"], "", "", "", ""])
        else:
            detected = f"{entry['detected']} of {entry['tried']}"
            costs = [_slowdown(entry, workload) for workload in ("pages", "sqlite")]
            text += _line([entry["title"], detected, str(entry["named"]), str(entry["blamed"]), *costs])
    return text


def markdown(results: dict[str, Any]) -> str:
    """The whole campaign."""
    versions = results["versions"]
    text = "# Seeded bugs, and who detects them\n\n"
    text += f"{', '.join(versions.values())}. `make detection` makes this page.\n\n"
    text += summary(results)
    alarms = [row["number"] for row in results["rows"] if any(each["false_alarm"] for each in row["results"].values())]
    text += "\n" + _paragraphs(
        f"""
        Slowdown: the same correct work, in processor time, as a multiple of plain mmap's in the same round; the median
        of {results["rounds"]} rounds, in brackets the least and the most. Pages: a small engine scans, changes, evicts,
        populates, allocates and frees pages, each pinned meanwhile. SQLite: queries and changes on a table that its
        page cache holds, which is that of row 31. ASan sees nothing of an SQLite that was not compiled for it.

        An answer is how the detector itself said so. bufpool: *trap*, *error*, *explained* (the call gave EFAULT, and
        the program asked bufpool_explain()), *audit*, *pattern*. The sanitizer, Valgrind: *report*. *signal*: the
        kernel ended the program, without a report; *EFAULT*: the system call failed, and that is all.
        **{NAMED.strip()}**: what was said names the page by its number. By whom: it says who freed, evicted, unpinned
        or has pinned the page, by thread or stack. Each program was also run without its bug, and nobody reported
        anything there{f", but for rows {alarms}" if alarms else ""}.

        bufpool, test: `preset=test:pins=all` (row 8: `pins=write`, row 27: `audit=checksum`, no pins); production:
        `preset=production`, whose sampling guards one page in a thousand, by chance none of those that matter here.
        mprotect, poisoning by hand and client requests: pages are closed by them while they are free, evicted or
        unpinned, lie a page apart, and freed numbers rest, as an engine does that takes all that trouble. Of wrong
        calls (13 to 16) that engine asks nothing itself: its own assertions could, with any detector.
        """
    )
    detectors = results["detectors"]
    text += _line(["", "bug", "asked of bufpool, test", *(each["title"] for each in detectors)])
    text += _line(["---"] * (3 + len(detectors)))
    notes = []
    for row in results["rows"]:
        mark = ""
        for note in (row["why"], _stricter(row["stricter"])):
            if note:
                notes.append(f"{row['number']}: {note}")
                mark = " *"
        cells = [_cell(row["results"].get(each["name"])) for each in detectors]
        text += _line([str(row["number"]) + mark, row["bug"], row["must"], *cells])
    text += "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")
    missing = [
        f"\n- {row['number']}, {each['title']}: {row['results'][each['name']]['lacking']}"
        for row in results["rows"]
        for each in detectors
        if row["results"].get(each["name"], {}).get("lacking")
    ] + [f"\n- {each['title']}: {each['lacking']}" for each in detectors if each["lacking"]]
    if missing:
        text += "\nNot here:\n" + "".join(missing) + "\n"
    return text
