"""Runs a row on bufpool on a kernel under qemu, whose processor has protection keys."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import attrs
from detectors import HERE, NATIVE, compile_c, sources_of
from judge import Outcome, judge, judge_correct

QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2,sockets=2", "-m", "1G"]
BARE = ["-nodefaults", "-no-reboot", "-display", "none"]
KERNEL = HERE.parent.parent / "build/noautofill/patched.bzImage"  # of make test-noautofill
LIMIT = 300  # seconds that the machine may run


@attrs.frozen
class Machine:
    """A kernel, where its files are put together, and bufpool's library."""

    kernel: Path
    folder: Path
    library: Path

    def is_there(self) -> bool:
        """Whether it can be had here."""
        return self.kernel.exists() and all(shutil.which(name) for name in (QEMU[0], "cpio"))

    def try_row(self, number: int, options: str, says: tuple[str, ...]) -> Outcome:
        """What comes of the row with the options there. Raises RuntimeError if the machine does not get that far."""
        image, log = self.folder / "image.cpio", self.folder / "serial.log"
        image.write_bytes(self._pack(number, options))
        files = ["-serial", f"file:{log}", "-kernel", str(self.kernel), "-initrd", str(image)]
        command = [*QEMU, *BARE, *files, "-append", "console=ttyS0 panic=-1 tsc=reliable -- row"]
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False)
        text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "")
        found = re.findall(r"@@ (\w+)\n(.*?)@@ code (-?\d+)", text, re.S)
        runs = {how: (said, int(code)) for how, said, code in found}
        if set(runs) != {"bug", "correct"}:
            raise RuntimeError(f"the machine did not run row {number}: {text[-500:]}")
        alarm = judge_correct(*runs["correct"])
        return Outcome(False, broken=alarm) if alarm else judge(*runs["bug"], says)

    def _pack(self, number: int, options: str) -> bytes:
        """The file system: what the tests of noautofill begin with, and the programs, linked statically."""
        root = self.folder / "root"
        (root / "bin").mkdir(parents=True, exist_ok=True)
        programs = {
            "init": [str(NATIVE / "tests/noautofill/init.c")],
            "bin/row": [f'-DOPTIONS="{options}"', f'-DROW="{number}"', str(HERE / "in_qemu.c")],
            "bin/detection": [*sources_of(self.library), "-lpthread"],
        }
        for name, arguments in programs.items():
            problem = compile_c(["-static", *arguments, "-o", str(root / name)])
            if problem:
                raise RuntimeError(problem)
        names = "\n".join(["bin", *programs])
        cpio = ["cpio", "--quiet", "--create", "--format=newc"]
        return subprocess.run(cpio, input=names.encode(), cwd=root, capture_output=True, check=True).stdout
