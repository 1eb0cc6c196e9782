"""Huge pages and hugetlbfs mounts, read from texts as kernels write them, and from this system."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bufpool import hugepages

MEMINFO = """MemTotal:       24683996 kB
AnonHugePages:         0 kB
HugePages_Total:      12
HugePages_Free:        9
HugePages_Rsvd:        4
HugePages_Surp:        2
Hugepagesize:       2048 kB
Hugetlb:           24576 kB
"""

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
60 27 0:39 / /dev/hugepages rw,relatime shared:9 master:1 - hugetlbfs hugetlbfs rw,pagesize=2M
63 27 0:40 / /srv/a\040b\134c rw,nosuid,nodev,noexec - hugetlbfs bufpool rw,uid=26,gid=27,mode=700,pagesize=2M,size=16777216,min_size=4194304,noautofill
64 27 0:41 / /one rw - hugetlbfs none ro,pagesize=1024M,size=0
65 27 0:41 / /bound ro,relatime - hugetlbfs none rw,mode=1777,pagesize=2M
66 27 0:42 / /srv/hugetlbfs rw - tmpfs hugetlbfs rw,size=4k

cut short
"""  # noqa: E501 (one mount, one line)


# ---- Counts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sysfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory in its place; and MEMINFO for /proc/meminfo."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    monkeypatch.setattr(hugepages, "_MEMINFO", meminfo)
    monkeypatch.setattr(hugepages, "_SYSFS", tmp_path / "sysfs")
    return tmp_path / "sysfs"


def write_size(sysfs: Path, size: int, **counts: int) -> None:
    directory = sysfs / f"hugepages-{size >> 10}kB"
    directory.mkdir(parents=True)
    for name, count in counts.items():
        (directory / name).write_text(f"{count}\n")


def test_meminfo_has_the_default_size() -> None:
    counts = hugepages.parse_meminfo(MEMINFO)
    assert counts == hugepages.HugepageCounts(
        size=2**21, default=True, total=12, free=9, reserved=4, surplus=2, overcommit=0
    )


def test_meminfo_of_a_kernel_without_huge_pages() -> None:
    assert hugepages.parse_meminfo("MemTotal:       24683996 kB\nAnonHugePages:         0 kB\n") is None


def test_sysfs_has_every_size(sysfs: Path) -> None:
    write_size(sysfs, 2**30, nr_hugepages=3, free_hugepages=2, resv_hugepages=1)
    write_size(
        sysfs,
        2**21,
        nr_hugepages=12,
        free_hugepages=9,
        resv_hugepages=4,
        surplus_hugepages=2,
        nr_overcommit_hugepages=5,
    )
    small, large = hugepages.read_counts()
    assert small == hugepages.HugepageCounts(
        size=2**21, default=True, total=12, free=9, reserved=4, surplus=2, overcommit=5
    )
    assert large == hugepages.HugepageCounts(
        size=2**30, default=False, total=3, free=2, reserved=1, surplus=0, overcommit=0
    )


@pytest.mark.usefixtures("sysfs")
def test_without_sysfs_there_is_the_default_size() -> None:
    assert [counts.total for counts in hugepages.read_counts()] == [12]


def test_the_reserve_is_meminfo_s_for_the_default_size_and_else_sysfs_s(sysfs: Path) -> None:
    write_size(sysfs, 2**21, resv_hugepages=7)
    write_size(sysfs, 2**30, resv_hugepages=3)
    assert [hugepages.read_reserved(size) for size in (2**21, 2**30, 2**25)] == [4, 3, 0]


@pytest.mark.parametrize(
    ("free", "reserved", "surplus", "overcommit", "reservable"),
    [(9, 4, 0, 0, 5), (9, 9, 0, 0, 0), (9, 4, 2, 5, 8), (0, 0, 3, 1, 0), (1, 4, 0, 0, 0)],
)
def test_reservable_is_what_is_free_or_may_be_made(
    free: int, reserved: int, surplus: int, overcommit: int, reservable: int
) -> None:
    counts = hugepages.HugepageCounts(
        size=2**21, default=True, total=20, free=free, reserved=reserved, surplus=surplus, overcommit=overcommit
    )
    assert counts.reservable == reservable


