"""The cost model's table: what an operation takes, beside the system calls that it cannot do without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(results: Mapping[str, Any]) -> str:
    """bench/README.md's block."""
    return f"(made from the run of {results['machine']['date']})\n"
