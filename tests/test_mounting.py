"""The mount helper. What mounts does so in a child with mounts of its own, and the system's huge pages are put back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bufpool import _mount_calls, hugepages

COUNTS = {counts.size: counts for counts in hugepages.read_counts()}
DEFAULT = next((counts.size for counts in COUNTS.values() if counts.default), 0)
WANTED = 8  # huge pages, for the tests that reserve some
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
pytestmark = pytest.mark.usefixtures("_setting_kept")

Run = Callable[[str], "subprocess.CompletedProcess[str]"]

# What a child sees and does to its mounts stays its own.
PRIVATE = """
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0, os.strerror(ctypes.get_errno())
"""

PRELUDE = """
from pathlib import Path
import errno
import attrs
from bufpool import _mount_calls, hugepages, mounting
PLACE = Path({place!r})
SIZE = {size}
def refused(kind, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except kind as error:
        return str(error)
    raise AssertionError("it was not refused")
def mounts():
    return [mount.path for mount in hugepages.read_mounts() if mount.path.startswith(str(PLACE))]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="bufpool test ") as name:
        path = Path(name).resolve()
        path.chmod(0o755)
        yield path


@pytest.fixture
def private(place: Path, child: Any) -> Run:
    """Runs a program in a child with mounts of its own, that prints "done" at its end."""
    if not DEFAULT:
        pytest.skip("this kernel has no huge pages")
    if os.geteuid() or not _mount_calls.privileged():
        pytest.skip("mounting needs root with CAP_SYS_ADMIN")

    def run(program: str) -> subprocess.CompletedProcess[str]:
        prelude = PRIVATE + PRELUDE.format(place=str(place), size=DEFAULT)
        done: subprocess.CompletedProcess[str] = child(f"{prelude}\n{program}\nprint('done')\n")
        assert (done.returncode, done.stdout.split()[-1:]) == (0, ["done"]), done.stderr
        return done

    return run


@pytest.fixture
def reservable(private: Run) -> Iterator[Run]:
    """The same, with WANTED huge pages of the default size that can be reserved."""
    before = int(NR_HUGEPAGES.read_text())
    missing = max(0, WANTED - default_counts().reservable)
    try:
        NR_HUGEPAGES.write_text(str(before + missing))
        if default_counts().reservable < WANTED:
            pytest.skip(f"the system cannot find {WANTED} huge pages: its memory is fragmented")
        yield private
    finally:
        NR_HUGEPAGES.write_text(str(before))


def default_counts() -> hugepages.HugepageCounts:
    return next(counts for counts in hugepages.read_counts() if counts.default)


# ---- Without privilege -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DEFAULT, reason="this kernel has no huge pages")
def test_without_privilege_both_say_what_is_needed_and_touch_nothing(child: Any, place: Path) -> None:
    line = f"60 20 0:1 / {hugepages.escaped(str(place))} rw - hugetlbfs none rw,pagesize=2M\n"
    program = f"""
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
print(refused(bufpool.UnsupportedError, mounting.mount, PLACE / "new", size=SIZE))
print(refused(bufpool.UnsupportedError, mounting.mount, "/proc/new", size=SIZE))
hugepages.mounted_at = lambda path: hugepages.kind_at(path, {line!r})
print(refused(bufpool.UnsupportedError, mounting.unmount, PLACE))
"""
    place.chmod(0o777)
    done = child(PRELUDE.format(place=str(place), size=DEFAULT) + program)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [("CAP_SYS_ADMIN" in line, "root" in line) for line in lines] == [(True, True)] * 3
    assert not list(place.iterdir())


# ---- Real mounts -----------------------------------------------------------------------------------------------------


def test_a_mount_is_what_was_asked_for_and_reserves_its_minimum(reservable: Run) -> None:
    reservable("""
before = hugepages.read_reserved(SIZE)
mounted = mounting.mount(PLACE / "a b", size=8 * SIZE, min_size=4 * SIZE, owner="65534:65533")
assert hugepages.read_reserved(SIZE) == before + 4
assert mounted in hugepages.read_mounts()
assert (mounted.path, mounted.page_size) == (str(PLACE / "a b"), SIZE)
assert (mounted.size, mounted.min_size) == (8 * SIZE, 4 * SIZE)
assert (mounted.total, mounted.free) == (8 * SIZE, 8 * SIZE)
assert (mounted.uid, mounted.gid, mounted.mode) == (65534, 65533, 0o700)
assert not mounted.noautofill and not mounted.read_only and mounted.writable
assert {"nosuid", "nodev", "noexec"} <= set(mounted.options)

again = refused(bufpool.ArgumentError, mounting.mount, PLACE / "a b", size=SIZE)
assert "must not be a mount point already: hugetlbfs" in again, again

mounting.unmount(PLACE / "a b")
assert hugepages.read_reserved(SIZE) == before
assert mounts() == [] and (PLACE / "a b").is_dir()

plain = mounting.mount(PLACE / "a b", size=SIZE, page_size=SIZE)
assert (plain.size, plain.min_size, plain.uid) == (SIZE, 0, 0)
assert hugepages.read_reserved(SIZE) == before
""")


