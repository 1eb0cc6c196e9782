"""Python's own tests of its sqlite3 module, with every page closed that SQLite has unpinned: nothing is reported."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bufpool
from bufpool import doctor

# Where they are: from Python 3.11 on, and before. Distributions often leave them out.
SUITES = ("test.test_sqlite3", "sqlite3.test")
WITHIN = """
import sys, unittest
import bufpool
bufpool.sqlite.install(capacity="256 MiB", pins="all", on_fault="resume")
names = sys.argv[1:]
outcome = unittest.TextTestRunner(sys.stdout, verbosity=0).run(unittest.defaultTestLoader.loadTestsFromNames(names))
stats = bufpool.sqlite.stats()
strays = sum(pool.stats().faults for pool in bufpool.sqlite.pools())
print("ran:", outcome.testsRun, outcome.wasSuccessful(), stats.pins, stats.left_open, strays)
"""


@pytest.fixture(scope="module")
def suite() -> list[str]:
    """The names of its modules."""
    engine = doctor.sqlite_library()
    if not engine.usable:
        pytest.skip(f"SQLite takes no page cache: {engine.reason}")
    for package in SUITES:
        try:
            found = importlib.util.find_spec(package)
        except ImportError:
            continue
        if found is not None and found.submodule_search_locations is not None:
            modules = sorted(Path(found.submodule_search_locations[0]).glob("*.py"))
            return [f"{package}.{path.stem}" for path in modules if not path.stem.startswith("_")]
    pytest.skip(f"this Python comes without the tests of its sqlite3 module ({' or '.join(SUITES)})")


def _run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_by_install(suite: list[str], tmp_path: Path) -> None:
    done = _run(["-c", WITHIN, *suite], tmp_path)
    found = re.search(r"^ran: (\d+) (\w+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    ran, successful, pins, left_open, strays = found.groups()
    assert (successful, left_open, strays) == ("True", "0", "0"), done.stdout + done.stderr
    assert int(ran) > 200
    assert int(pins) > 500


def test_under_the_preload_library(suite: list[str], tmp_path: Path) -> None:
    """A stray access would end the process."""
    preload = str(Path(bufpool.__file__).with_name("libbufpool_sqlite3.so"))
    options = "capacity=256 MiB:pins=all:on_fault=abort:stats=1"
    done = _run(["-m", "unittest", *suite], tmp_path, LD_PRELOAD=preload, BUFPOOL_OPTIONS=options)
    assert done.returncode == 0, done.stdout + done.stderr
    [(pins, left_open)] = re.findall(r"pins all, (\d+) pin cycles, (\d+) pages left open\n$", done.stderr)
    assert int(pins) > 500
    assert left_open == "0"
