"""Runs every seeded bug against every detector: the table, the JSON and the picture that come of it.

    python bench/detection/run.py [--output FOLDER] [--row N]... [--detector NAME]...

Exit code 1: bufpool's test preset missed what a row asks of it, or somebody reported a correct program.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import click
from detectors import DETECTORS, NATIVE, Detector, build, build_library, run
from judge import Outcome, judge, judge_correct
from seeded import NO, ROWS, Row, Stricter
from tables import markdown
from under_qemu import KERNEL, Machine

RESULTS = Path(__file__).parent.parent / "results"
ELSEWHERE = RESULTS / "test-noautofill.txt"
TEST = "bufpool-test"
LACKING = 77  # the program's exit code
LIMIT = 120  # seconds that a program may run


@attrs.frozen
class Cell:
    """A row for a detector."""

    row: Row
    detector: Detector


def try_cell(cell: Cell, folder: Path) -> tuple[Outcome, str]:
    """The outcome with the bug, and what is wrong with the run without it."""
    number, options = str(cell.row.number), cell.row.options
    bug = run(cell.detector, folder, [number, "bug"], options, LIMIT)
    correct = run(cell.detector, folder, [number, "correct"], options, LIMIT)
    return judge(bug.text, bug.code, cell.row.says), judge_correct(correct.text, correct.code)


def met(row: Row, outcome: Outcome) -> bool:
    """Does the test preset say what the row asks of it? More is no less."""
    if row.expected == NO:
        return not outcome.broken
    return outcome.how == row.expected and outcome.page_named | (row.expected == "pattern") and outcome.complete


def try_stricter(row: Row, stricter: Stricter, test: Detector, machine: Machine) -> dict[str, Any]:
    """What the stricter way makes of the row, here or else under qemu, and what make test-noautofill has logged."""
    outcome, where, why = Outcome(False, lacking=stricter.lacking), "here", ""
    if stricter.options:
        options = row.options + stricter.options
        ran = run(test, machine.folder, [str(row.number), "bug"], options, LIMIT)
        outcome = judge(ran.text, ran.code, row.says)
        if outcome.lacking and machine.is_there():
            where, why = "under qemu", outcome.lacking
            outcome = machine.try_row(row.number, f"preset={test.preset}{options}", row.says)
    logged = re.search(rf"^{re.escape(stricter.check)}  +(\w+)", ELSEWHERE.read_text(encoding="utf-8"), re.M)
    return {
        "name": stricter.name,
        **attrs.asdict(outcome),
        "answer": outcome.answer,
        "where": where,
        "why_not_here": why,
        "check": stricter.check,
        "logged": logged[1] if logged else "not in the log",
    }


@attrs.frozen
class Workload:
    """Correct work, and how much of it is a round."""

    name: str
    operations: int
    detectors: list[Detector]


def take_turns(workload: Workload, folder: Path, rounds: int) -> dict[str, list[float]]:
    """The nanoseconds of an operation: in a round each detector has a turn, and each round begins with another one."""
    times: dict[str, list[float]] = {detector.name: [] for detector in workload.detectors}
    sums = set()
    settings = {"DETECTION_OPERATIONS": str(workload.operations)}
    for turn in range(rounds):
        first = turn % len(workload.detectors)
        for detector in [*workload.detectors[first:], *workload.detectors[:first]]:
            ran = run(detector, folder, [workload.name, "correct"], ":pins=all", 600, **settings)
            if ran.code != 0:
                raise RuntimeError(f"{workload.name} under {detector.title} ended with {ran.code}: {ran.text[-500:]}")
            nanoseconds, content = ran.output.split()
            times[detector.name].append(float(nanoseconds))
            sums.add(content)
    if len(sums) != 1:
        raise RuntimeError(f"{workload.name} has read different things: {sums}")
    return times


def slowdowns(workload: Workload, folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """What an operation takes, as a multiple of what plain mmap's took in the same round."""
    times = take_turns(workload, folder, rounds)
    plain = times.get("mmap", [])
    found = {}
    for name, each in times.items():
        ratios = [took / base for took, base in zip(each, plain, strict=bool(plain))] or None
        found[name] = {
            "ns": round(median(each), 1),
            "slowdown": ratios and round(median(ratios), 2),
            "least": ratios and round(min(ratios), 2),
            "most": ratios and round(max(ratios), 2),
        }
    return found