def test_only_the_owner_uses_it_and_size_is_the_limit(reservable: Run) -> None:
    reservable("""
mounting.mount(PLACE / "own", size=2 * SIZE, min_size=2 * SIZE, owner="65534:65534")
def tried(uid):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        try:
            file = os.open(PLACE / "own" / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.posix_fallocate(file, 0, 2 * SIZE)
            os.posix_fallocate(file, 0, 3 * SIZE)
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno].encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reader, 100).decode()
assert tried(65533) == "EACCES"
assert tried(65534) == "ENOSPC"
[mounted] = [mount for mount in hugepages.read_mounts() if mount.path == str(PLACE / "own")]
assert (mounted.total, mounted.free) == (2 * SIZE, 0)
""")


def test_too_few_huge_pages_are_refused_with_the_command(private: Run) -> None:
    private("""
counts = next(counts for counts in hugepages.read_counts() if counts.default)
pages = counts.reservable + (1 << 24)
sentence = refused(bufpool.PoolExhaustedError, mounting.mount, PLACE / "x", size=pages * SIZE, min_size=pages * SIZE)
assert f"needs {pages} huge pages" in sentence, sentence
assert f"{counts.free} are free" in sentence and f"{counts.reservable} can be reserved" in sentence, sentence
assert f"sysctl -w vm.nr_hugepages={counts.total - counts.surplus + (1 << 24)}" in sentence, sentence
assert mounts() == [] and not (PLACE / "x").exists()
""")


@pytest.mark.skipif(len(COUNTS) < 2, reason="this machine has one size of huge page")
def test_huge_pages_of_another_size(private: Run) -> None:
    other = next(size for size in COUNTS if size != DEFAULT)
    private(f"""
mounted = mounting.mount(PLACE / "other", size={2 * other}, page_size={other})
assert (mounted.page_size, mounted.size, mounted.total) == ({other}, {2 * other}, {2 * other})
""")


def test_a_kernel_without_noautofill_says_so(private: Run) -> None:
    private("""
try:
    mounted = mounting.mount(PLACE / "x", size=SIZE, noautofill=True)
except bufpool.UnsupportedError as error:
    assert "no noautofill" in str(error) and "'uffd'" in str(error), error
    assert mounts() == [] and not (PLACE / "x").exists()
else:
    assert mounted.noautofill
""")


def test_places_where_nothing_can_be_mounted(private: Run) -> None:
    private("""
(PLACE / "full").mkdir()
(PLACE / "full" / "file").touch()
(PLACE / "file").touch()
for path, words in [
    ("full", "must be an empty directory"),
    ("file", "must be a directory, or missing"),
    ("file/below", "must lie in a directory that exists"),
    ("no/where", "must lie in a directory that exists"),
    ("../../proc", "must not be a mount point already: proc"),
]:
    sentence = refused(bufpool.ArgumentError, mounting.mount, PLACE / path, size=SIZE)
    assert words in sentence, sentence
assert "name too long" in refused(bufpool.SystemCallError, mounting.mount, PLACE / ("x" * 300), size=SIZE)
assert mounts() == [] and sorted(path.name for path in PLACE.iterdir()) == ["file", "full"]
""")


def test_symbolic_links_are_followed_to_the_mount(private: Run) -> None:
    private("""
(PLACE / "real").mkdir()
(PLACE / "link").symlink_to("real")
os.chdir(PLACE)
assert mounting.mount("link", size=SIZE).path == str(PLACE / "real")
mounting.unmount(b"link")
assert mounts() == []
""")


def test_what_is_not_as_asked_is_unmounted_again(reservable: Run) -> None:
    reservable("""
real_reserved, real_mounts, tries = hugepages.read_reserved, hugepages.parse_mounts, []
before = real_reserved(SIZE)

hugepages.read_reserved = lambda size: tries.append(size) or 5
sentence = refused(bufpool.BufpoolError, mounting.mount, PLACE / "x", size=SIZE, min_size=SIZE)
assert "raised the reserve by 1" in sentence and "changed it by 0" in sentence, sentence
assert len(tries) == 6  # three attempts: another program may have been at it
hugepages.read_reserved = real_reserved
assert mounts() == [] and not (PLACE / "x").exists()

(PLACE / "kept").mkdir()
hugepages._now = lambda mount: attrs.evolve(mount, uid=7, options=("rw", "nodev"))
sentence = refused(bufpool.BufpoolError, mounting.mount, PLACE / "kept", size=SIZE, min_size=SIZE)
assert "uid is 7 in place of 0, nosuid is missing, noexec is missing: unmounted" in sentence, sentence

hugepages.parse_mounts = lambda text: ()
sentence = refused(bufpool.BufpoolError, mounting.mount, PLACE / "kept", size=SIZE)
assert "not among the mounts" in sentence, sentence
hugepages.parse_mounts = real_mounts
assert mounts() == [] and (PLACE / "kept").is_dir()
assert real_reserved(SIZE) == before
""")


