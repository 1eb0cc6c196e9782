"""Shows which tests were skipped, from JUnit files; fails on a skip that tests/expected_skips.txt does not allow.

Usage: skip_policy.py FILE.xml...

The environment variable BUFPOOL_EXPECT_SKIPS names the run (root, user, container, asan, tsan). Without it skips are
shown and allowed.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

EXPECTED = Path(__file__).with_name("expected_skips.txt")


def expected(run: str, text: str) -> list[str]:
    """The patterns that text, in the form of expected_skips.txt, allows for a run."""
    patterns = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            runs, pattern = line.split(None, 1)
            if run in runs.split(",") or runs == "any":
                patterns.append(pattern.strip())
    return patterns


def reason(case: ET.Element, skip: ET.Element) -> str:
    """Why a test was skipped: pytest's message, or the last line that a C test printed."""
    if skip.get("type", "").startswith("pytest."):
        return skip.get("message", "")
    lines = (case.findtext("system-out") or "").strip().splitlines()
    return lines[-1] if lines else skip.get("message", "")


def skipped(path: Path) -> list[str]:
    """Each skipped test of a JUnit file as "name: reason". An expected failure is not a skip."""
    found = []
    for case in ET.parse(path).iter("testcase"):
        skip = case.find("skipped")
        if skip is not None and skip.get("type") != "pytest.xfail":
            parts = [case.get("classname", ""), case.get("name", "")]
            name = parts[1] if parts[0] == parts[1] else ".".join(part for part in parts if part)
            found.append(f"{name}: {reason(case, skip)}")
    return found


def main(paths: list[str]) -> int:
    """Prints every skip; returns 1 when one was not expected."""
    run = os.environ.get("BUFPOOL_EXPECT_SKIPS", "")
    patterns = expected(run, EXPECTED.read_text(encoding="utf-8"))
    found = [line for path in paths for line in skipped(Path(path))]
    unexpected = [line for line in found if run and not any(fnmatch.fnmatchcase(line, each) for each in patterns)]
    reasons = Counter(line.split(": ", 1)[1] for line in found if line not in unexpected)
    for text, count in reasons.items():
        print(f"skipped, {count} tests: {text}")
    for line in unexpected:
        print(f"skipped, unexpectedly: {line}")
    if unexpected:
        print(f"{len(unexpected)} tests were skipped that {EXPECTED.name} does not allow in run {run}", file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
