"""The parts of the READMEs that are made from a run: between <!-- bench: NAME --> and <!-- end of bench -->."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from suite import costs, tables

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "README.md", ROOT / "bench/README.md")
BLOCKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "rows": tables.readme,
    "traps": lambda results: "\n".join(tables.cells(results, "traps")) + "\n",
    "costs": costs.markdown,
    "times": lambda results: "\n".join(tables.times(results)) + "\n",
}
_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n)(.*?)(<!-- end of bench -->)", re.DOTALL)


def filled(text: str, results: Mapping[str, Any]) -> str:
    """The text with its blocks as this run has them."""
    return _BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]](results) + found[4], text)
