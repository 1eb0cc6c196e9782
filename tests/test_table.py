"""The table of memory and trap: README has it as the code gives it, and it says what the C core says of each pair."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bufpool
from bufpool import table
from bufpool._native import ffi, lib

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
ENTRIES = bufpool.capabilities().entries
MEMORIES = ("anon", "thp", "shared", "hugetlb", "path")
TRAPS = ("noautofill", "uffd", "guard", "mprotect", "none")
PAIRS = list(itertools.product(MEMORIES, TRAPS))

ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)
NEVER = re.compile(r"^- (.+): not with (.+?); (.+)$", re.MULTILINE)


def shown() -> str:
    found = re.search(r"<!-- memory and trap -->\n(.*)<!-- end of memory and trap -->", README, re.DOTALL)
    assert found
    return found[1]


def test_readme_has_the_table() -> None:
    assert shown() == table.markdown(ENTRIES)


def test_the_command_prints_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bufpool.table"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == shown()


def names(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


@pytest.mark.parametrize(("memory", "trap"), PAIRS)
def test_each_cell_is_what_the_core_says(memory: str, trap: str) -> None:
    mask = ffi.new("uint32_t *")
    code = lib.bufpool_cell(memory.encode(), trap.encode(), mask)
    entry = bufpool.capabilities().of(memory, trap)
    rows = [row[2:] for row in ROW.findall(shown()) if row[:2] == (memory, trap)]
    reasons = [why for some, others, why in NEVER.findall(shown()) if memory in names(some) and trap in names(others)]
    assert entry.valid == (code == 0)
    if code:
        assert code == lib.BUFPOOL_EUNSUPPORTED
        assert (rows, len(reasons)) == ([], 1)
        assert entry.reason.endswith(reasons[0])
    elif trap == "none":
        assert (rows, reasons, mask[0]) == ([], [], 0)
    else:
        bits = (lib.BUFPOOL_USERS_ONE, lib.BUFPOOL_USERS_ATTACHED, lib.BUFPOOL_USERS_ANYONE)
        assert (rows, reasons) == ([tuple("traps" if mask[0] & bit else "" for bit in bits)], [])


# A path takes a mount: see test_huge.py.
@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if not e.valid and e.memory != "path"], ids=lambda e: f"{e.memory}-{e.trap}"
)
def test_a_pair_that_never_goes_together_is_refused_with_its_reason(entry: bufpool.Capability) -> None:
    with pytest.raises(bufpool.UnsupportedError) as caught:
        bufpool.Pool("1 GiB", page_size=None, memory=entry.memory, trap=entry.trap)
    assert entry.reason.partition(": ")[2] in str(caught.value)


PINS = re.search(r"\| memory \| trap \| a page is closed, .*?\n\n", README, re.DOTALL)
CLOSED = [
    (memory, trap)
    for row in (PINS[0] if PINS else "").splitlines()[2:-1]
    for memory, trap in itertools.product(*map(names, row.split("|")[1:3]))
]


def test_pins_close_pages_of_every_pair_that_traps() -> None:
    assert sorted(CLOSED) == sorted((e.memory, e.trap) for e in ENTRIES if e.users)


@pytest.mark.parametrize("pins", ["write", "all"])
@pytest.mark.parametrize(("memory", "trap"), [pair for pair in CLOSED if pair[0] in ("anon", "thp", "shared")])
def test_pins_close_pages_as_the_readme_says(memory: str, trap: str, pins: str) -> None:
    if not bufpool.capabilities().of(memory, trap).available:
        pytest.skip(f"{memory}-{trap}: {bufpool.capabilities().of(memory, trap).reason}")
    try:
        pool = bufpool.Pool("64 MiB", page_size=None, memory=memory, trap=trap, pins=pins)
    except bufpool.UnsupportedError as error:
        assert "it takes Linux" in str(error)  # noqa: PT017 -- an older kernel
        return
    with pool:
        page = pool.allocate(b"data")
        with pytest.raises(bufpool.StrayAccessError):
            page[0] = 1
        with page.pin(write=True):
            page[0] = 1
        assert pool.stats().pins_mode == pins


def test_nothing_else_is_in_it() -> None:
    assert [row[:2] for row in ROW.findall(shown())] == [(e.memory, e.trap) for e in ENTRIES if e.users]
    assert shown().count("\n| `") == len(ROW.findall(shown()))
    assert shown().count("\n- ") == len(NEVER.findall(shown()))
