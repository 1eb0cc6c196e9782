"""The campaign of seeded bugs (bench/detection): a handful of its rows, for bufpool; and what README says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CAMPAIGN = ROOT / "bench/detection"
RESULTS = ROOT / "bench/results/detection.json"
# With every trap, guard too, the answers are these.
TEST = {
    1: "trap",
    3: "trap",
    5: "trap",
    7: "trap",
    8: "trap",
    9: "trap",
    13: "error",
    14: "error",
    19: "explained",
    21: "trap",
    25: "trap",
    27: "audit",
    **({31: "trap"} if find_library("sqlite3") else {}),
    32: "pattern",
    33: "no",
    34: "no",
}
PRODUCTION = {number: "no" if number in (5, 7, 8, 9, 14, 27, 31, 32) else word for number, word in TEST.items()}

pytestmark = pytest.mark.skipif(not CAMPAIGN.exists(), reason="the bench is not in this copy of the sources")


@pytest.fixture(scope="module")
def campaign(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("detection")
    detectors = [word for name in ("bufpool-test", "bufpool-production") for word in ("--detector", name)]
    rows = [word for number in TEST for word in ("--row", str(number))]
    library = ["--library", str(native_library / "libbufpool.a")]
    command = [sys.executable, str(CAMPAIGN / "run.py"), *detectors, *rows, *library]
    done = subprocess.run(
        [*command, "--rounds", "1", "--operations", "500", "--no-picture", "--output", str(folder)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "detection.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("detector", "expected"), [("bufpool-test", TEST), ("bufpool-production", PRODUCTION)])
def test_answers(campaign: dict[str, Any], detector: str, expected: dict[int, str]) -> None:
    assert {row["number"]: row["results"][detector]["answer"] for row in campaign["rows"]} == expected
    assert not any(row["results"][detector]["false_alarm"] for row in campaign["rows"])


def test_the_page_is_named(campaign: dict[str, Any]) -> None:
    for row in campaign["rows"]:
        result = row["results"]["bufpool-test"]
        assert result["page_named"] == (result["answer"] in ("trap", "error", "explained", "audit")), row
        assert result["met"], row


def test_the_workloads_are_timed(campaign: dict[str, Any]) -> None:
    workloads = ["pages", "sqlite"] if find_library("sqlite3") else ["pages"]
    for name in workloads:
        assert all(campaign["slowdowns"][name][each]["ns"] > 0 for each in ("bufpool-test", "bufpool-production"))


# Of each the report, and the word without which it says less than the row asks for.
REPORTS = {
    1: ('stray read of a freed page\n  page 37 of pool "p" is freed\n  freed by thread 5 "x"', "freed by thread 5"),
    4: ('stray read of an evicted page\n  page 37 of pool "p" is evicted', "is evicted"),
    5: ('stray read of an unpinned page\n  page 37 of pool "p" is unpinned\n  unpinned by thread 5', "by thread 5"),
    7: ('stray write of a read-only page\n  page 37 of pool "p" is read-only', "is read-only"),
    9: ('stray write\nWRITE at address 0x77\n  red zone, 1 bytes past the last one of page 37 of pool "p"', "red zone"),
    11: ('stray read\n  page 37 of pool "p" is unallocated\n  neighbours: 9 bytes past the end of page 47', "page 47"),
    12: ("stray read\nREAD at address 0x77\n  red zone of page 37", "address 0x77"),
    20: ('stray read\n  page 37 of pool "p" is freed\n  thread 5 of process 6', "of process 6"),
    21: ('stray read\n  page 37 of pool "p" is freed\n  thread 5 "main" of process 6', '"main"'),
    23: ('stray read\n  page 37 of pool "p" is freed\n  thread 5 "main" of process 6', '"main" of process'),
    25: ('stray read of a closed page\n  page 37 of pool "p" is closed', "is closed"),
    26: ('stray execute of a freed page\n  page 37 of pool "p" is freed', "execute"),
    31: ('stray read of an evicted page\n  page 37 of pool "p" is evicted\n  evicted by thread 5', "by thread 5"),
}


@pytest.mark.parametrize("number", REPORTS)
def test_a_report_that_says_less_is_not_enough(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CAMPAIGN))
    from judge import judge
    from run import met
    from seeded import ROWS

    row = next(each for each in ROWS if each.number == number)
    report, word = REPORTS[number]
    for text, enough in ((report, True), (report.replace(word, "..."), False)):
        written = f"## bug page=37 address=0x77 pid=6 thread=5 name=main\n==6==ERROR: bufpool: {text}\n"
        outcome = judge(written, -7, row.says)
        assert outcome.how == "trap"
        assert met(row, outcome) == enough


@pytest.mark.parametrize(
    ("number", "says", "word"),
    [
        (13, 'error double free of page 37 of pool "p": it was freed by thread 5', "by thread 5"),
        (14, 'error cannot free page 37 of pool "p": it is pinned, last pinned by thread 5', "pinned by thread 5"),
        (15, 'error cannot unpin page 37 of pool "p"', "page 37"),
        (16, 'error cannot free page 37 of pool "p"', "page 37"),
        (19, 'failed readv: Bad address\n## explained \n  page 37 of pool "p" is evicted\n## iovec 1', "iovec 1"),
    ],
)
def test_an_error_that_says_less_is_not_enough(
    number: int, says: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(CAMPAIGN))
    from judge import judge
    from run import met
    from seeded import ROWS

    row = next(each for each in ROWS if each.number == number)
    for text, enough in ((says, True), (says.replace(word, "..."), False)):
        written = f"## bug page=37 address=0x77 pid=6 thread=5 name=main\n## {text}\n## over .\n"
        assert met(row, judge(written, 0, row.says)) == enough


def test_readme_and_the_table_are_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CAMPAIGN))
    from tables import markdown, summary

    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert summary(results) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert markdown(results) == RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert len(results["rows"]) == 38
    assert not [row["number"] for row in results["rows"] if not row["results"]["bufpool-test"]["met"]]


def test_what_was_tried_elsewhere_is_in_its_log() -> None:
    log = (RESULTS.parent / "test-noautofill.txt").read_text(encoding="utf-8").splitlines()
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    tried = [row["stricter"] for row in rows if row["stricter"]]
    assert {each["name"] for each in tried} == {"protection keys", "noautofill"}
    for each in tried:
        assert any(line.startswith(each["check"] + " ") and each["logged"] in line.split() for line in log), each
        assert each["complete"] or (each["lacking"] and each["logged"] == "passed"), each
