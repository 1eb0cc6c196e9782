"""The layout of shared tables, as Python reads it, against the C structs; and files that only claim to be tables."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NATIVE, PAGE, PoolMaker

import bufpool
from bufpool import outside, tables

STRUCTS = {
    "bp_constants": tables.CONSTANTS,
    "bp_counts": tables.COUNTS,
    "bp_stripe": tables.STRIPE,
    "bp_member": tables.MEMBER,
}


def lay_out(folder: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each field that Python knows, as the compiler has them; the size of each struct; constants."""
    prints = [
        f'printf("{kind}.{name} %zu %zu\\n", offsetof(struct {kind}, {name}), sizeof(((struct {kind} *)0)->{name}));'
        for kind, dtype in STRUCTS.items()
        for name in dtype.names or ()
    ]
    prints += [f'printf("{kind} 0 %zu\\n", sizeof(struct {kind}));' for kind in STRUCTS]
    values = ["BP_TABLES_MAGIC", "BP_TABLES_VERSION", "BP_STATE_MASK", "BP_SCRATCH", "BP_MEMBER_OF(BP_BUSY)"]
    values += [
        "offsetof(struct bp_header, counts)",
        "offsetof(struct bp_counts, stripes)",
        "BP_STRIPES",
        "BP_MAX_MEMBERS",
    ]
    prints += [f'printf("{value} 0 %zu\\n", (size_t)({value}));' for value in values]
    source = (
        '#include "tables.h"\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {' + "\n".join(prints) + "}\n"
    )
    (folder / "layout.c").write_text(source)
    options = ["-std=c11", "-D_GNU_SOURCE", f"-I{NATIVE}/include", f"-I{NATIVE}/src"]
    subprocess.run(["cc", *options, "layout.c", "-o", "layout"], cwd=folder, check=True, timeout=300)
    lines = subprocess.run([folder / "layout"], capture_output=True, text=True, check=True, timeout=300).stdout
    found = re.findall(r"^(.*) (\d+) (\d+)$", lines, re.MULTILINE)
    return {name: (int(offset), int(size)) for name, offset, size in found}


def test_the_layout_is_that_of_the_library(tmp_path: Path) -> None:
    found = lay_out(tmp_path)
    for kind, dtype in STRUCTS.items():
        assert dtype.fields
        for name, (field, offset, *_) in dtype.fields.items():
            assert found[f"{kind}.{name}"] == (offset, field.itemsize), f"{kind}.{name}"
    assert found["bp_constants"][1] == tables.CONSTANTS.itemsize
    assert found["offsetof(struct bp_header, counts)"][1] == tables.COUNTS_OFFSET
    assert found["offsetof(struct bp_counts, stripes)"][1] == tables.STRIPES_OFFSET
    assert found["BP_STRIPES"][1] == tables.STRIPES
    assert found["bp_stripe"][1] == tables.STRIPE.itemsize
    assert found["BP_TABLES_MAGIC"][1] == tables.MAGIC
    assert found["BP_TABLES_VERSION"][1] == tables.VERSION
    assert found["BP_STATE_MASK"][1] == tables.STATE_MASK
    assert found["BP_SCRATCH"][1] == tables.SCRATCH
    assert found["BP_MEMBER_OF(BP_BUSY)"][1] == found["BP_MAX_MEMBERS"][1]
    names = [bufpool._native.ffi.string(bufpool._native.lib.bufpool_state_name(n)).decode() for n in range(4)]
    assert tuple(names) == tables.STATES


@pytest.fixture
def shared(make_pool: PoolMaker) -> bufpool.Pool:
    return make_pool(64 * PAGE, memory="shared", name="seen")


@pytest.fixture
def opened(shared: bufpool.Pool) -> Iterator[tables.Tables]:
    (found,) = (each for each in outside.find(os.getpid()) if each.facts.name == shared.name)
    read = tables.Tables.open(found.tables)
    assert read is not None
    with read:
        yield read


def test_counts_and_census(shared: bufpool.Pool, opened: tables.Tables) -> None:
    numbers = shared.allocate_many(40)
    shared.free_many(numbers[:10])
    for number in numbers[10:15]:
        shared.evict(int(number))
    counts = opened.counts()
    assert (counts.allocated, counts.evicted, counts.high_water, counts.closed) == (25, 5, 40, False)
    assert (counts.allocations, counts.frees, counts.evictions, counts.populates) == (40, 10, 5, 0)
    census = opened.census(8, 40)
    assert census.exact
    assert census.states == {"unallocated": 24, "allocated": 25, "freed": 10, "evicted": 5}
    assert (census.busy, census.scratched, census.unknown, census.end) == ({}, 0, 0, 40)
    assert census.cells.tolist()[:4] == [[0, 0, 5, 0, 0], [0, 0, 5, 0, 0], [0, 0, 0, 5, 0], [0, 5, 0, 0, 0]]
    assert opened.census(7, 64).cells.sum() == 64
    assert opened.census(200, 64).cells.sum() == 64  # more cells than pages
    (member,) = opened.members()
    assert (member.pid, member.present, member.alive) == (os.getpid(), True, True)


