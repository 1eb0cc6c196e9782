"""Pools of huge pages: every memory of them with every trap it goes with. Files on hugetlbfs: see test_huge_path.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bufpool

HUGE = 2 << 20
PAGES = 8
PoolMaker = Callable[..., bufpool.Pool]

CAPABILITIES = bufpool.capabilities()
CELLS = [
    e for e in CAPABILITIES.entries if e.memory in ("thp", "hugetlb", "path") and e.users and e.trap != "noautofill"
]


@pytest.fixture(params=CELLS, ids=lambda entry: f"{entry.memory}-{entry.trap}")
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each memory of huge pages with each trap, as options of a Pool with pages of one granule."""
    entry: bufpool.Capability = request.param
    if entry.trap == "uffd" and not CAPABILITIES.of("anon", "uffd").available:
        pytest.skip(f"{entry.memory}-uffd: {CAPABILITIES.of('anon', 'uffd').reason}")
    memory: str | Path = entry.memory
    if memory == "hugetlb":
        request.getfixturevalue("huge_pages")
    elif memory == "path":
        memory = request.getfixturevalue("hugetlbfs")
    return {"memory": memory, "trap": entry.trap, "page_size": None}


@pytest.fixture
def pool(make_pool: PoolMaker, options: dict[str, Any]) -> bufpool.Pool:
    """8 pages of 2 MiB, of every kind."""
    return make_pool(PAGES * HUGE, **options)


# ---- Conformance -----------------------------------------------------------------------------------------------------


def test_what_it_is(pool: bufpool.Pool, options: dict[str, Any]) -> None:
    stats = pool.stats()
    assert (pool.page_size, pool.granule, pool.page_count) == (HUGE, HUGE, PAGES)
    assert (pool.memory, pool.trap) == (str(options["memory"]), options["trap"])
    assert (stats.memory, stats.granule) == (pool.memory, HUGE)
    backings = {"thp": "transparent huge pages", "hugetlb": "huge pages", "path": "file of huge pages"}
    kind = "path" if "/" in pool.memory else pool.memory
    assert backings[kind] in stats.backing
    assert stats.trap_note == ""
    assert repr(pool) == f"<Pool {pool.name!r}, 16 MiB of 2 MiB pages, {options['memory']}, {options['trap']}>"


def test_contents(pool: bufpool.Pool) -> None:
    whole = os.urandom(HUGE)
    assert bytes(pool.allocate()) == bytes(HUGE)
    assert bytes(pool.allocate(b"abc")) == b"abc" + bytes(HUGE - 3)
    page = pool.allocate(whole)
    assert bytes(page) == whole
    page[HUGE - 2 :] = b"xy"
    page[4096] = 7
    assert (page[HUGE - 1], page[4095:4098]) == (ord("y"), whole[4095:4096] + b"\7" + whole[4097:4098])


def test_a_page_of_zeros_again_after_free(pool: bufpool.Pool) -> None:
    page = pool.allocate(os.urandom(HUGE))
    page.free()
    assert bytes(pool.allocate_at(page)) == bytes(HUGE)


