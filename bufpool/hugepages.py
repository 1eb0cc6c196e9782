"""The huge pages of this machine: how many of each size, and the hugetlbfs mounts. Reads only, and as any user."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

_SYSFS = Path("/sys/kernel/mm/hugepages")
_MEMINFO = Path("/proc/meminfo")
_MOUNTINFO = Path("/proc/self/mountinfo")
_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


@attrs.frozen(kw_only=True)
class HugepageCounts:
    """The huge pages of one size. All but size are counts of pages."""

    size: int  # bytes of one
    default: bool  # what a mount or a memfd gets that asks for no size
    total: int  # surplus ones included
    free: int  # reserved ones included
    reserved: int  # promised and not yet taken
    surplus: int  # beyond nr_hugepages, made on demand
    overcommit: int  # how many surplus ones there may be

    @property
    def reservable(self) -> int:
        """How many can be promised to somebody now."""
        return max(0, self.free - self.reserved + max(0, self.overcommit - self.surplus))

    def command_for(self, more: int) -> str:
        """The command, for root, that makes `more` further pages reservable."""
        count = self.total - self.surplus + more
        if self.default:
            return f"sysctl -w vm.nr_hugepages={count}"
        return f"echo {count} > {_SYSFS}/hugepages-{self.size >> 10}kB/nr_hugepages"


@attrs.frozen(kw_only=True)
class HugepageMount:
    """One hugetlbfs mount. Sizes are bytes."""

    path: str
    page_size: int
    size: int | None  # what its files may hold together; None: no limit
    min_size: int  # reserved for its files
    uid: int  # the owner of its root directory
    gid: int
    mode: int  # the root directory's permissions
    noautofill: bool
    read_only: bool
    options: tuple[str, ...]  # of the mount, as mountinfo has them: "nosuid" and the like
    total: int | None = None  # by statvfs; None: no limit, or not to be known by this user
    free: int | None = None
    writable: bool = False  # whether this user may create a file in it


@attrs.frozen
class Hugepages:
    """What read() finds."""

    counts: tuple[HugepageCounts, ...]  # by size
    mounts: tuple[HugepageMount, ...]  # in the order they were mounted


def read() -> Hugepages:
    """The machine's huge pages and mounts; empty where the kernel has none or /proc and /sys are hidden."""
    return Hugepages(read_counts(), read_mounts())


# ---- Counts ----------------------------------------------------------------------------------------------------------


def read_counts() -> tuple[HugepageCounts, ...]:
    """The counts of every size. Without sysfs only those of the default size, which /proc/meminfo has."""
    default = parse_meminfo(_text(_MEMINFO))
    found = {default.size: default} if default else {}
    for directory in _SYSFS.glob("hugepages-*kB"):
        size = int(directory.name[len("hugepages-") : -len("kB")]) << 10
        found[size] = _counts_of(directory, size, default is not None and size == default.size)
    return tuple(found[size] for size in sorted(found))


def read_reserved(size: int) -> int:
    """How many huge pages of one size are reserved: by /proc/meminfo for the default size, else by sysfs."""
    default = parse_meminfo(_text(_MEMINFO))
    found = (default,) if default and default.size == size else read_counts()
    return sum(counts.reserved for counts in found if counts.size == size)


def parse_meminfo(text: str) -> HugepageCounts | None:
    """The default size's counts, from the text of /proc/meminfo; None when the kernel has no huge pages."""
    values = {name: int(value) for name, value in re.findall(r"^(Huge\w+):\s*(\d+)", text, re.MULTILINE)}
    if "Hugepagesize" not in values:
        return None
    return HugepageCounts(
        size=values["Hugepagesize"] << 10,
        default=True,
        total=values.get("HugePages_Total", 0),
        free=values.get("HugePages_Free", 0),
        reserved=values.get("HugePages_Rsvd", 0),
        surplus=values.get("HugePages_Surp", 0),
        overcommit=0,
    )


