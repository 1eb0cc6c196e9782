"""Names for addresses: "module+0x123" to "function at file.c:12", by llvm-symbolizer or addr2line.

One process for each module, with all its addresses. A module that is gone, or was changed after the report, is said
once in notes. Nothing is asked of a path that is no regular file.
"""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import attrs

from bufpool.errors import BufpoolError
from bufpool.report_log import LoggedReport

_TIMEOUT = 60  # seconds for a module; a large one without an index takes some
_TOOLS = ("llvm-symbolizer", *(f"llvm-symbolizer-{version}" for version in range(30, 10, -1)), "addr2line")
_ELF = b"\x7fELF"
_PT_LOAD = 1
_PAGE = 4096

Address = tuple[str, bool]  # "module+0x123", and whether it is the instruction itself, not a return address


class SymbolizerError(BufpoolError):
    """No symbolizer is installed."""


@attrs.define
class Symbolizer:
    """Looks addresses up, each once. names() is of those that look_up() was given."""

    tool: str
    notes: list[str] = attrs.Factory(list)
    _known: dict[Address, tuple[str, ...]] = attrs.Factory(dict)
    _modules: dict[str, int | None] = attrs.Factory(dict)

    def names(self, place: str, exact: bool) -> tuple[str, ...]:
        """The functions at a place, the innermost of those that were inlined first; empty if nothing is known."""
        return self._known.get((place, exact), ())

    def look_up(self, reports: Iterable[LoggedReport]) -> None:
        """Looks all frames of the reports up."""
        wanted: dict[str, set[Address]] = defaultdict(set)
        newest: dict[str, datetime] = {}
        for report in reports:
            for address in _addresses(report):
                module = address[0].rpartition("+")[0]
                if module.startswith("/") and address not in self._known:
                    wanted[module].add(address)
                    newest[module] = max(newest.get(module, report.time), report.time)
        for module, addresses in sorted(wanted.items()):
            self._known.update(dict.fromkeys(addresses, ()))
            base = self._base(module, newest[module])
            if base is not None:
                self._ask(module, base, sorted(addresses))

    def _base(self, module: str, reported: datetime) -> int | None:
        """The module's lowest address, from which offsets count; None: nothing can be asked of it."""
        if module not in self._modules:
            self._modules[module] = None
            try:
                found = Path(module).stat()
                if not stat.S_ISREG(found.st_mode):
                    self.notes.append(f"{module} is no regular file")
                    return None
                self._modules[module] = _lowest(Path(module))
            except FileNotFoundError:
                self.notes.append(f"{module} is gone")
            except (OSError, ValueError, OverflowError, struct.error) as error:
                self.notes.append(f"{module} cannot be read: {error}")
            else:
                if max(found.st_mtime, found.st_ctime) > reported.timestamp():
                    self.notes.append(f"{module} was changed after the report: its names may be wrong")
        return self._modules[module]

    def _ask(self, module: str, base: int, addresses: list[Address]) -> None:
        # A return address may be the next function's: the call itself ends one byte before.
        asked = [f"{max(0, base + _offset(place) - (not exact)):#x}" for place, exact in addresses]
        llvm = "llvm-symbolizer" in Path(self.tool).name
        options = [f"--obj={module}", "--functions", "--inlines", "--demangle"] if llvm else ["-afiCe", module]
        try:
            done = subprocess.run(
                [self.tool, *options],
                input="\n".join(asked) + "\n",
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            self.notes.append(f"{module}: {self.tool} took longer than {_TIMEOUT} s")
            return
        except OSError as error:
            self.notes.append(f"{self.tool} cannot be run: {error.strerror}")
            return
        answers = _llvm_answers(done.stdout) if llvm else _addr2line_answers(done.stdout)
        if len(answers) != len(asked):
            self.notes.append(f"{module}: {self.tool} gave {len(answers)} answers to {len(asked)} questions")
            return
        self._known.update(zip(addresses, answers, strict=True))


def find() -> Symbolizer:
    """With the first tool that is installed. Raises SymbolizerError."""
    for name in _TOOLS:
        found = shutil.which(name)
        if found:
            return Symbolizer(found)
    raise SymbolizerError(
        "neither llvm-symbolizer nor addr2line is installed, which give addresses their names: install llvm or binutils"
    )


def _addresses(report: LoggedReport) -> Iterable[Address]:
    yield from ((place, number == 0) for number, place in enumerate(report.native_stack))
    for event in (report.allocated, report.freed, report.pinned):
        if event is not None:
            yield from ((place, False) for place in event.native_stack)


def _offset(place: str) -> int:
    try:
        return int(place.rpartition("+")[2], 16) & (1 << 64) - 1
    except ValueError:
        return 0


def _lowest(path: Path) -> int:
    """The address of the first loaded segment: 0 of a position-independent file, else where it is linked to."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] != _ELF or len(head) < 64:
            raise ValueError("it is no ELF file")
        order = "<" if head[5] == 1 else ">"
        wide = head[4] == 2
        table, size, count = (
            (*struct.unpack_from(order + "Q", head, 32), *struct.unpack_from(order + "HH", head, 54))
            if wide
            else (*struct.unpack_from(order + "I", head, 28), *struct.unpack_from(order + "HH", head, 42))
        )
        file.seek(table)
        segments = file.read(size * count)
    starts = [
        struct.unpack_from(order + ("Q" if wide else "I"), segments, at + (16 if wide else 8))[0]
        for at in range(0, size * count, size or 1)
        if struct.unpack_from(order + "I", segments, at)[0] == _PT_LOAD
    ]
    return min(starts, default=0) // _PAGE * _PAGE


def _llvm_answers(output: str) -> list[tuple[str, ...]]:
    """For each address pairs of lines, function and place, then an empty line."""
    return [_functions(block.splitlines()) for block in output.split("\n\n") if block.strip()]


def _addr2line_answers(output: str) -> list[tuple[str, ...]]:
    """For each address a line with it, then such pairs."""
    answers: list[list[str]] = []
    for line in output.splitlines():
        if line.startswith("0x"):
            answers.append([])
        elif answers:
            answers[-1].append(line)
    return [_functions(lines) for lines in answers]


def _functions(lines: list[str]) -> tuple[str, ...]:
    found = []
    for function, place in zip(lines[::2], lines[1::2], strict=False):
        if function == "??":
            continue
        file, _, rest = place.partition(":")
        line = rest.partition(":")[0].partition(" ")[0]  # llvm adds a column, addr2line a discriminator
        known = file not in ("", "??") and line not in ("", "?", "0")
        found.append(f"{function} at {file}:{line}" if known else function)
    return tuple(found)
