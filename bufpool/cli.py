"""The command line: bufpool demo, bufpool doctor."""

from __future__ import annotations

import json

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import bufpool
from bufpool import doctor
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
        _print_examination(Console(highlight=False), found)
    if not found.traps:
        raise SystemExit(1)


def _print_examination(console: Console, found: doctor.Examination) -> None:
    console.print(f"bufpool {found.version}")
    settings = Table(box=box.SIMPLE, show_header=False)
    settings.add_column(no_wrap=True, min_width=max(len(setting.name) for setting in found.settings))
    settings.add_column(overflow="fold", min_width=12)
    settings.add_column(overflow="fold")
    for setting in found.settings:
        settings.add_row(setting.name, escape(setting.value), f"[dim]{escape(setting.note)}")
    console.print(settings)
    traps = Table("memory", "trap", "works", "why not, and what would help", box=box.SIMPLE)
    for entry in found.capabilities.entries:
        auto = found.capabilities.auto[entry.memory] == entry.trap
        works = "[green]yes[/]" + (", by auto" if auto else "") if entry.available else "[red]no[/]"
        note = "plain mmap, the baseline: a stray access goes unnoticed" if entry.trap == "none" else ""
        traps.add_row(entry.memory, entry.trap, works, escape(entry.reason) or f"[dim]{note}")
    console.print(traps)
    console.print(_sqlite_line(found.sqlite))
    if not found.traps:
        console.print("[red]Nothing traps here: a pool opens only with trap none, which is plain mmap.")


def _sqlite_line(library: doctor.SQLiteLibrary) -> str:
    name = f"SQLite {library.version or 'unknown'}"
    if library.usable:
        return f"{name}, linked dynamically: {escape(library.library or '')}. bufpool.sqlite.install() [green]works[/]."
    return f"{name}: bufpool.sqlite.install() [red]does not work[/]: {escape(library.reason)}"


if __name__ == "__main__":
    main()
