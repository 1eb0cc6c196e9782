"""The detectors: how the programs are built for each, and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "native"
FLAGS = ["-std=c11", "-O2", "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra"]
ASAN = ["-fsanitize=address", "-fno-omit-frame-pointer"]
VALGRIND = ["valgrind", "-q", "--child-silent-after-fork=no"]
BUILD_LIMIT = 600  # seconds


@attrs.frozen
class Detector:
    """A column of the table."""

    name: str
    title: str
    program: str  # the binary
    flags: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    preset: str = ""  # of bufpool
    needs: str = ""  # a header without which the program cannot be compiled
    compiled_in: bool = False  # it sees what was compiled for it, and so nothing of a system's library


DETECTORS = (
    Detector("mmap", "plain mmap", "own", ("-DHIDE=HIDE_NONE",)),
    Detector("mprotect", "mprotect", "mprotect", ("-DHIDE=HIDE_MPROTECT",)),
    Detector("bufpool-production", "bufpool, production", "bufpool", preset="production"),
    Detector("bufpool-test", "bufpool, test", "bufpool", preset="test"),
    Detector("asan", "ASan", "asan", (*ASAN, "-DHIDE=HIDE_NONE"), compiled_in=True),
    Detector("asan-poison", "ASan, poisoning", "asan-poison", (*ASAN, "-DHIDE=HIDE_POISON"), compiled_in=True),
    Detector("valgrind", "Valgrind", "own", ("-DHIDE=HIDE_NONE",), tuple(VALGRIND)),
    Detector(
        "valgrind-requests",
        "Valgrind, client requests",
        "requests",
        ("-DHIDE=HIDE_REQUESTS",),
        tuple(VALGRIND),
        needs="valgrind/memcheck.h",
    ),
)


def compile_c(arguments: list[str]) -> str:
    """Compiles; returns what the compiler complained of, empty if it did not."""
    done = subprocess.run(["cc", *FLAGS, *arguments], capture_output=True, text=True, timeout=BUILD_LIMIT, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()


def build_library(folder: Path) -> Path:
    """The C library from the checkout's sources, as it is released."""
    objects = folder / "library"
    objects.mkdir(exist_ok=True)

    def compile_one(source: Path) -> None:
        include = ["-DNDEBUG", f"-I{NATIVE}/include"]
        problem = compile_c([*include, "-c", str(source), "-o", str(objects / f"{source.stem}.o")])
        if problem:
            raise RuntimeError(problem)

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(compile_one, sorted((NATIVE / "src").glob("*.c"))))
    library = folder / "libbufpool.a"
    subprocess.run(["ar", "rcs", str(library), *map(str, objects.glob("*.o"))], check=True, timeout=BUILD_LIMIT)
    return library


def sources_of(library: Path | None) -> list[str]:
    """The arguments for a program's sources: on bufpool's library, or on the layer by hand."""
    sources = [path for path in sorted(HERE.glob("*.c")) if path.name.split("_")[0] not in {"layer", "in"}]
    if library is None:
        return [f"-I{NATIVE}/sqlite", *map(str, sources), *sorted(map(str, HERE.glob("layer_own*.c")))]
    cache = [path for path in (NATIVE / "sqlite").glob("*.c") if not path.name.startswith("preload")]
    sources += [*sorted(HERE.glob("layer_bufpool*.c")), *cache, library]
    return [f"-I{NATIVE}/sqlite", f"-I{NATIVE}/include", *map(str, sources)]


def build(detector: Detector, folder: Path, library: Path | None) -> str:
    """Builds the detector's program; returns why it cannot be had here, empty if it can."""
    if detector.prefix and shutil.which(detector.prefix[0]) is None:
        return f"{detector.prefix[0]} is not installed (Debian: apt-get install {detector.prefix[0]})"
    target = folder / detector.program
    if target.exists():
        return ""
    sources = sources_of(library if detector.preset else None)
    problem = compile_c([*detector.flags, *sources, "-o", str(target), "-lpthread", "-ldl"])
    if problem and detector.needs and detector.needs in problem:
        return f"there is no {detector.needs} (Debian: apt-get install valgrind)"
    if problem and "-fsanitize=address" in detector.flags and ("asan" in problem or "sanitize" in problem):
        return f"the compiler has no AddressSanitizer: {problem.splitlines()[-1]}"
    if problem:
        raise RuntimeError(problem)
    return ""


@attrs.frozen
class Ran:
    """What one run of a program came to."""

    code: int
    output: str
    text: str  # standard error


def run(detector: Detector, folder: Path, arguments: list[str], options: str, limit: int, **settings: str) -> Ran:
    """Runs the detector's program in the folder, for at most so many seconds; options come after the test preset."""
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("BUFPOOL_OPTIONS", "ASAN_OPTIONS")},
        "ASAN_OPTIONS": "detect_leaks=0:color=never",
        "DETECTION_PINS": options.split(":pins=")[1].split(":", maxsplit=1)[0],
        **settings,
    }
    if detector.preset:
        more = options if detector.preset == "test" else ":seed=1"  # what sampling guards is not left to chance
        environment["BUFPOOL_OPTIONS"] = f"preset={detector.preset}{more}"
    command = [*detector.prefix, str(folder / detector.program), *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, text = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with its children
            output, text = process.communicate()
            text += f"\n## broken no end in {limit} s"
    return Ran(process.returncode, output, text)