def _counts_of(directory: Path, size: int, default: bool) -> HugepageCounts:
    def count(name: str) -> int:
        return int(_text(directory / name).strip() or 0)

    return HugepageCounts(
        size=size,
        default=default,
        total=count("nr_hugepages"),
        free=count("free_hugepages"),
        reserved=count("resv_hugepages"),
        surplus=count("surplus_hugepages"),
        overcommit=count("nr_overcommit_hugepages"),
    )


def _text(path: Path) -> str:
    """A file's text; empty when it is not there or may not be read. Paths need not be UTF-8."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""


# ---- Mounts ----------------------------------------------------------------------------------------------------------


def read_mounts() -> tuple[HugepageMount, ...]:
    """The hugetlbfs mounts that this process sees, with what the system says of each now."""
    return tuple(_now(mount) for mount in parse_mounts(_text(_MOUNTINFO)))


def parse_mounts(mountinfo: str) -> tuple[HugepageMount, ...]:
    """The hugetlbfs mounts in the text of /proc/self/mountinfo, owner and mode as they were when mounted."""
    return tuple(
        _mount(path, own, of_filesystem) for path, kind, own, of_filesystem in _lines(mountinfo) if kind == "hugetlbfs"
    )


def mounted_at(path: str) -> str | None:
    """The kind of file system that is mounted at an absolute path without symbolic links, None if none is."""
    return kind_at(path, _text(_MOUNTINFO))


def kind_at(path: str, mountinfo: str) -> str | None:
    """The same by the text of /proc/self/mountinfo. Of mounts over one another the last counts."""
    kinds = [kind for where, kind, _, _ in _lines(mountinfo) if where == path]
    return kinds[-1] if kinds else None


def _lines(mountinfo: str) -> Iterator[tuple[str, str, str, str]]:
    """Of each mount its path, kind, own options, and those of the file system."""
    # Not splitlines(): a path may hold a form feed or another character that would end a line there.
    for line in mountinfo.split("\n"):
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if separator and len(fields) >= 6 and len(rest) >= 3:
            yield _unescaped(fields[4]), rest[0], fields[5], rest[-1]


def _unescaped(text: str) -> str:
    r"""The kernel writes a blank as \040, and likewise tab, newline, backslash, number sign."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def escaped(path: str) -> str:
    """A path as mountinfo and /etc/fstab write it."""
    return re.sub(r"[ \t\n\\#]", lambda match: f"\\{ord(match[0]):03o}", path)


def _mount(path: str, own: str, of_filesystem: str) -> HugepageMount:
    options = {name: value for name, _, value in (option.partition("=") for option in of_filesystem.split(","))}
    return HugepageMount(
        path=path,
        page_size=parse_size(options.get("pagesize", "0")),
        size=parse_size(options["size"]) if "size" in options else None,
        min_size=parse_size(options.get("min_size", "0")),
        uid=int(options.get("uid", 0)),
        gid=int(options.get("gid", 0)),
        mode=int(options.get("mode", "755"), 8),
        noautofill="noautofill" in options,
        read_only="ro" in options or "ro" in own.split(","),
        options=tuple(own.split(",")),
    )


def parse_size(text: str) -> int:
    """Bytes, from a size as the kernel writes it: 2M, 1024M, 4194304."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text, re.IGNORECASE)
    return int(match[1]) << _SUFFIXES[match[2].upper()] if match else 0


def _now(mount: HugepageMount) -> HugepageMount:
    """With the space, and with owner and mode as they are: somebody may have changed them since."""
    try:
        status, space = os.stat(mount.path), os.statvfs(mount.path)  # noqa: PTH116 (a path need not be a Path)
    except OSError:
        return mount
    return attrs.evolve(
        mount,
        uid=status.st_uid,
        gid=status.st_gid,
        mode=status.st_mode & 0o7777,
        total=None if mount.size is None else space.f_blocks * space.f_frsize,
        free=None if mount.size is None else space.f_bavail * space.f_frsize,
        writable=not mount.read_only and os.access(mount.path, os.W_OK | os.X_OK, effective_ids=True),
    )
