"""The mount helper's refusals: what it says to wrong arguments, and for each error of the kernel. As any user."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bufpool
from bufpool import _mount_calls, hugepages, mounting, owners, sizes

COUNTS = {counts.size: counts for counts in hugepages.read_counts()}
DEFAULT = next((counts.size for counts in COUNTS.values() if counts.default), 0)

needs_huge_pages = pytest.mark.skipif(not DEFAULT, reason="this kernel has no huge pages")


# ---- Arguments -------------------------------------------------------------------------------------------------------


@needs_huge_pages
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, ["size 0", "a multiple of the page size"]),
        ({"size": -1}, ["size -1", "a multiple of the page size"]),
        ({"size": DEFAULT + 4096}, [f"size {DEFAULT + 4096}", "a multiple of the page size"]),
        ({"size": "many"}, ["size 'many'", "is not a size"]),
        ({"size": DEFAULT, "min_size": 4096}, ["min_size 4096", "0 or a multiple of the page size"]),
        ({"size": DEFAULT, "min_size": ""}, ["min_size ''", "is not a size"]),
        ({"size": DEFAULT, "min_size": 2 * DEFAULT}, [f"min_size {2 * DEFAULT}", "at most size"]),
        ({"size": DEFAULT, "page_size": 4096}, ["page_size 4096", "that this machine has"]),
        ({"size": DEFAULT, "page_size": "3 MiB"}, ["page_size '3 MiB'", "that this machine has"]),
        ({"size": DEFAULT, "owner": "no such user"}, ["owner 'no such user'", "no user 'no such user'"]),
        ({"size": DEFAULT, "owner": "root:no such group"}, ["no group 'no such group'", "user:group"]),
        ({"size": DEFAULT, "owner": "0:"}, ["owner '0:'", "no group ''"]),
        ({"size": DEFAULT, "owner": -1}, ["owner -1", "from 0 to 4294967294"]),
        ({"size": DEFAULT, "owner": "4294967295:0"}, ["owner '4294967295:0'", "from 0 to 4294967294"]),
        ({"size": DEFAULT, "owner": 4294967294}, ["owner 4294967294", "'4294967294:gid'"]),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_with_what_would_be_right(
    tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(bufpool.ArgumentError) as caught:
        mounting.mount(tmp_path / "new", **options)
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


@needs_huge_pages
@pytest.mark.parametrize("options", [{"size": None}, {"size": True}, {"size": DEFAULT, "owner": 1.5}], ids=str)
def test_arguments_of_a_wrong_type(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(reversed(options))):
        mounting.mount(tmp_path / "new", **options)


@needs_huge_pages
@pytest.mark.parametrize("function", [lambda path: mounting.mount(path, size=DEFAULT), mounting.unmount])
@pytest.mark.parametrize(
    ("path", "error"), [("", bufpool.ArgumentError), ("a\0b", bufpool.ArgumentError), (7, TypeError)]
)
def test_a_path_that_is_none(function: Callable[[Any], Any], path: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="path"):
        function(path)


@needs_huge_pages
def test_a_machine_s_page_sizes_are_named(tmp_path: Path) -> None:
    with pytest.raises(bufpool.ArgumentError) as caught:
        mounting.mount(tmp_path / "new", size=DEFAULT, page_size=4096)
    for size in COUNTS:
        assert sizes.text(size) in str(caught.value)


def test_owners_are_names_or_numbers() -> None:
    assert owners.parse_owner(None) == (os.geteuid(), os.getegid())
    assert owners.parse_owner("root") == (0, 0)
    assert owners.parse_owner(0) == (0, 0)
    assert owners.parse_owner("0") == (0, 0)
    assert owners.parse_owner("root:4321") == (0, 4321)
    assert owners.parse_owner("1234:root") == (1234, 0)


def test_a_kernel_without_huge_pages_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hugepages, "read_counts", tuple)
    with pytest.raises(bufpool.UnsupportedError, match="no huge pages"):
        mounting.mount(tmp_path / "new", size="2 MiB")


def test_unmount_refuses_what_is_no_hugetlbfs(tmp_path: Path) -> None:
    with pytest.raises(bufpool.ArgumentError, match="nothing is mounted there"):
        mounting.unmount(tmp_path)
    with pytest.raises(bufpool.ArgumentError, match="proc is mounted there, and stays"):
        mounting.unmount("/proc")


# ---- The kernel's errors ---------------------------------------------------------------------------------------------


REFUSALS: dict[str, tuple[str, dict[str, Any], type[bufpool.BufpoolError], str]] = {
    "privilege": ("EPERM", {}, bufpool.UnsupportedError, "user namespace"),
    "no hugetlbfs": ("ENODEV", {}, bufpool.UnsupportedError, "no hugetlbfs"),
    "no noautofill": ("EINVAL", {"noautofill": True}, bufpool.UnsupportedError, "has no noautofill.*uffd"),
    "other": ("EINVAL", {}, bufpool.SystemCallError, "pagesize=.*Invalid argument"),
    "no huge pages": ("ENOMEM", {"min_size": DEFAULT}, bufpool.PoolExhaustedError, "needs 1 huge pages.*nr_hugepages="),
}


@needs_huge_pages
@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_of_the_kernel_has_its_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    code, options, error, words = REFUSALS[name]
    monkeypatch.setattr(_mount_calls, "privileged", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr(
        _mount_calls, "mount", lambda _path, text: asked.extend(text.split(",")) or getattr(errno, code)
    )
    with pytest.raises(error, match=words):
        mounting.mount(tmp_path / "new", size=DEFAULT, **options)
    assert not list(tmp_path.iterdir())
    assert ("noautofill" in asked) == options.get("noautofill", False)
    assert {f"pagesize={DEFAULT >> 10}K", f"size={DEFAULT}", f"uid={os.geteuid()}", "mode=0700"} <= set(asked)
