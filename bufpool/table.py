"""The one table of memory and trap: which go together, and whose stray accesses trap. README.md has it verbatim.

`python -m bufpool.table` prints it. It is made from what the C core says of each pair, and is the same on every system.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import bufpool
from bufpool.capabilities import USERS, Capability


def markdown(entries: Iterable[Capability]) -> str:
    """The table as README.md has it, and below it why the other pairs do not go together."""
    entries = tuple(entries)
    return "\n".join([*_rows(entries), "", *(f"- {sentence}" for sentence in never(entries, "`"))]) + "\n"


def never(entries: Iterable[Capability], quote: str = "") -> list[str]:
    """A sentence for each reason why some pairs do not go together on any system, names between quotes."""
    pairs: dict[tuple[str, str], list[str]] = {}  # the memories of each reason and trap
    for entry in entries:
        if not entry.valid:
            pairs.setdefault((_reason(entry), entry.trap), []).append(entry.memory)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # the traps of each reason and its memories
    for (reason, trap), memories in pairs.items():
        groups.setdefault((reason, tuple(memories)), []).append(trap)
    return [
        f"{_join(memories, quote)}: not with {_join(traps, quote)}; {reason}"
        for (reason, memories), traps in groups.items()
    ]


def _rows(entries: Iterable[Capability]) -> Iterator[str]:
    columns = tuple(USERS.values())
    yield f"| memory | trap | {' | '.join(columns)} |"
    yield "|---|---|" + "---|" * len(columns)
    for entry in entries:
        if entry.valid and entry.users:
            traps = ("traps" if column in entry.users else "" for column in columns)
            yield f"| `{entry.memory}` | `{entry.trap}` | {' | '.join(traps)} |"


def _reason(entry: Capability) -> str:
    """Without the pair that the sentence begins with."""
    return entry.reason.partition(": ")[2]


def _join(names: Iterable[str], quote: str) -> str:
    return ", ".join(f"{quote}{name}{quote}" for name in names)


if __name__ == "__main__":
    print(markdown(bufpool.capabilities().entries), end="")
