"""Prints what the doctor found."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from bufpool import sizes
from bufpool.capabilities import Capabilities, Capability
from bufpool.doctor import Examination, Setting, SQLiteLibrary
from bufpool.hugepages import HugepageCounts, HugepageMount
from bufpool.mount_view import size_text
from bufpool.owners import name_of
from bufpool.table import never


def show(console: Console, found: Examination) -> None:
    """All of it."""
    console.print(f"bufpool {found.version}")
    console.print(_settings(found.settings))
    _show_hugepages(console, found.hugepages.counts, found.hugepages.mounts)
    _show_traps(console, found.capabilities)
    console.print(_sqlite_line(found.sqlite))
    if not found.traps:
        console.print("[red]Nothing traps here: a pool opens only with trap none, which is plain mmap.")


def _settings(settings: tuple[Setting, ...]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(no_wrap=True, min_width=max(len(setting.name) for setting in settings))
    table.add_column(overflow="fold")
    for setting in settings:
        note = f"  [dim]({escape(setting.note)})" if setting.note else ""
        table.add_row(setting.name, escape(setting.value) + note)
    return table


def _show_traps(console: Console, capabilities: Capabilities) -> None:
    """The table of memory and trap: a row for each pair that goes together, then why some do not work here or ever."""
    table = _folding("memory", "trap", "works here", "whose stray accesses trap")
    reasons: dict[str, int] = {}
    for entry in capabilities.entries:
        if entry.valid and entry.trap != "none":
            # The last are the most: what traps for them traps for all before them.
            table.add_row(entry.memory, entry.trap, _works(capabilities, entry, reasons), entry.users[-1])
    console.print(table)
    for reason, number in reasons.items():
        console.print(Padding(escape(f"({number}) {reason}"), (0, 0, 0, 2)))
    console.print("auto takes the first trap of a memory that works here.")
    console.print("[dim]No system can have these; none, plain mmap, goes with every memory and traps nothing:")
    for sentence in never(capabilities.entries):
        console.print(Padding(f"[dim]{escape(sentence)}", (0, 0, 0, 2)))


def _works(capabilities: Capabilities, entry: Capability, reasons: dict[str, int]) -> str:
    """A reason is said once, under its number."""
    if not entry.available:
        return f"[red]no[/] ({reasons.setdefault(entry.reason, len(reasons) + 1)})"
    return "[green]yes[/]" + (", auto's choice" if capabilities.auto[entry.memory] == entry.trap else "")


def _show_hugepages(console: Console, counts: tuple[HugepageCounts, ...], mounts: tuple[HugepageMount, ...]) -> None:
    if not counts:
        console.print("huge pages: this kernel has none, or /proc and /sys are hidden")
        return
    console.print(_counts(counts))
    for each in counts:
        if not each.reservable:
            # Not broken into lines: it is there to be copied.
            console.print(
                f"none left of {sizes.text(each.size)}; one more, as root: {each.command_for(1)}", soft_wrap=True
            )
    if mounts:
        console.print(_mounts(mounts))
    else:
        console.print("hugetlbfs: no mount here; [bold]bufpool mount[/] makes one, as root")


def _counts(found: tuple[HugepageCounts, ...]) -> Table:
    table = _folding("huge pages", "total", "free", "reserved", "surplus")
    for counts in found:
        name = sizes.text(counts.size) + (" (default)" if counts.default else "")
        surplus = f"{counts.surplus} of {counts.overcommit}"
        table.add_row(name, str(counts.total), str(counts.free), str(counts.reserved), surplus)
    return table


def _mounts(mounts: tuple[HugepageMount, ...]) -> Table:
    table = _folding("hugetlbfs mount", "page", "limit", "free", "reserve", "owner", "notes")
    for mount in mounts:
        notes = {
            "noautofill": mount.noautofill,
            "read-only": mount.read_only,
            "yours to write": mount.writable,
        }
        table.add_row(
            escape(mount.path),
            sizes.text(mount.page_size),
            size_text(mount.size),
            "-" if mount.free is None else size_text(mount.free),
            size_text(mount.min_size),
            escape(f"{name_of(mount.uid)}, {mount.mode:04o}"),
            ", ".join(name for name, true in notes.items() if true),
        )
    return table


def _folding(*names: str) -> Table:
    """Columns that break long words in place of dropping their ends: paths, commands."""
    table = Table(box=box.SIMPLE)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _sqlite_line(library: SQLiteLibrary) -> str:
    name = f"SQLite {library.version or 'unknown'}"
    if library.usable:
        return f"{name}, linked dynamically: {escape(library.library or '')}. bufpool.sqlite.install() [green]works[/]."
    return f"{name}: bufpool.sqlite.install() [red]does not work[/]: {escape(library.reason)}"
