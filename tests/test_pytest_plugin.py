"""`pytest --bufpool` on sample suites with planted stray accesses, each in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from plugin_runs import run

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUFPOOL_OPTIONS", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


SUITE = """
def test_good(bufpool_pool):
    page = bufpool_pool.allocate(b"a row")
    assert page[0:5] == b"a row"

def test_raised():
    with bufpool.Pool("1 MiB", name="raised") as pool:
        stray(pool, "guarded")

def test_swallowed():
    with bufpool.Pool("1 MiB", name="swallowed") as pool:
        try:
            stray(pool, "guarded")
        except bufpool.StrayAccessError:
            pass

def test_never_asked(bufpool_pool):
    stray(bufpool_pool)

def test_thread(bufpool_pool):
    thread = threading.Thread(target=stray, args=(bufpool_pool,), name="straying")
    thread.start()
    thread.join()

def test_forked(bufpool_pool):
    pid = os.fork()
    if pid == 0:
        try:
            stray(bufpool_pool)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def in_child():
    pool = bufpool.Pool("1 MiB", name="of the child")
    try:
        stray(pool, "guarded")
    except bufpool.StrayAccessError:
        pass
    pool.close()

def test_spawned():
    child = multiprocessing.get_context("spawn").Process(target=in_child)
    child.start()
    child.join()
    assert child.exitcode == 0

def test_started():
    program = "import bufpool, os; p = bufpool.Pool('1 MiB', name='started'); p.page(3).array('u1')[5]; os._exit(0)"
    subprocess.run([sys.executable, "-c", program], check=True)

def test_would_abort():
    with bufpool.Pool("1 MiB", name="would abort", on_fault="abort") as pool:
        try:
            stray(pool)
            bufpool.check()
        except bufpool.StrayAccessError:
            pass

def test_skips(bufpool_pool):
    stray(bufpool_pool)
    pytest.skip("after a stray")

@pytest.mark.xfail(strict=True)
def test_expected_to_fail(bufpool_pool):
    stray(bufpool_pool)

def test_collects(bufpool_pool):
    with bufpool.catch_faults() as caught:
        stray(bufpool_pool)
        stray(bufpool_pool, "guarded")
    assert len(caught.reports) == 2

def test_takes(bufpool_pool, bufpool_faults):
    stray(bufpool_pool)
    assert [report.page for report in bufpool_faults.reports] == [0]
    (report,) = bufpool_faults.take()
    assert (report.state, report.freed.event) == ("freed", "free")
    assert bufpool_faults.reports == ()

def test_good_at_last(bufpool_pool):
    bufpool_pool.allocate()
