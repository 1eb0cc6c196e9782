"""Pools that cannot be seen from outside are named all the same; what is not as it should be harms nobody."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import NATIVE, PAGE, PoolMaker

from bufpool import outside_private as private


def test_all_open_pools_are_named(make_pool: PoolMaker) -> None:
    make_pool(64 * PAGE, name="one")
    make_pool(64 * PAGE, memory="shared", name="two")
    make_pool(64 * PAGE, name="gone").close()
    found = {pool.name: pool for pool in private.pools_of(os.getpid())}
    assert sorted(found) == ["one", "two"]
    assert str(found["one"]) == '"one" (anon, 256 KiB)'
    assert [pool.name for pool in private.private_of(os.getpid())] == ["one"]


def test_a_process_without_the_library_or_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert private.pools_of(other.pid) == ()
        assert other.stdin is not None
        other.stdin.close()
    assert private.pools_of(other.pid) == ()


def layout(version: int = private.VERSION, size: int = 1 << 31, first: int = 8, **places: tuple[int, int]) -> bytes:
    good = {name: (n * 8, 8) for n, name in enumerate(("next", "first", "capacity", "name", "memory", "closed"))}
    head = struct.pack("=16sII16sQq", private.MAGIC, version, size, b"0", first, 0)
    return head + b"".join(
        struct.pack("=24sII", f"pool.{name}".encode(), *place) for name, place in (good | places).items()
    )


@pytest.fixture
def read_layout(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, bytes], tuple[private.AnyPool, ...]]:
    """Reads this process as if that layout were what a library has."""

    def read(content: bytes, pool: bytes) -> tuple[private.AnyPool, ...]:
        kept = ctypes.create_string_buffer(content, len(content))
        other = ctypes.create_string_buffer(pool, len(pool))
        whole = content.replace(struct.pack("Q", 8), struct.pack("Q", ctypes.addressof(other)), 1)
        kept.raw = whole
        start = ctypes.addressof(kept)

        class Maps:
            def __init__(self, path: str) -> None:
                assert path == f"/proc/{os.getpid()}/maps"

            def read_text(self, **_: object) -> str:
                return (
                    "1000-2000 r-xp 00000000 08:01 77 /lib/library.so\n"
                    f"{start:x}-{start + len(whole):x} rw-p 00000000 08:01 77 /lib/library.so\n"
                )

        monkeypatch.setattr(private, "Path", Maps)
        return private.pools_of(os.getpid())

    return read


POOL = struct.pack("QQQ8s8sQ", 0, 4096, 8192, b"\x1b[2J", b"anon", 0)


def test_hostile_memory(read_layout: Callable[[bytes, bytes], tuple[private.AnyPool, ...]]) -> None:
    (pool,) = read_layout(layout(), POOL)
    assert (pool.name, pool.capacity) == (r"\x1b[2J", 8192)
    for content in (
        layout(version=99),
        layout(size=80),
        layout(next=(2**32 - 1, 2**32 - 1)),
        layout(name=(0, 0)),
        layout(first=2**64 - 1),
        layout(closed=(2**20, 8)),
        layout()[:100],
        private.MAGIC,
    ):
        assert read_layout(content, POOL) == ()


def test_a_list_that_never_ends(read_layout: Callable[[bytes, bytes], tuple[private.AnyPool, ...]]) -> None:
    """Its next is the pool itself."""
    loop = layout(next=(0, 8))
    pool = ctypes.create_string_buffer(POOL, len(POOL))
    pool.raw = struct.pack("Q", ctypes.addressof(pool)) + POOL[8:]
    content = loop.replace(struct.pack("Q", 8), struct.pack("Q", ctypes.addressof(pool)), 1)
    assert len(read_layout(content, POOL)) == 1


def test_data_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them a process has mapped: to read them would take time, and memory of that process."""
    (tmp_path / "data").write_bytes(bytes(4 * PAGE))
    read, parts = private._read, []

    def recorded(fd: int, address: int, size: int) -> bytes:
        parts.append((address, size))
        return read(fd, address, size)

    monkeypatch.setattr(private, "_read", recorded)
    with (tmp_path / "data").open("r+b") as file, mmap.mmap(file.fileno(), 4 * PAGE, mmap.MAP_PRIVATE):
        (line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
        private.pools_of(os.getpid())
    assert parts
    assert int(line.split("-")[0], 16) not in dict(parts)
    parts.clear()
    monkeypatch.setattr(private, "_ALL_MOST", 3 * PAGE)
    private.pools_of(os.getpid())
    assert sum(size for _, size in parts) == 3 * PAGE


def test_the_layout_is_that_of_the_library() -> None:
    source = "".join((NATIVE / "src" / f"postmortem.{kind}").read_text(encoding="utf-8") for kind in "hc")
    assert f"#define BP_POSTMORTEM_VERSION {private.VERSION}\n" in source
    assert f"offsetof(struct bp_postmortem, fields) == {private._FIELDS_AT}," in source
