"""The table of stray kinds: every cell is tried; README has the table that comes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from stray_kinds import KINDS, NO, POLICIES, TRAPS, Cell, Kind, cells, markdown, reason

import bufpool

ROOT = Path(__file__).parent.parent
CAPABILITIES = bufpool.capabilities()
pytestmark = pytest.mark.timeout(300)

PYTHON = """
import json, os, resource, sys, threading
import bufpool
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
kind, trap, policy, log = sys.argv[1:]
pool = bufpool.Pool(16 * 4096, trap=trap, on_fault=policy, log=log, name="table")
page = pool.allocate()
view = page if kind == "page" else page.array("u1") if kind == "numpy" else page.buffer
page.free()
if kind == "os.fork":
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)
print(json.dumps({"address": hex(page.address + 17), "page": page.number, "offset": 17, "state": "freed",
    "access": "write", "pid": os.getpid(), "thread_id": threading.get_native_id()}), flush=True)
try:
    view[17] = 1
    if kind != "page":
        print("through", flush=True)
    bufpool.check()
except bufpool.StrayAccessError as error:
    if kind == "page":
        print("through")
    print("owed", hex(error.report.address), flush=True)
if kind == "os.fork":
    os._exit(0)
"""


@attrs.frozen
class Ran:
    """What came of an access."""

    expected: dict[str, Any]
    reports: list[dict[str, Any]]  # the log's lines
    code: int
    went_through: bool
    restarted: bool
    explained: str  # address and state, as bufpool_explain() says after a system call
    stopped: bool  # after its report, until it was killed
    owed: list[str]  # addresses that the program was handed over
    text: str  # stderr
    lacking: str  # why this cell cannot be had here


def effect(cell: Cell) -> str:
    """What follows the access."""
    return cell.kind.effects.get(cell.policy, cell.policy)


def stop(process: subprocess.Popen[str], errors: Path) -> bool:
    """Waits for the report; kills the process and its children if it has not gone on by then."""
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end and "==END of bufpool report" not in errors.read_text():
        time.sleep(0.01)
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return True
    return False


def run(cell: Cell, program: Path, folder: Path) -> Ran:
    """Makes the access in a process of its own."""
    log = folder / f"{cell.kind.name}-{cell.trap}-{cell.policy}.log"
    command = [sys.executable, "-c", PYTHON] if cell.kind.python else [str(program)]
    errors = log.with_suffix(".stderr")
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [*command, cell.kind.name, cell.trap, cell.policy, str(log)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        stopped = effect(cell) == "freeze" and stop(process, errors)
        output, _ = process.communicate(timeout=300)
    text = errors.read_text(encoding="utf-8")
    lines = output.splitlines()
    if process.returncode == 77:
        return Ran({}, [], 77, False, False, "", stopped, [], text, lines[-1])
    assert lines, text
    return Ran(
        json.loads(lines[0]),
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()],
        process.returncode,
        "through" in lines,
        "restarted" in lines,
        "".join(line.removeprefix("explained ") for line in lines if line.startswith("explained ")),
        stopped,
        [line.removeprefix("owed ") for line in lines if line.startswith("owed ")],
        text,
        "",
    )


@pytest.fixture(scope="module")
def ran(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, Ran]:
    """Every cell that this machine has, two at a time."""
    folder = tmp_path_factory.mktemp("strays")
    program = folder / "stray_table"
    flags = ["-std=c11", "-O1", "-g", "-D_GNU_SOURCE", f"-I{ROOT}/native/include"]
    source = str(ROOT / "native/tests/stray_table.c")
    library = [str(native_library / "libbufpool.a"), "-lpthread", "-ldl"]
    subprocess.run(["cc", *flags, source, *library, "-o", str(program)], check=True, timeout=300)
    todo = [cell for cell in cells() if CAPABILITIES.of("anon", cell.trap).available]
    with ThreadPoolExecutor(2) as executor:
        return dict(zip(todo, executor.map(lambda cell: run(cell, program, folder), todo), strict=True))


def attributed(each: Ran) -> bool:
    """Is there one report, and does it name all that the program has said beforehand?"""
    return len(each.reports) == 1 and each.expected.items() <= each.reports[0].items()


def follows(cell: Cell, each: Ran) -> bool:
    """Has come about what the kind or the policy says?"""
    died = -each.code in (signal.SIGBUS, signal.SIGSEGV)
    written = each.text.count("==ERROR: bufpool: stray ")
    owed = each.owed == [each.expected["address"]]
    if effect(cell) == "freeze":
        return each.stopped and not each.went_through and written == 1
    if effect(cell) == "abort":
        return died and not each.went_through and written == 1
    if effect(cell) == "resume":
        return each.code == 0 and each.went_through and not each.owed and written == 1
    assert effect(cell) in ("raise", "answered")
    return each.code == 0 and each.went_through and owed and written == 0


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_cells(ran: dict[Cell, Ran], kind: Kind, trap: str) -> None:
    entry = CAPABILITIES.of("anon", trap)
    if not entry.available:
        pytest.skip(f"anon-{trap}: {entry.reason}")
    for policy in POLICIES:
        cell = Cell(kind, trap, policy)
        each = ran[cell]
        if each.lacking and reason(cell) is None:
            pytest.skip(f"{kind.name}: {each.lacking}")
        if reason(cell) is None:
            assert attributed(each), (policy, each)
            assert follows(cell, each), (policy, each)
        else:
            assert not each.reports, (policy, each)
            assert "bufpool: stray " not in each.text, (policy, each)
            assert not each.lacking or "only uffd tells of system calls" in each.lacking, (policy, each)
            assert kind.name != "section-read" or each.restarted, (policy, each)
            if kind.name in ("write", "read", "readv"):
                assert each.explained == f"{each.expected['address']} {each.expected['state']}", (policy, each)


def test_there_are_kinds_enough() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 16


@pytest.mark.parametrize("entry", NO, ids=lambda entry: entry[0])
def test_no_reason_without_its_cells(entry: tuple[str, str, str, str]) -> None:
    kinds, traps, policies, why = entry
    for name in kinds.split("|"):
        found = {(cell.trap, cell.policy) for cell in cells() if cell.kind.name == name and reason(cell) == why}
        assert {trap for trap, _ in found} >= set(TRAPS if traps == "*" else traps.split("|"))
        assert {policy for _, policy in found} >= set(POLICIES if policies == "*" else policies.split("|"))


def test_readme_has_the_table_that_a_run_gives(ran: dict[Cell, Ran]) -> None:
    table = markdown({cell: attributed(each) for cell, each in ran.items() if not each.lacking})
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build/stray_table.md").write_text(table, encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- stray kinds -->\n(.*)<!-- end of stray kinds -->", readme, re.DOTALL)
    assert shown
    assert shown[1] == table


def test_a_cell_that_fails_shows() -> None:
    """The table is that of the run, not of what is expected."""
    missed = Cell(KINDS[0], "guard", "raise")
    wrong = markdown({missed: False})
    assert wrong != markdown({})
    assert "| `uffd`, `mprotect`; else no (not expected) |" in wrong
