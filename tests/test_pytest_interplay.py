"""`pytest --bufpool` with unittest, asyncio, time-outs, capturing, and strays outside of the tests."""

from __future__ import annotations

import pytest
from plugin_runs import run

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUFPOOL_OPTIONS", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


UNITTEST = """
import bufpool.testing

class TestPlain(unittest.TestCase):
    def setUp(self):
        self.pool = bufpool.Pool("1 MiB", name="unit", on_fault="resume")
        self.addCleanup(self.pool.close)

    def test_good(self):
        self.pool.allocate()[0]

    def test_swallowed(self):
        with self.assertRaises(bufpool.StrayAccessError):
            stray(self.pool, "guarded")

    def test_view(self):
        stray(self.pool)

    def test_thread(self):
        thread = threading.Thread(target=swallowed, args=(self.pool,))
        thread.start()
        thread.join()

    @unittest.expectedFailure
    def test_expected(self):
        stray(self.pool)
        self.fail()

class TestAsync(unittest.IsolatedAsyncioTestCase):
    async def test_good_task(self):
        with bufpool.Pool("1 MiB") as pool:
            await asyncio.to_thread(pool.allocate)

    async def test_task(self):
        with bufpool.Pool("1 MiB", name="async") as pool:
            async def work():
                swallowed(pool)
            await asyncio.gather(work(), asyncio.to_thread(swallowed, pool))

class TestWatched(bufpool.testing.WatchedTests, unittest.TestCase):
    def test_bad(self):
        with bufpool.Pool("1 MiB", name="watched") as pool:
            swallowed(pool)

    def test_good_taken(self):
        with bufpool.Pool("1 MiB") as pool:
            swallowed(pool)
        self.assertEqual(len(self.bufpool_faults.take()), 1)

def test_coroutine(bufpool_pool):
    async def main():
        await asyncio.sleep(0)
        stray(bufpool_pool)
    asyncio.run(main())
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_unittest_and_asyncio(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = run(pytester, UNITTEST, "--bufpool", *workers)
    failed = {line.split("::test_")[1].split(" ")[0] for line in result.outlines if line.startswith("FAILED")}
    assert failed == {"swallowed", "view", "thread", "task", "bad", "coroutine"}
    result.assert_outcomes(failed=6, passed=3, xfailed=1)
    text = result.stdout.str()
    assert '2 stray accesses, the first: stray read of a freed page (page 0 of pool "async"' in text
    assert 'AssertionError: stray read of a freed page (page 0 of pool "watched"' in text
    assert "self = <bufpool.testing.Watch" not in text  # the traceback ends in the test
    assert "outside of the tests" not in text


OUTSIDE = """
at_import = bufpool.Pool("1 MiB", name="at import", on_fault="resume")
stray(at_import)

def test_good(bufpool_pool):
    bufpool_pool.allocate()
"""
CONFTEST = """
import bufpool

