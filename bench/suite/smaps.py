"""What the kernel itself says of a mapping."""

from __future__ import annotations

import re
from pathlib import Path


def huge_bytes(base: int, length: int) -> int:
    """How much of the range is mapped by huge pages, by the kernel's own word."""
    total = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) < base + length and int(match[2], 16) > base
        elif inside and (match := re.match(r"(?:AnonHugePages|Shared_Hugetlb|Private_Hugetlb): +(\d+) kB", line)):
            total += int(match[1]) * 1024
    return total