@pytest.mark.parametrize(
    ("size", "default", "command"),
    [
        (2**21, True, "sysctl -w vm.nr_hugepages=17"),
        (2**30, False, "echo 17 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"),
    ],
)
def test_the_command_adds_to_the_pages_that_are_to_stay(size: int, default: bool, command: str) -> None:
    counts = hugepages.HugepageCounts(size=size, default=default, total=12, free=0, reserved=0, surplus=2, overcommit=2)
    assert counts.command_for(7) == command


# ---- Mounts ----------------------------------------------------------------------------------------------------------


def test_mounts_are_read_with_their_options() -> None:
    plain, private, one, bound = hugepages.parse_mounts(MOUNTINFO)
    assert private == hugepages.HugepageMount(
        path="/srv/a b\\c",
        page_size=2**21,
        size=2**24,
        min_size=2**22,
        uid=26,
        gid=27,
        mode=0o700,
        noautofill=True,
        read_only=False,
        options=("rw", "nosuid", "nodev", "noexec"),
    )
    assert (plain.path, plain.page_size, plain.size, plain.min_size) == ("/dev/hugepages", 2**21, None, 0)
    assert (plain.uid, plain.gid, plain.mode, plain.noautofill, plain.read_only) == (0, 0, 0o755, False, False)
    assert (one.page_size, one.size, one.read_only) == (2**30, 0, True)
    assert (bound.path, bound.mode, bound.read_only) == ("/bound", 0o1777, True)


def test_a_path_that_would_end_a_line_elsewhere_is_one_path() -> None:
    text = "60 27 0:39 / /a\f\u2028\\012b rw - hugetlbfs none rw,pagesize=2M\n"
    assert [mount.path for mount in hugepages.parse_mounts(text)] == ["/a\f\u2028\nb"]


@pytest.mark.parametrize("path", ["/plain", "/a b", "/tab\there", "/line\nbreak", "/back\\slash", "/#hash", "/\\040"])
def test_a_path_survives_escaping(path: str) -> None:
    text = hugepages.escaped(path)
    assert not re.search(r"[ \t\n#]", text)
    line = f"60 27 0:39 / {text} rw - hugetlbfs none rw,pagesize=2M"
    assert hugepages.parse_mounts(line)[0].path == path


@pytest.mark.parametrize(
    ("text", "size"), [("2M", 2**21), ("1024M", 2**30), ("64K", 2**16), ("4194304", 2**22), ("1g", 2**30), ("?", 0)]
)
def test_sizes_as_the_kernel_writes_them(text: str, size: int) -> None:
    assert hugepages.parse_size(text) == size


def test_of_mounts_over_one_another_the_last_counts() -> None:
    below = "60 27 0:39 / /x rw - hugetlbfs none rw,pagesize=2M\n"
    above = "61 60 0:40 / /x rw - tmpfs none rw\n"
    assert hugepages.kind_at("/x", below) == "hugetlbfs"
    assert hugepages.kind_at("/x", below + above) == "tmpfs"
    assert hugepages.kind_at("/y", below + above) is None


# ---- This system -----------------------------------------------------------------------------------------------------


def test_this_system_is_read_as_any_user() -> None:
    found = hugepages.read()
    default = hugepages.parse_meminfo(Path("/proc/meminfo").read_text())
    assert [counts.size for counts in found.counts if counts.default] == ([default.size] if default else [])
    assert [counts.size for counts in found.counts] == sorted({counts.size for counts in found.counts})
    kinds = re.findall(r" - (\S+) ", Path("/proc/self/mountinfo").read_text())
    assert len(found.mounts) == kinds.count("hugetlbfs")
    assert hugepages.mounted_at("/proc") == "proc"


@pytest.mark.parametrize("hidden", ["_SYSFS", "_MEMINFO", "_MOUNTINFO"])
def test_what_a_container_hides_is_missing_and_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: str
) -> None:
    whole = hugepages.read()
    monkeypatch.setattr(hugepages, hidden, tmp_path / "hidden")
    found = hugepages.read()
    assert len(found.counts) <= len(whole.counts)
    assert found.mounts == (() if hidden == "_MOUNTINFO" else whole.mounts)