def test_a_sparse_pool_of_16_tib_is_read_without_filling_its_holes(make_pool: PoolMaker) -> None:
    pool = make_pool("16 TiB", memory="shared", name="sparse")
    for number in (5, 2**31, 2**32 - 1):
        pool.allocate_at(number)
    (found,) = (each for each in outside.find(os.getpid()) if each.facts.name == "sparse")
    read = tables.Tables.open(found.tables)
    assert read is not None
    with read:
        before = os.fstat(read.fd).st_blocks
        census = read.census(4, 2**32)
        assert os.fstat(read.fd).st_blocks == before
    assert census.exact
    assert census.states == {"unallocated": 2**32 - 3, "allocated": 3, "freed": 0, "evicted": 0}
    assert census.cells[:, 1].tolist() == [1, 0, 1, 1]


def test_what_is_too_much_is_sampled(
    shared: bufpool.Pool, opened: tables.Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.allocate_many(64)
    monkeypatch.setattr(tables, "_EXTENTS_MOST", 0)
    census = opened.census(4, 64)
    assert not census.exact
    assert census.states["allocated"] == 64


# ---- Hostile files ---------------------------------------------------------------------------------------------------


def constants(**changes: Any) -> bytes:
    """A good header of 16 pages, but for the changes; the checksum is right unless it is one of them."""
    raw = np.zeros(1, tables.CONSTANTS)
    good = {
        "magic": tables.MAGIC,
        "version": tables.VERSION,
        "size": 2368,
        "members": 3,
        "member_size": 1024,
        "file_size": 3 * PAGE,
        "capacity": 16 * PAGE,
        "page_size": PAGE,
        "granule": PAGE,
        "pid": os.getpid(),
        "name": b"\x1b[2Jevil",
        "memory": b"shared",
    }
    for name, value in (good | changes).items():
        raw[name] = value
    if "checksum" not in changes:
        raw["checksum"] = tables.checksum(raw.tobytes())
    return raw.tobytes()


Impostor = Callable[..., str]


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    """Makes a memfd of the tables' name; returns a path to it."""
    made = []

    def make(content: bytes, length: int = 3 * PAGE, sealed: bool = True) -> str:
        fd = os.memfd_create("bufpool-tables", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        made.append(fd)
        os.ftruncate(fd, length)
        os.pwrite(fd, content, 0)
        if sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return f"/proc/{os.getpid()}/fd/{fd}"

    yield make
    for fd in made:
        os.close(fd)


def test_a_good_header_is_read(impostor: Impostor) -> None:
    read = tables.Tables.open(impostor(constants()))
    assert read is not None
    with read:
        assert read.facts.name == "?[2Jevil"
        assert read.facts.pages == 16
        assert read.members() == ()


HOSTILE = [
    ({"magic": 1}, "begins with 0x1"),
    ({"version": 7}, "layout 7, and this version knows 4"),
    ({"checksum": 3}, "checksum is wrong"),
    ({"size": 2}, "the header's size is 2, and has to be from"),
    ({"size": 5000}, "the header's size is 5000"),
    ({"members": 0}, "the number of entries is 0"),
    ({"members": 2**32 - 1}, "the number of entries is 4294967295"),
    ({"member_size": 8}, "the size of an entry is 8"),
    ({"page_size": 0}, "the page size is 0"),
    ({"capacity": 0}, "the number of pages is 0"),
    ({"capacity": 2**63}, "the number of pages is 2251799813685248"),
    ({"capacity": 16 * PAGE + 1}, "no whole number of pages"),
    ({"capacity": 2**40}, "their length is 12288"),
    ({"file_size": 4 * PAGE}, "the file has 12288 bytes, and has to have 16384"),
]


@pytest.mark.parametrize(("changes", "sentence"), HOSTILE, ids=lambda value: str(value)[:30])
def test_a_hostile_header_is_refused(impostor: Impostor, changes: dict[str, Any], sentence: str) -> None:
    path = impostor(constants(**changes))
    with pytest.raises(tables.TablesError, match=re.escape(sentence)):
        tables.Tables.open(path)
    (trouble,) = outside.look(os.getpid()).troubles
    assert sentence in trouble
    assert path in trouble


def test_a_short_or_unsealed_file_is_refused(impostor: Impostor) -> None:
    with pytest.raises(tables.TablesError, match="it has 100 bytes, and its header takes 256"):
        tables.Tables.open(impostor(b"", length=100))
    with pytest.raises(tables.TablesError, match="not sealed"):
        tables.Tables.open(impostor(constants(), sealed=False))
    with pytest.raises(tables.TablesError, match="no regular file"):
        tables.Tables.open("/proc/self")


def test_a_pool_that_is_just_being_opened_is_passed_over(impostor: Impostor) -> None:
    impostor(b"")
    assert outside.look(os.getpid()) == outside.Sight(pools=(), troubles=())


def test_ruined_states_and_counts_do_no_harm(impostor: Impostor) -> None:
    content = np.random.default_rng(1).integers(0, 256, 3 * PAGE, np.uint8).tobytes()
    read = tables.Tables.open(impostor(constants() + content[tables.CONSTANTS.itemsize :]))
    assert read is not None
    with read:
        counts = read.counts()
        assert 0 <= counts.allocated <= 16
        assert 0 <= counts.high_water <= 16
        census = read.census(5, counts.high_water)
        assert sum(census.states.values()) + census.unknown == 16
        assert all(member.name.isprintable() for member in read.members())