def test_views_are_the_page_s_memory(pool: bufpool.Pool) -> None:
    page = pool.allocate()
    numbers = page.array("u8")
    numbers[:] = np.arange(HUGE // 8)
    view = page.buffer
    assert (len(view), view[8], page[8:16]) == (HUGE, 1, (1).to_bytes(8, "little"))
    view[HUGE - 1] = 0xEE
    assert numbers[-1] >> 56 == 0xEE


def test_evict_and_populate(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"first")
    page.evict()
    with pytest.raises(bufpool.StrayAccessError):
        page[0]
    pool.populate(page, b"second")
    assert (page[:6], page.state) == (b"second", "allocated")


def test_batches(pool: bufpool.Pool) -> None:
    data = os.urandom(4 * HUGE)
    numbers = pool.allocate_many(4, data)
    assert b"".join(bytes(pool.page(number)) for number in numbers) == data
    pool.evict_many(numbers[:3])
    pool.populate_many(numbers[:3], data[: 3 * HUGE])
    assert bytes(pool.page(int(numbers[2]))) == data[2 * HUGE : 3 * HUGE]
    with pytest.raises(bufpool.PoolExhaustedError):
        pool.allocate_many(PAGES - 3)
    pool.free_many(numbers)
    assert pool.stats().allocated == 0


@pytest.mark.parametrize("state", ["unallocated", "freed", "evicted", "closed"])
@pytest.mark.parametrize("offset", [0, 4095, 4096, HUGE - 1])
def test_strays_are_reported_to_the_byte(pool: bufpool.Pool, state: str, offset: int) -> None:
    neighbours = pool.allocate_at(2), pool.allocate_at(4)
    page = pool.page(3)
    if state in ("freed", "evicted"):
        pool.allocate_at(page, b"gone")
        (page.free if state == "freed" else page.evict)()
    view = page.buffer if state != "evicted" else None
    if state == "closed":
        pool.close()
    else:
        assert (neighbours[0][HUGE - 1], neighbours[1][0]) == (0, 0)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[offset] = 1
    reports = [caught.value.report]
    if view is not None:
        with bufpool.catch_faults() as collected:
            assert view[offset] == bufpool.POISON
        reports += collected.reports
    assert [report.access for report in reports] == ["write", "read"][: len(reports)]
    for report in reports:
        assert (report.page, report.offset, report.page_size) == (3, offset, HUGE)
        assert (report.address, report.state, report.lost) == (page.address + offset, state, False)
        assert f"offset {offset} of {HUGE} bytes" in str(report)
        assert "of 2 MiB, memory " in str(report)


def test_what_strays_through_a_view_spoils_nothing(pool: bufpool.Pool) -> None:
    page = pool.page(1)
    view = page.buffer
    with bufpool.catch_faults() as caught:
        view[5] = 1
    assert [report.offset for report in caught.reports] == [5]
    pool.allocate_at(page, b"mine")
    assert bytes(page) == b"mine" + bytes(HUGE - 4)


def test_pages_of_two_granules(make_pool: PoolMaker, options: dict[str, Any]) -> None:
    pool = make_pool(4 * HUGE, **{**options, "page_size": "4 MiB"})
    whole = os.urandom(2 * HUGE)
    page = pool.allocate(whole)
    assert bytes(page) == whole
    page.free()
    for offset in (0, HUGE - 1, HUGE, 2 * HUGE - 1):
        with pytest.raises(bufpool.StrayAccessError) as caught:
            page[offset]
        assert (caught.value.report.page, caught.value.report.offset) == (0, offset)


def test_the_pool_s_numbers_run_out_and_it_goes_on(pool: bufpool.Pool) -> None:
    pages = [pool.allocate(bytes([number])) for number in range(PAGES)]
    with pytest.raises(bufpool.PoolExhaustedError):
        pool.allocate()
    pages[5].free()
    assert pool.allocate(b"again")[:5] == b"again"
    assert [page[0] for page in pages if page.number != 5] == [0, 1, 2, 3, 4, 6, 7]


def test_statistics_count_huge_fills(pool: bufpool.Pool) -> None:
    numbers = pool.allocate_many(4)
    pool.evict_many(numbers[:2])
    pool.populate_many(numbers[:2])
    stats = pool.stats()
    assert stats.huge_fills + stats.small_fills == 6
    assert stats.reserve_lost == 0
    # Memory thp says so when it has to do with small pages; the others have none.
    assert stats.small_fills == 0 or (pool.memory == "thp" and stats.memory_note)


def test_lazy_zero_changes_nothing(make_pool: PoolMaker, options: dict[str, Any]) -> None:
    pool = make_pool(PAGES * HUGE, lazy_zero=True, **options)
    page = pool.allocate()
    stats = pool.stats()
    assert stats.huge_fills + stats.small_fills == 1
    assert bytes(page) == bytes(HUGE)


def test_pages_of_4_kib_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(bufpool.ArgumentError) as caught:
        bufpool.Pool(PAGES * HUGE, **{**options, "page_size": 4096})
    assert (
        f'page_size is 4096 bytes: it has to be a whole number of granules, which have {HUGE} bytes in memory "'
        in str(caught.value)
    )


# ---- Locking, dumps, nodes -------------------------------------------------------------------------------------------


def smaps(address: int, name: str) -> list[str]:
    """A line of the mapping at an address in /proc/self/smaps, in words."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            low, high = (int(edge, 16) for edge in words[0].split("-"))
            inside = low <= address < high
        elif inside and words[0] == f"{name}:":
            return words[1:]
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_thp_pages_are_huge_pages(make_pool: PoolMaker) -> None:
    if not CAPABILITIES.of("thp", "uffd").available:
        pytest.skip(f"thp-uffd: {CAPABILITIES.of('thp', 'uffd').reason}")
    pool = make_pool(PAGES * HUGE, memory="thp", page_size=None)
    page = pool.allocate(b"x")
    stats = pool.stats()
    assert (stats.huge_fills, stats.small_fills) == ((1, 0) if stats.memory_note == "" else (0, 1)), stats.memory_note
    assert int(smaps(page.address, "AnonHugePages")[0]) == (2048 if stats.huge_fills else 0)


@pytest.mark.parametrize("dump", [False, True])
def test_pages_go_into_core_dumps_only_when_asked_for(make_pool: PoolMaker, options: Any, dump: bool) -> None:
    pool = make_pool(2 * HUGE, dump=dump, **options)
    assert ("dd" in smaps(pool.allocate().address, "VmFlags")) == (not dump)


def test_lock(make_pool: PoolMaker, options: dict[str, Any]) -> None:
    pool = make_pool(2 * HUGE, lock=True, **options)
    page = pool.allocate(b"locked")
    # Huge pages of hugetlbfs are never swapped in any case.
    assert pool.memory != "thp" or "lo" in smaps(page.address, "VmFlags")
    page.free()
    with pytest.raises(bufpool.StrayAccessError):
        page[0]


def test_lock_beyond_the_limit_is_refused_with_its_name(child: Any) -> None:
    done = child(
        """
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            bufpool.Pool("4 MiB", lock=True)
        except bufpool.UnsupportedError as error:
            print(error)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "cannot lock 4194304 bytes" in done.stdout
    assert "RLIMIT_MEMLOCK" in done.stdout


@pytest.mark.parametrize("memory", ["anon", "thp", "shared", "hugetlb"])
@pytest.mark.parametrize("numa", ["interleave", "local", "0", [0], range(1)])
def test_numa(request: pytest.FixtureRequest, make_pool: PoolMaker, memory: str, numa: Any) -> None:
    if memory == "hugetlb":
        request.getfixturevalue("huge_pages")
    try:
        pool = make_pool(2 * HUGE, memory=memory, page_size=None, numa=numa)
    except bufpool.UnsupportedError as error:
        pytest.skip(f"numa with {memory}: {error.strerror}")
    assert pool.allocate(b"here")[:4] == b"here"
    nodes = Path("/sys/devices/system/node/online")
    if not nodes.exists() or nodes.read_text().strip() == "0":
        assert "changes nothing: this process may use one node, 0" in pool.stats().memory_note


# ---- Wrong options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"numa": "bogus"}, bufpool.ArgumentError, ['numa is "bogus"', '"interleave", "local"', '"0,2-3"']),
        ({"numa": ""}, bufpool.ArgumentError, ['numa is ""']),
        ({"numa": []}, bufpool.ArgumentError, ['numa is ""']),
        ({"numa": "0-"}, bufpool.ArgumentError, ['numa is "0-"']),
        ({"numa": "3-1"}, bufpool.ArgumentError, ['numa is "3-1"']),
        ({"numa": [9999]}, bufpool.ArgumentError, ['numa is "9999"', "below 1024"]),
        ({"numa": [-1]}, bufpool.ArgumentError, ['numa is "-1"']),
        ({"numa": 5}, TypeError, ["numa", "int"]),
        ({"numa": [1.5]}, TypeError, ["a node of numa", "float"]),
        ({"numa": [True]}, TypeError, ["a node of numa", "bool"]),
        ({"numa": "0\0"}, bufpool.ArgumentError, ["numa", "NUL"]),
        ({"granule": "2 MiB"}, bufpool.ArgumentError, [str(HUGE), '"anon" has granules of 4096']),
        ({"granule": 4096, "memory": "thp"}, bufpool.ArgumentError, ["4096", f'"thp" has granules of {HUGE}']),
        ({"granule": "3 MiB", "memory": "hugetlb"}, bufpool.UnsupportedError, [str(3 << 20), "huge pages"]),
        ({"granule": 0}, bufpool.ArgumentError, ["granule 0"]),
        ({"granule": "x"}, bufpool.ArgumentError, ["granule 'x'"]),
        ({"granule": 1.5}, TypeError, ["granule", "float"]),
        ({"reserve": True}, bufpool.ArgumentError, ["BUFPOOL_RESERVE", '"anon"']),
        ({"discard": True}, bufpool.ArgumentError, ["BUFPOOL_DISCARD", '"anon"']),
        ({"reserve": True, "memory": "thp"}, bufpool.ArgumentError, ["BUFPOOL_RESERVE", '"thp"']),
        ({"lock": True, "trap": "guard", "capacity": "1 MiB"}, bufpool.UnsupportedError, ["locked", "lock"]),
        ({"memory": "hugetlbx"}, bufpool.ArgumentError, ["hugetlbx", "anon", "thp", "shared", "hugetlb", "path"]),
        ({"memory": "path"}, bufpool.UnsupportedError, ["path", "hugetlbfs", "slash"]),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        bufpool.Pool(**{"capacity": "16 MiB", "page_size": None, **options})
    for word in words:
        assert word in str(caught.value)


# ---- Exhaustion ------------------------------------------------------------------------------------------------------


def exhaust(pool: bufpool.Pool) -> None:
    """Allocates until huge pages run out, short of the pool's numbers; then a free makes room for one more."""
    pages = []
    with pytest.raises(bufpool.PoolExhaustedError) as caught:  # noqa: PT012 (any of them may be the one)
        for number in range(pool.page_count):
            pages.append(pool.allocate(number.to_bytes(4, "little")))
    assert "no huge page is free" in str(caught.value)
    assert 0 < len(pages) < pool.page_count
    with pytest.raises(bufpool.PoolExhaustedError):
        pool.allocate_many(2)
    assert pool.stats().allocated == len(pages)
    assert [int.from_bytes(page[:4], "little") for page in pages] == list(range(len(pages)))
    pages[0].evict()
    pool.populate(pages[0], b"back")
    pages[1].free()
    with pytest.raises(bufpool.StrayAccessError) as stray:
        pages[1][0]
    assert stray.value.report.state == "freed"
    assert (pages[0][:4], pool.allocate(b"once more")[:9]) == (b"back", b"once more")


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("trap", ["uffd", "mprotect"])
def test_huge_pages_run_out(make_pool: PoolMaker, trap: str) -> None:
    if trap == "uffd" and not CAPABILITIES.of("anon", "uffd").available:
        pytest.skip(f"hugetlb-uffd: {CAPABILITIES.of('anon', 'uffd').reason}")
    free = next(counts for counts in bufpool.hugepages.read_counts() if counts.size == HUGE).reservable
    exhaust(make_pool((free + 200) * HUGE, memory="hugetlb", page_size=None, granule=HUGE, trap=trap))


@pytest.mark.usefixtures("huge_pages")
def test_reserving_more_than_there_is_says_how_to_get_it() -> None:
    with pytest.raises(bufpool.PoolExhaustedError) as caught:
        bufpool.Pool("1 TiB", memory="hugetlb", page_size=None, granule=HUGE, reserve=True)
    assert f"{1 << 19} needed" in str(caught.value)
    assert "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages" in str(caught.value)
