"""Where and when a run was made, so that its figures can be judged."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# What a run itself writes does not make the checkout a modified one.
WRITTEN = (":(exclude)bench/results", ":(exclude)README.md", ":(exclude)bench/README.md")


def _cpu() -> tuple[str, bool]:
    """The processor's name, and whether this is a virtual machine."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return name[1] if name else platform.machine(), re.search(r"^flags.*\bhypervisor\b", text, re.MULTILINE) is not None


def _memory_gib() -> float:
    found = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    return round(int(found[1]) / (1 << 20), 1) if found else 0.0


def huge_pages() -> str:
    """The setting of transparent huge pages."""
    if not THP.exists():
        return "none"
    found = re.search(r"\[(\w+)\]", THP.read_text(encoding="utf-8"))
    return found[1] if found else "unknown"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + (", modified" if _output("git", "status", "--porcelain", "--", ".", *WRITTEN) else "")


def describe() -> dict[str, Any]:
    """The machine, the system and the checkout, as they are now."""
    cpu, virtual = _cpu()
    return {
        "cpu": cpu,
        "virtual": virtual,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": _memory_gib(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "transparent_huge_pages": huge_pages(),
        "root": os.geteuid() == 0,
        "compiler": _output("cc", "--version").partition("\n")[0],
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "load": [round(value, 2) for value in os.getloadavg()],
    }