def measure(detectors: list[Detector], folder: Path, rounds: int, operations: int) -> dict[str, dict[str, Any]]:
    """The slowdowns by workload. Of SQLite's queries there are fewer, as one takes so much longer."""
    if rounds == 0:
        return {}
    whole = [detector for detector in detectors if not detector.compiled_in]
    found = {"pages": slowdowns(Workload("pages", operations, detectors), folder, rounds), "sqlite": {}}
    if (
        whole
        and run(whole[0], folder, ["sqlite", "correct"], ":pins=all", 600, DETECTION_OPERATIONS="1").code != LACKING
    ):
        found["sqlite"] = slowdowns(Workload("sqlite", max(operations // 25, 1), whole), folder, rounds)
    return found


def versions(detectors: list[Detector]) -> dict[str, str]:
    """Of what took part."""
    header = (NATIVE / "include/bufpool/bufpool.h").read_text(encoding="utf-8")
    found = {
        "bufpool": "bufpool " + re.findall(r'#define BUFPOOL_VERSION "(.*)"', header)[0],
        "system": f"Linux {platform.release()}, {platform.machine()}",
    }
    commands = {"cc": ["cc", "--version"]}
    if any(detector.prefix for detector in detectors):
        commands["valgrind"] = ["valgrind", "--version"]
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found[name] = done.stdout.splitlines()[0]
    return found


def campaign(
    rows: list[Row], detectors: list[Detector], folder: Path, library: Path | None, kernel: Path
) -> dict[str, Any]:
    """Builds and runs; returns what the JSON has."""
    if library is None and any(detector.preset for detector in detectors):
        library = build_library(folder)
    lacking = {detector.name: build(detector, folder, library) for detector in detectors}
    cells = [Cell(row, detector) for row in rows for detector in detectors if not lacking[detector.name]]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        outcomes = list(executor.map(lambda cell: try_cell(cell, folder), cells))
    found: dict[int, dict[str, Any]] = {row.number: {} for row in rows}
    for cell, (outcome, false_alarm) in zip(cells, outcomes, strict=True):
        found[cell.row.number][cell.detector.name] = {
            **attrs.asdict(outcome),
            "answer": outcome.answer,
            "false_alarm": false_alarm,
            **({"met": met(cell.row, outcome)} if cell.detector.name == TEST else {}),
        }
    stricter = {}
    for test in (each for each in detectors if each.name == TEST and library):
        machine = Machine(kernel, folder, library)
        stricter = {row.number: try_stricter(row, row.stricter, test, machine) for row in rows if row.stricter}
    return {
        "versions": versions(detectors),
        "detectors": [{"name": each.name, "title": each.title, "lacking": lacking[each.name]} for each in detectors],
        "rows": [
            {
                "number": row.number,
                "bug": row.bug,
                "must": row.must,
                "why": row.why,
                "options": row.options,
                "results": found[row.number],
                "stricter": stricter.get(row.number),
            }
            for row in rows
        ],
    }


def complaints(results: dict[str, Any]) -> list[str]:
    """What must not be."""
    found = []
    for row in results["rows"]:
        stricter = row["stricter"]
        if stricter and not stricter["lacking"] and not stricter["complete"]:
            found.append(f"row {row['number']}, {stricter['name']}: {stricter['answer']} {stricter['broken']}")
        for name, result in row["results"].items():
            where = f"row {row['number']}, {name}"
            if result["broken"]:
                found.append(f"{where}: {result['broken']}")
            elif result["false_alarm"]:
                found.append(f"{where}: {result['false_alarm']}")
            elif result.get("met") is False and not result["lacking"]:
                found.append(
                    f'{where}: "{row["must"]}" is asked, the answer is: {result["answer"]} {result["evidence"]}'
                )
    return found


def write(results: dict[str, Any], output: Path, picture: bool) -> None:
    """The JSON, the table, the picture."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "detection.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = markdown(results)
    (output / "detection.md").write_text(table, encoding="utf-8")
    if picture:
        from picture import draw

        draw(results, output / "detection.png")
    click.echo(table)


@click.command()
@click.option("--row", "numbers", type=int, multiple=True, help="Only this row; may be given several times.")
@click.option(
    "--detector",
    "names",
    type=click.Choice([each.name for each in DETECTORS]),
    multiple=True,
    help="Only this detector; may be given several times.",
)
@click.option("--library", type=click.Path(exists=True, path_type=Path), help="A libbufpool.a that is built already.")
@click.option(
    "--kernel",
    type=click.Path(path_type=Path),
    default=KERNEL,
    help="What to run under qemu what this processor has not; by default that of make test-noautofill, if it is there.",
)
@click.option("--rounds", default=7, show_default=True, help="Of the workload; 0: no slowdowns.")
@click.option("--operations", default=100000, show_default=True, help="Of the workload, in a round.")
@click.option("--only-slowdowns", is_flag=True, help="The answers stay those that the JSON in the folder has.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Folder.")
@click.option("--picture/--no-picture", default=True, help="Draw it; takes matplotlib.")
def main(  # noqa: PLR0917 (all by name)
    numbers: tuple[int, ...],
    names: tuple[str, ...],
    library: Path | None,
    kernel: Path,
    rounds: int,
    operations: int,
    only_slowdowns: bool,
    output: Path,
    picture: bool,
) -> None:
    """Run every seeded bug against every detector."""
    rows = [row for row in ROWS if not numbers or row.number in numbers]
    detectors = [detector for detector in DETECTORS if not names or detector.name in names]
    with tempfile.TemporaryDirectory(prefix="detection-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        library = library.resolve() if library else None
        results = campaign([] if only_slowdowns else rows, detectors, folder, library, kernel.resolve())
        if only_slowdowns:
            results["rows"] = json.loads((output / "detection.json").read_text(encoding="utf-8"))["rows"]
        there = [each for each in detectors if (folder / each.program).exists()]
        results["slowdowns"] = measure(there, folder, rounds, operations)
        results["rounds"] = rounds
    write(results, output, picture)
    found = complaints(results)
    for line in found:
        click.echo(line, err=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
