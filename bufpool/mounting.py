"""mount() and unmount(): a private hugetlbfs mount with a reserved minimum, for one application."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from pathlib import Path

from bufpool import _mount_calls, hugepages, sizes
from bufpool.arguments import c_path
from bufpool.errors import ArgumentError, BufpoolError, SystemCallError, UnsupportedError, failure
from bufpool.hugepages import HugepageCounts, HugepageMount
from bufpool.owners import parse_owner

_MODE = 0o700
# Another program may reserve or take huge pages between the two looks at the reserve.
_ATTEMPTS = 3
_CHECKED = ("page_size", "size", "min_size", "uid", "gid", "mode", "noautofill", "read_only")

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class _ReserveError(BufpoolError):
    """The reserve did not rise as it should have."""


def mount(
    path: PathLike,
    *,
    size: sizes.Size,
    min_size: sizes.Size = 0,
    page_size: sizes.Size | None = None,
    owner: str | int | None = None,
    noautofill: bool = False,
) -> HugepageMount:
    """Mounts a hugetlbfs of one application's own at path, and checks that it is what was asked for.

    size limits what its files hold together, min_size is reserved for them, page_size is by default the machine's
    default huge page. owner, by default the caller, is "user", "user:group", a uid or "uid:gid"; other users may not
    enter. With noautofill a hole in a file traps whoever touches it; few kernels have that. A directory that is
    missing is made. On any error nothing stays behind.

    Needs CAP_SYS_ADMIN. Raises ArgumentError, TypeError; UnsupportedError without privilege, or if the kernel cannot;
    PoolExhaustedError, with the command that helps, if min_size cannot be reserved; SystemCallError; BufpoolError if
    the mount is not what was asked for. Not to be called twice at once: each call watches the reserve rise.
    """
    counts = _counts(page_size)
    limit, minimum = _sizes(size, min_size, counts.size)
    uid, gid = parse_owner(owner)
    wanted = HugepageMount(
        path=_real(path),
        page_size=counts.size,
        size=limit,
        min_size=minimum,
        uid=uid,
        gid=gid,
        mode=_MODE,
        noautofill=bool(noautofill),
        read_only=False,
        options=tuple(_mount_calls.FLAGS),
    )
    if not _mount_calls.privileged():
        raise _unprivileged(f"mount {wanted.path}")
    made = _make_directory(wanted.path)
    try:
        return _mount_and_check(wanted)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                Path(wanted.path).rmdir()
        raise


def unmount(path: PathLike) -> None:
    """Takes a hugetlbfs mount away, with its files and its reserve; the directory stays.

    Needs CAP_SYS_ADMIN. Raises ArgumentError if no hugetlbfs is mounted there, SystemCallError (EBUSY) if it is in
    use, UnsupportedError without privilege.
    """
    where = _real(path)
    kind = hugepages.mounted_at(where)
    if kind != "hugetlbfs":
        there = "nothing is mounted there" if kind is None else f"{kind} is mounted there, and stays"
        raise ArgumentError(f"path {where!r} must be a hugetlbfs mount: {there}")
    code = _mount_calls.unmount(where) if _mount_calls.privileged() else errno.EPERM
    if code == errno.EPERM:
        raise _unprivileged(f"unmount {where}")
    if code == errno.EBUSY:
        who = f"fuser -vm {shlex.quote(where)}"
        raise SystemCallError(
            code, f"{where} is in use: close its pools and files, and leave it ({who} says who has it)"
        )
    if code:
        raise failure(-code, f"cannot unmount {where}")


def fstab_line(mounted: HugepageMount) -> str:
    """The line of /etc/fstab that makes the same mount at boot, directory included."""
    options = ",".join([*_mount_calls.FLAGS, "x-mount.mkdir", _options(mounted)])
    return f"{_mount_calls.SOURCE} {hugepages.escaped(mounted.path)} hugetlbfs {options} 0 0"


# ---- Arguments -------------------------------------------------------------------------------------------------------


def _real(path: PathLike) -> str:
    c_path(path, "path")  # for its errors
    text = os.fsdecode(path)
    if not text:
        raise ArgumentError("path '' must name a directory")
    return os.path.realpath(text)


def _counts(page_size: sizes.Size | None) -> HugepageCounts:
    have = hugepages.read_counts()
    if not have:
        raise UnsupportedError(errno.EOPNOTSUPP, "this kernel has no huge pages, or /proc and /sys are hidden")
    wanted = None if page_size is None else sizes.parse(page_size, "page_size")
    for counts in have:
        if counts.size == wanted or (wanted is None and counts.default):
            return counts
    names = ", ".join(sizes.text(counts.size) for counts in have)
    raise ArgumentError(f"page_size {page_size!r} must be a size of huge page that this machine has: {names}")


def _sizes(size: sizes.Size, min_size: sizes.Size, page_size: int) -> tuple[int, int]:
    limit = _multiple(size, "size", page_size, "a multiple of")
    minimum = 0 if min_size in (0, "0") else _multiple(min_size, "min_size", page_size, "0 or a multiple of")
    if minimum > limit:
        raise ArgumentError(f"min_size {min_size!r} must be at most size, which is {sizes.text(limit)}")
    return limit, minimum


def _multiple(value: sizes.Size, what: str, page_size: int, wanted: str) -> int:
    limits = f"{wanted} the page size, {sizes.text(page_size)}"
    result = sizes.parse(value, what, limits)
    if result % page_size:
        raise ArgumentError(f"{what} {value!r} must be {limits}")
    return result


def _make_directory(path: str) -> bool:
    """Makes the directory if it is missing, and says whether it did; refuses what is no place for a mount."""
    kind = hugepages.mounted_at(path)
    if kind is not None:
        raise ArgumentError(f"path {path!r} must not be a mount point already: {kind} is mounted there")
    try:
        Path(path).mkdir(mode=_MODE)
    except FileExistsError:
        _refuse_unless_empty(path)
        return False
    except (FileNotFoundError, NotADirectoryError):
        raise ArgumentError(f"path {path!r} must lie in a directory that exists") from None
    except OSError as error:
        raise failure(-(error.errno or errno.EIO), f"cannot make the directory {path}") from None
    return True


def _refuse_unless_empty(path: str) -> None:
    try:
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
    except NotADirectoryError:
        raise ArgumentError(f"path {path!r} must be a directory, or missing") from None
    except OSError as error:
        raise failure(-(error.errno or errno.EIO), f"cannot read the directory {path}") from None
    if not empty:
        raise ArgumentError(f"path {path!r} must be an empty directory: the mount would hide its files")


# ---- Mounting --------------------------------------------------------------------------------------------------------


def _mount_and_check(wanted: HugepageMount, attempts: int = _ATTEMPTS) -> HugepageMount:
    before = hugepages.read_reserved(wanted.page_size)
    code = _mount_calls.mount(wanted.path, _options(wanted))
    if code:
        raise _refusal(code, wanted)
    try:
        _check_reserve(wanted, before)
        return _check_mount(wanted)
    except BaseException as error:
        # Detached: it goes even if something has looked into it meanwhile.
        _mount_calls.unmount(wanted.path, detach=True)
        if not isinstance(error, _ReserveError) or attempts == 1:
            raise
    return _mount_and_check(wanted, attempts - 1)


def _options(mounted: HugepageMount) -> str:
    """For the file system, as mount(2) takes them."""
    parts = [f"pagesize={mounted.page_size >> 10}K"]
    parts += [] if mounted.size is None else [f"size={mounted.size}"]
    parts += [f"min_size={mounted.min_size}"] if mounted.min_size else []
    parts += [f"uid={mounted.uid}", f"gid={mounted.gid}", f"mode={mounted.mode:04o}"]
    return ",".join([*parts, "noautofill"] if mounted.noautofill else parts)


def _check_reserve(wanted: HugepageMount, before: int) -> None:
    rose, right = hugepages.read_reserved(wanted.page_size) - before, wanted.min_size // wanted.page_size
    if rose != right:
        raise _ReserveError(
            f"mounting {wanted.path} should have raised the reserve by {right} huge pages of "
            f"{sizes.text(wanted.page_size)}, and changed it by {rose}: unmounted again. Do other programs reserve or "
            "take huge pages just now? Then try once more"
        )


def _check_mount(wanted: HugepageMount) -> HugepageMount:
    mounted = next((each for each in reversed(hugepages.read_mounts()) if each.path == wanted.path), None)
    if mounted is None:
        raise BufpoolError(f"{wanted.path} was mounted, and is not among the mounts of hugetlbfs: unmounted again")
    wrong = [
        f"{name} is {getattr(mounted, name)} in place of {getattr(wanted, name)}"
        for name in _CHECKED
        if getattr(mounted, name) != getattr(wanted, name)
    ]
    wrong += [f"{name} is missing" for name in wanted.options if name not in mounted.options]
    if wrong:
        raise BufpoolError(f"{wanted.path} is not mounted as asked: {', '.join(wrong)}: unmounted again")
    return mounted


# ---- Errors ----------------------------------------------------------------------------------------------------------


def _refusal(code: int, wanted: HugepageMount) -> BufpoolError:
    if code == errno.EPERM:
        return _unprivileged(f"mount {wanted.path}")
    if code == errno.ENODEV:
        return UnsupportedError(errno.EOPNOTSUPP, "this kernel has no hugetlbfs; memory 'thp' needs none")
    # The other options have been checked, so this is the one that EINVAL is about.
    if code == errno.EINVAL and wanted.noautofill:
        return UnsupportedError(
            errno.EOPNOTSUPP,
            "this kernel has no noautofill: its hugetlbfs refuses the option (EINVAL); mount without it, "
            "and use trap 'uffd'",
        )
    if code == errno.ENOMEM and wanted.min_size:
        return failure(-code, _shortage(wanted))
    return failure(-code, f"cannot mount hugetlbfs at {wanted.path} with {_options(wanted)}")


def _shortage(wanted: HugepageMount) -> str:
    now = next(counts for counts in hugepages.read_counts() if counts.size == wanted.page_size)
    needed = wanted.min_size // wanted.page_size
    return (
        f"min_size {sizes.text(wanted.min_size)} needs {needed} huge pages of {sizes.text(wanted.page_size)}, and "
        f"{now.reservable} can be reserved ({now.free} are free, {now.reserved} of these reserved already). "
        f"As root: {now.command_for(max(1, needed - now.reservable))}"
    )


def _unprivileged(deed: str) -> UnsupportedError:
    return UnsupportedError(
        errno.EOPNOTSUPP,
        f"cannot {deed}: that needs CAP_SYS_ADMIN (root, and not of a user namespace); "
        "memory 'hugetlb' needs neither a mount nor privilege",
    )