def pytest_sessionfinish(session):
    with bufpool.Pool("1 MiB", name="at the end", on_fault="resume") as pool:
        pool.page(3).array("u1")[0]
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "1"), ("--collect-only",)], ids=["alone", "xdist", "collect"])
def test_strays_at_import_and_at_the_end_fail_the_run(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makeconftest(CONFTEST)
    result = run(pytester, OUTSIDE, "--bufpool", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=0 if arguments == ("--collect-only",) else 1)
    result.stdout.fnmatch_lines(["*bufpool: stray accesses outside of the tests*", '*"at import"*', '*"at the end"*'])


FIXTURES = """
@pytest.fixture(scope="session")
def long():
    with bufpool.Pool("1 MiB", name="long") as pool:
        yield pool
        swallowed(pool)

@pytest.fixture
def dirty():
    yield
    with bufpool.Pool("1 MiB", name="dirty") as pool:
        swallowed(pool)

def test_good(long):
    pass

def test_teardown(dirty):
    pass

def test_last(long):
    pass
"""


def test_strays_of_a_teardown_are_errors(pytester: pytest.Pytester) -> None:
    result = run(pytester, FIXTURES, "--bufpool")
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_teardown*", "*ERROR at teardown of test_last*"])
    assert "outside of the tests" not in result.stdout.str()


def test_a_run_cut_short_tears_its_fixtures_down_watched(pytester: pytest.Pytester) -> None:
    suite = FIXTURES.replace("def test_good(long):\n    pass", "def test_good(long):\n    pytest.exit('enough')")
    result = run(pytester, suite, "--bufpool")
    result.stdout.fnmatch_lines(["*bufpool: stray accesses outside of the tests*", '*page 0 of pool "long" is freed*'])


def test_without_the_plugin(pytester: pytest.Pytester) -> None:
    suite = """
def test_swallowed():
    with bufpool.Pool("1 MiB") as pool:
        swallowed(pool)
"""
    run(pytester, suite, "-p", "no:bufpool").assert_outcomes(passed=1)
    refused = run(pytester, suite, "-p", "no:bufpool", "--bufpool")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*unrecognized arguments: --bufpool"])


def test_a_file_is_not_taken_for_options(pytester: pytest.Pytester) -> None:
    suite = """
@pytest.mark.parametrize("pair", ["a=b"])
def test_good(pair, bufpool_pool):
    assert bufpool_pool.provenance == "stacks"
"""
    for word in (
        "test_a_file_is_not_taken_for_options.py",
        ".",
        "test_a_file_is_not_taken_for_options.py::test_good[a=b]",
    ):
        wrong = run(pytester, suite, "--bufpool", word)
        assert wrong.ret == pytest.ExitCode.USAGE_ERROR
        assert f'--bufpool took "{word}" for its options, and that is where tests are' in wrong.stderr.str()
        assert f"write --bufpool= {word}, or put --bufpool last" in wrong.stderr.str()
    run(pytester, suite, "--bufpool=", word).assert_outcomes(passed=1)
    run(pytester, suite, word, "--bufpool").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\naddopts = --bufpool=")
    run(pytester, suite, word).assert_outcomes(passed=1)


def test_whatever_policy_the_code_asks_for(pytester: pytest.Pytester) -> None:
    suite = """
POLICIES = pytest.mark.parametrize("policy", ["raise", "resume", "abort", "freeze"])

@POLICIES
def test_here(policy):
    pool = bufpool.Pool("1 MiB", on_fault=policy)
    stray(pool)
    try:
        pool.close()
    except bufpool.StrayAccessError:
        pass

@POLICIES
def test_child(policy):
    if os.fork() == 0:
        try:
            swallowed(bufpool.Pool("1 MiB", on_fault=policy))
        finally:
            os._exit(0)
    os.wait()
"""
    result = run(pytester, suite, "--bufpool")
    result.assert_outcomes(failed=8)
    assert result.stdout.str().count("- Captured stray accesses (bufpool) call -") == 8


@pytest.mark.parametrize("capture", ["sys", "no"])
def test_capturing_takes_nothing_from_the_report(pytester: pytest.Pytester, capture: str) -> None:
    suite = """
def test_view():
    with bufpool.Pool("1 MiB", name="resumes", on_fault="resume") as pool:
        stray(pool)
"""
    result = run(pytester, suite, "--bufpool", f"--capture={capture}", "-p", "no:logging")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Captured stray accesses (bufpool) call*", '*page 0 of pool "resumes" is freed*'])


def test_a_timeout_shows_what_strayed_before(pytester: pytest.Pytester) -> None:
    suite = """
@pytest.mark.timeout(3, method="signal")
def test_hangs(bufpool_pool):
    swallowed(bufpool_pool)
    threading.Event().wait()

def test_good(bufpool_pool):
    bufpool_pool.allocate()
"""
    result = run(pytester, suite, "--bufpool")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*Failed: Timeout (>3.0s)*", "*Captured stray accesses (bufpool) call*"])