"""
STRAYING = ["raised", "swallowed", "never_asked", "thread", "forked", "spawned", "started", "would_abort", "skips"]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_suite_with_planted_strays(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = run(pytester, SUITE, "--bufpool", *workers)
    result.assert_outcomes(failed=len(STRAYING), passed=4, xfailed=1)
    failed = {line.split("::test_")[1].split(" ")[0] for line in result.outlines if line.startswith("FAILED")}
    assert failed == set(STRAYING)
    assert result.stdout.str().count("- Captured stray accesses (bufpool) call -") == len(STRAYING)
    text = result.stdout.str()
    for part in (
        'stray read of a freed page (page 0 of pool "swallowed", offset 0)',
        " in test_swallowed\n",  # the Python stack
        'of pool "test_thread" is freed',
        'of pool "test_forked" is freed',
        'of pool "of the child" is freed',
        'page 3 of pool "started" is unallocated; offset 5',
        'of pool "would abort" is freed',
        "  freed by thread ",  # preset=test
    ):
        assert part in text, part
    assert "outside of the tests" not in text
    assert "warning" not in text


def test_without_it_nothing_is_watched(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
def test_never_asked(bufpool_pool):
    with bufpool.catch_faults():
        stray(bufpool_pool)

def test_takes(bufpool_pool, bufpool_faults):
    stray(bufpool_pool)
    assert len(bufpool_faults.take()) == 1

def test_watched(bufpool_pool, bufpool_faults):
    stray(bufpool_pool)
    bufpool.check_in_vain = 1
""",
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*AssertionError: stray read of a freed page (page 0 of pool*"])


def test_off_it_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys

def test_nothing(pytestconfig):
    assert "pytest_bufpool" in sys.modules
    assert not [name for name in sys.modules if name.partition(".")[0] in ("bufpool", "numpy", "attr", "cffi", "rich")]
    assert "BUFPOOL_TESTING" not in __import__("os").environ
"""
    )
    pytester.runpytest_subprocess(timeout=100).assert_outcomes(passed=1)


def test_options_are_defaults(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = """
at_import = bufpool.Pool("1 MiB")

def test_options(bufpool_pool):
    assert (at_import.trap, at_import.provenance) == ("mprotect", "last")
    assert (bufpool_pool.trap, bufpool_pool.provenance) == ("mprotect", "last")
    with bufpool.Pool("1 MiB", provenance="off") as pool:
        assert (pool.trap, pool.provenance) == ("mprotect", "off")
    at_import.close()

@pytest.mark.bufpool(capacity="2 MiB", page_size="8 KiB")
def test_marker(bufpool_pool):
    assert (bufpool_pool.capacity, bufpool_pool.page_size) == (2 << 20, 8 << 10)
"""
    run(pytester, suite, "--bufpool=trap=mprotect:provenance=last", "--strict-markers").assert_outcomes(passed=2)
    monkeypatch.setenv("BUFPOOL_OPTIONS", "trap=mprotect:preset=production")
    run(pytester, suite, "--bufpool").assert_outcomes(passed=2)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--bufpool=trp=uffd", '*--bufpool: options: unknown key "trp"*'),
        ("--bufpool=on_fault=abort", "*on_fault=abort would end, or stop, the tests: raise or resume is right*"),
        ("--bufpool=tests", '*--bufpool took "tests" for its options, which are key=value*'),
    ],
)
def test_wrong_options_are_refused(
    pytester: pytest.Pytester, argument: str, sentence: str, workers: tuple[str, ...]
) -> None:
    result = run(pytester, "def test(): pass", argument, *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([sentence])


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_what_comes_too_late_fails_the_run(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """A child of the first test strays when that is over: it is told of with the test that opened the pool."""
    suite = """
gate = os.pipe()

def test_first():
    pool = bufpool.Pool("1 MiB", name="early")
    page = pool.allocate()
    page.free()
    if os.fork() == 0:
        os.read(gate[0], 1)
        page.array("u1")[0]
        os._exit(0)
    pool.close()

def test_second():
    os.write(gate[1], b"x")
    os.wait()
"""
    result = run(pytester, suite, "--bufpool", *workers)
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*bufpool: stray accesses outside of the tests*", "to a pool that was opened by *::test_first:", '*"early"*']
    )


def test_a_pool_of_the_whole_session(pytester: pytest.Pytester) -> None:
    """What strays in it is the test's that runs, also in setup and teardown, also through a child."""
    suite = """
@pytest.fixture(scope="session")
def pool():
    with bufpool.Pool("1 MiB", name="long", report_limit=1) as pool:
        yield pool

@pytest.fixture
def dirty(pool):
    stray(pool)
    yield
    stray(pool)

def test_first(pool): pass
def test_dirty(dirty): pass
def test_good(pool): pass
def test_child(pool):
    if os.fork() == 0:
        try:
            stray(pool)
        finally:
            os._exit(0)
    os.wait()
def test_again(pool): stray(pool)
def test_last(pool): pass
"""
    result = run(pytester, suite, "--bufpool")
    result.assert_outcomes(passed=3, failed=2, errors=2)
    text = result.stdout.str()
    assert "Captured stray accesses (bufpool) setup" in text
    assert "ERROR at setup of test_dirty" in text
    assert "test_again - Failed: stray read" in text


def test_a_log_of_its_own_is_read_too(pytester: pytest.Pytester) -> None:
    suite = """
def test_child(tmp_path):
    with bufpool.Pool("1 MiB", log=tmp_path / "mine.jsonl") as pool:
        if os.fork() == 0:
            try:
                stray(pool)
            finally:
                os._exit(0)
        os.wait()
    assert '"access":"read"' in (tmp_path / "mine.jsonl").read_text()
"""
    run(pytester, suite, "--bufpool").assert_outcomes(failed=1)


def test_native_code_that_reads_the_environment(pytester: pytest.Pytester) -> None:
    """In the process of the tests, which must survive, and in a program: both would abort by default."""
    suite = """
NATIVE = '''
import os
from bufpool._native import ffi, lib
config = ffi.new("bufpool_config *", {"size": ffi.sizeof("bufpool_config"), "capacity": 1 << 20, "page_size": 4096})
assert lib.bufpool_config_from_environment(config) == 0
pool = ffi.new("bufpool_pool **")
assert lib.bufpool_open(config, pool) == 0
page = ffi.cast("unsigned char *", lib.bufpool_address(pool[0], 9))
assert page[7] == 0xDB
'''

def test_here():
    exec(NATIVE, {})

def test_program():
    subprocess.run([sys.executable, "-c", NATIVE], check=True)
"""
    result = run(pytester, suite, "--bufpool")
    result.assert_outcomes(failed=2)
    assert result.stdout.str().count("stray read of an unallocated page (page 9 of pool") >= 2


UNITTEST = """
import os, threading, unittest
import bufpool, bufpool.testing

class Tests(bufpool.testing.WatchedTests, unittest.TestCase):
    bufpool_options = "provenance=last"

    def setUp(self):
        self.pool = bufpool.Pool("1 MiB", name="unit")
        self.addCleanup(self.pool.close)
        self.assertEqual(self.pool.provenance, "last")
        self.page = self.pool.allocate()

    def test_good(self):
        self.assertEqual(self.page[0], 0)

    def test_swallowed(self):
        self.page.free()
        with self.assertRaises(bufpool.StrayAccessError):
            self.page[0]

    def test_thread(self):  # the close of the pool raises it as well
        self.page.free()
        thread = threading.Thread(target=lambda: self.page.array("u1")[0])
        thread.start()
        thread.join()

    def test_taken(self):
        self.page.free()
        with self.assertRaises(bufpool.StrayAccessError):
            self.page[0]
        self.assertEqual(len(self.bufpool_faults.take()), 1)

    @unittest.skip("never")
    def test_skipped(self):
        pass

    def test_watch_in_a_watch(self):
        with self.assertRaises(AssertionError), bufpool.testing.watch_faults():
            self.page.free()
            self.page.buffer[0]

    def test_none_is_left(self):
        self.assertEqual(self.bufpool_faults.reports, ())

class Block(unittest.TestCase):
    def test_block(self):
        with bufpool.testing.watch_faults() as faults:
            with bufpool.Pool("1 MiB") as pool:
                self.assertEqual(pool.provenance, "stacks")
                with self.assertRaises(bufpool.StrayAccessError):
                    pool.page(7)[0]
            self.assertEqual([report.page for report in faults.take()], [7])
        with self.assertRaisesRegex(AssertionError, "2 stray accesses, the first: stray read of an unallocated page"):
            with bufpool.testing.watch_faults(), bufpool.Pool("1 MiB") as pool:
                for number in (7, 8):
                    with self.assertRaises(bufpool.StrayAccessError):
                        pool.page(number)[0]
        self.assertNotIn("BUFPOOL_TESTING", os.environ)
        with bufpool.Pool("1 MiB") as pool:
            self.assertEqual(pool.provenance, "off")

unittest.main(argv=["unit"])
"""


def test_unittest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(unit=UNITTEST)
    result = subprocess.run(
        [sys.executable, "-W", "error", "unit.py"], capture_output=True, text=True, timeout=100, check=False
    )
    assert "FAILED (failures=2, errors=1, skipped=1)" in result.stderr, result.stderr
    assert "FAIL: test_swallowed" in result.stderr
    assert "FAIL: test_thread" in result.stderr
    assert 'AssertionError: stray read of a freed page (page 0 of pool "unit", offset 0)' in result.stderr
