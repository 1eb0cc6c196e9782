"""The command line: bufpool check, demo, doctor, mount, report, unmount, gdb-script, frozen, thaw, top."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import bufpool
from bufpool import doctor, doctor_view, frozen, hugepages, mount_view, mounting
from bufpool.errors import BufpoolError

# With fewer, SQLite's default cache holds the whole database, and evicts nothing.
_FEWEST_FILES = 200


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bufpool.__version__, package_name="bufpool", message="%(prog)s %(version)s")
def main() -> None:
    """A buffer pool whose holes trap."""


@main.command(short_help="Run SQLite on trapped pages, then plant a bug.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Runs of each kind.")
@click.option("--files", type=click.IntRange(min=_FEWEST_FILES), help="Load at most so many files (default: all).")
def demo(rounds: int, files: int | None) -> None:
    """Run SQLite on trapped pages beside its own page cache, then plant a bug and see it reported.

    Takes less than a minute. Exit code 1: answers differed, or a stray access was missed.
    """
    from bufpool.demo import tour

    try:
        wrong = tour.run(Console(highlight=False), turns=rounds, files=files)
    except BufpoolError as error:
        raise click.ClickException(str(error)) from None
    if wrong:
        raise click.ClickException("the demo failed:\n" + "\n".join(f"  {sentence}" for sentence in wrong))


@main.command("doctor", short_help="Show what traps here, and what would help.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of tables.")
def doctor_command(as_json: bool) -> None:
    """Show what this kernel and this user may use, and what would change each "no".

    Exit code 1: nothing traps here.
    """
    found = doctor.examine()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        doctor_view.show(Console(highlight=False, emoji=False), found)
    if not found.traps:
        raise SystemExit(1)


@main.command("mount", short_help="Mount huge pages for one application.")
@click.argument("path", type=click.Path())
@click.option("--size", required=True, help="What its files may hold together, such as 4GiB.")
@click.option("--min-size", default="0", show_default=True, help="What is reserved for its files.")
@click.option("--page-size", help="Size of huge page (default: the machine's default).")
@click.option("--owner", help="user, user:group, uid or uid:gid (default: the caller).")
@click.option("--noautofill", is_flag=True, help="A hole traps whoever touches it (few kernels have this).")
def mount_command(path: str, **options: Any) -> None:
    """Mount a hugetlbfs at PATH that one application has to itself, with a reserved minimum.

    The directory is made if it is missing. Needs root. Exit code 1: nothing was mounted, and why.
    """
    before = hugepages.read_counts()
    try:
        mounted = mounting.mount(path, **options)
    except BufpoolError as error:
        raise click.ClickException(_sentence(error)) from None
    for line in mount_view.lines(mounted, before, hugepages.read_counts()):
        click.echo(os.fsencode(line))  # a path need not be UTF-8


@main.command("unmount", short_help="Take such a mount away again.")
@click.argument("path", type=click.Path())
def unmount_command(path: str) -> None:
    """Unmount the hugetlbfs at PATH: its files and its reserve go, the directory stays.

    Needs root. Exit code 1: it stays mounted, and why.
    """
    before = hugepages.read_counts()
    try:
        mounting.unmount(path)
    except BufpoolError as error:
        raise click.ClickException(_sentence(error)) from None
    click.echo(f"unmounted {click.format_filename(path)}")
    for line in mount_view.changes(before, hugepages.read_counts()):
        click.echo(line)


@main.command("gdb-script", short_help="Print where the gdb commands are.")
def gdb_script_command() -> None:
    """Print the path of the script that gives gdb the commands bufpool pools, bufpool page and bufpool faults.

    They read a process or a core dump: gdb -x "$(bufpool gdb-script)" PROGRAM CORE
    """
    click.echo(Path(bufpool.__file__).with_name("bufpool_gdb.py"))


@main.command("report", short_help="Print, group or draw the reports of a log.")
@click.argument("file", type=click.Path())
@click.option("--group", is_flag=True, help="By site and history of the page, with counts.")
@click.option("--follow", is_flag=True, help="Go on as the log grows or is rotated, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each, with every member.")
@click.option(
    "--html", type=click.Path(), metavar="OUT.html", help="Write one page for a browser; - is standard output."
)
@click.option("--symbolize", is_flag=True, help="Name functions and lines (llvm-symbolizer or addr2line).")
@click.option("--pool", "pools", multiple=True, metavar="NAME", help="Only of this pool; can be repeated.")
@click.option("--pid", "pids", type=int, multiple=True, help="Only of this process; can be repeated.")
@click.option(
    "--state",
    "states",
    type=click.Choice(["unallocated", "allocated", "freed", "evicted", "closed", "unpinned", "read-only"]),
    multiple=True,
    help="Only of pages in this state; can be repeated.",
)
@click.option("--since", metavar="TIME", help='Only from then on: "10m", "2h", "2026-01-31T12:34".')
def report_command(file: str, **options: Any) -> None:
    """Show the reports that pools have written to FILE (Pool(log=...)); "-" is standard input.

    Lines that are no report are counted, and do no harm. Exit code 1: the log cannot be read, and why.
    """
    from bufpool import report_command

    try:
        request = report_command.request(file, **options)
        with _output():
            console = Console(highlight=False, emoji=False)
            report_command.run(request, console, Console(stderr=True, highlight=False, emoji=False))
    except BufpoolError as error:
        raise click.ClickException(_sentence(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(0) from None


@main.command("frozen", short_help="List the frozen threads of a process.")
@click.argument("pid", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One JSON array in place of text.")
def frozen_command(pid: int, as_json: bool) -> None:
    """List the threads of process PID that on_fault "freeze" has stopped: address, place and report of each.

    Exit code 1: the process cannot be looked at, or no pool of it freezes.
    """
    try:
        threads = frozen.frozen_threads(pid)
    except BufpoolError as error:
        raise click.ClickException(_sentence(error)) from None
    if as_json:
        click.echo(json.dumps([thread.as_dict() for thread in threads], indent=2))
        return
    for thread in threads:
        since = thread.since.isoformat(timespec="seconds")
        click.echo(f"thread {thread.thread_id}, frozen since {since} {thread.place}, at 0x{thread.address:x}:")
        click.echo(thread.text + "\n")
    click.echo(f"{len(threads)} thread{'' if len(threads) == 1 else 's'} of process {pid} frozen")


@main.command("thaw", short_help="Let frozen threads go on.")
@click.argument("pid", type=click.IntRange(min=1))
@click.option("--thread", type=click.IntRange(min=1), help="Only this one (default: all).")
@click.option(
    "--policy",
    type=click.Choice(["resume", "abort"]),
    default="resume",
    show_default=True,
    help="resume: the access completes on the scratch pattern; abort: the process ends at it.",
)
def thaw_command(pid: int, thread: int | None, policy: str) -> None:
    """Let the threads of process PID go on that on_fault "freeze" has stopped.

    Exit code 1: they cannot, and why.
    """
    try:
        thawed = frozen.thaw(pid, thread=thread, policy=policy)
    except BufpoolError as error:
        raise click.ClickException(_sentence(error)) from None
    for thread_id in thawed:
        click.echo(f"thread {thread_id}: {policy}")
    if not thawed:
        click.echo(f"no thread of process {pid} is frozen")


@main.command("top", short_help="Watch the pools that processes share.")
@click.argument("target", metavar="PID|PATH")
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Seconds from one look to the next.",
)
@click.option("--once", is_flag=True, help="One frame; so it is, too, when the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each time in place of frames.")
def top_command(target: str, **options: Any) -> None:
    """Watch the pools of process PID, or the one whose memory is the file PATH, until q or Ctrl-C.

    Pages by state, calls a second, stray accesses, the processes that have the pool, and where its pages are. It reads
    the tables that processes share, and changes nothing. Pools of memory anon and thp have none: bufpool_stats() in
    their process tells of them. Exit code 1: nothing can be watched, and why.
    """
    from bufpool import top_command

    try:
        with _output():
            top_command.run(target, Console(highlight=False, emoji=False), **options)
    except BufpoolError as error:
        raise click.ClickException(_sentence(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(0) from None


@main.command("check", short_help="Check the shared pools of a process.")
@click.argument("target", metavar="PID|PATH")
@click.option("--repair", is_flag=True, help="Put right what can be.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of text.")
def check_command(target: str, repair: bool, as_json: bool) -> None:
    """Check the pools that process PID can share with others, or the one in the file PATH, while they are in use.

    Page states are compared with the frames that the kernel shows, the index of free numbers, the counts, and the
    processes that live. Exit code 0: clean; 1: something is, or was before --repair, wrong; 2: cannot look, and why.
    """
    from bufpool import check_command

    try:
        result = check_command.check(target, repair=repair)
        with _output():
            if as_json:
                click.echo(json.dumps(result.as_dict(), indent=2))
            else:
                check_command.show(Console(highlight=False, emoji=False, soft_wrap=True), result)
    except BufpoolError as error:
        click.echo(f"Error: {_sentence(error)}", err=True)
        raise SystemExit(check_command.CANNOT_LOOK) from None
    except KeyboardInterrupt:
        raise SystemExit(check_command.CANNOT_LOOK) from None
    raise SystemExit(result.exit_code)


@contextlib.contextmanager
def _output() -> Iterator[None]:
    """Standard output, which takes what it cannot show. Raises BufpoolError when it cannot be written to."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BufpoolError) or error.errno == errno.EPIPE:  # of which click makes a quiet end
            raise
        raise BufpoolError(f"cannot write the output: {error.strerror}") from None


def _sentence(error: BufpoolError) -> str:
    """Without the error number that an OSError puts in front."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


if __name__ == "__main__":
    main()