def test_another_program_s_reserve_meanwhile_is_tried_again(reservable: Run) -> None:
    reservable("""
real, calls = hugepages.read_reserved, []
hugepages.read_reserved = lambda size: calls.append(size) or real(size) + (len(calls) == 2)
assert mounting.mount(PLACE / "x", size=SIZE, min_size=SIZE).min_size == SIZE
assert len(calls) == 4
assert mounts() == [str(PLACE / "x")]
""")


def test_a_mount_in_use_stays(private: Run) -> None:
    private("""
mounting.mount(PLACE / "busy", size=SIZE)
with open(PLACE / "busy" / "file", "wb"):
    sentence = refused(bufpool.SystemCallError, mounting.unmount, PLACE / "busy")
    assert "is in use" in sentence and "fuser" in sentence, sentence
    assert mounts() == [str(PLACE / "busy")]
mounting.unmount(PLACE / "busy")
assert mounts() == []
""")


def test_the_line_for_fstab_makes_the_same_mount(reservable: Run) -> None:
    reservable("""
import subprocess
mounted = mounting.mount(PLACE / "a b", size=4 * SIZE, min_size=2 * SIZE, owner="65534:65534")
mounting.unmount(PLACE / "a b")
(PLACE / "a b").rmdir()
table = PLACE / "fstab"
table.write_text(mounting.fstab_line(mounted) + "\\n")
subprocess.run(["mount", "-T", table, PLACE / "a b"], check=True, timeout=300)
[again] = [mount for mount in hugepages.read_mounts() if mount.path == mounted.path]
assert attrs.evolve(again, options=()) == attrs.evolve(mounted, options=()), again
assert set(mounted.options) == set(again.options), again
""")


# ---- The commands ----------------------------------------------------------------------------------------------------


def test_the_commands_mount_and_unmount(reservable: Run) -> None:
    done = reservable("""
from click.testing import CliRunner
from bufpool import cli
def run(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
before = hugepages.read_reserved(SIZE)
result = run("mount", PLACE / "a b", "--size", 4 * SIZE, "--min-size", 2 * SIZE, "--owner", "65534:65534")
assert result.exit_code == 0, result.output
[mounted] = [mount for mount in hugepages.read_mounts() if mount.path == str(PLACE / "a b")]
assert (mounted.size, mounted.min_size, mounted.uid) == (4 * SIZE, 2 * SIZE, 65534)
assert f"in reserve: {before} before, {before + 2} now" in result.output, result.output
assert f'page_size=None, memory="{PLACE}/a b/pool")' in result.output, result.output
[opens] = [line for line in result.output.splitlines() if "bufpool.Pool(" in line]
with eval(opens) as pool:
    assert (pool.capacity, pool.page_size) == (4 * SIZE, SIZE)
assert mounting.fstab_line(mounted) in result.output, result.output
assert "hugepages=2" in result.output, result.output

result = run("mount", PLACE / "a b", "--size", SIZE)
assert result.exit_code == 1 and "Error: path" in result.output, result.output

result = run("unmount", PLACE / "a b")
assert result.exit_code == 0, result.output
assert f"in reserve: {before + 2} before, {before} now" in result.output, result.output
result = run("unmount", PLACE / "a b")
assert result.exit_code == 1 and "nothing is mounted there" in result.output, result.output
""")
    assert done.stderr == ""


def test_what_the_system_cannot_give_is_not_counted_against_the_limit(reservable: Run) -> None:
    reservable("""
mounting.mount(PLACE / "mount", size=8 * SIZE)
def left():
    return os.statvfs(PLACE / "mount").f_bavail
file = PLACE / "mount" / "pool"
hog = bufpool.Pool(4096 * SIZE, page_size=None, memory="hugetlb")
try:
    while True:
        hog.allocate()
except bufpool.PoolExhaustedError:
    pass
for reserve in (False, False, True):
    kind = bufpool.PoolExhaustedError if reserve else bufpool.UnsupportedError
    assert "0 free" in refused(kind, bufpool.Pool, 4 * SIZE, page_size=None, memory=file, reserve=reserve)
assert not bufpool.capabilities().of("path", "uffd").available
assert left() == 8
hog.free(0)
for trap in ("auto", "mprotect"):
    with bufpool.Pool(4 * SIZE, page_size=None, memory=file, trap=trap) as pool:
        pool.allocate(b"x")
        for data in (None, b"x", None):
            refused(bufpool.PoolExhaustedError, pool.allocate, data)
assert left() == 8
hog.close()
mounting.unmount(PLACE / "mount")
""")
