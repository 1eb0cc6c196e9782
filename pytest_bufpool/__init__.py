"""The pytest plugin: `pytest --bufpool[=options]` fails every test that strays. What it does is bufpool._pytest.

Beside the package, so that a run without --bufpool does not import that: this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import bufpool
    from bufpool.testing import Watch

_NAME = "bufpool-watch"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--bufpool."""
    parser.getgroup("bufpool", "stray accesses to buffer pools").addoption(
        "--bufpool",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="fail each test that touches a page that it must not; OPTIONS as key=value:key=value are defaults of the "
        "pools that it makes (default: what BUFPOOL_OPTIONS says, or preset=test)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker; and if it is asked for, all the rest."""
    config.addinivalue_line("markers", "bufpool(**options): what the pool of the fixture bufpool_pool is opened with")
    text = config.getoption("--bufpool")
    if text is not None:
        from bufpool._pytest import plugin

        config.pluginmanager.register(plugin(config, text), _NAME)


@pytest.fixture
def bufpool_pool(request: pytest.FixtureRequest) -> Iterator[bufpool.Pool]:
    """A pool of 1 GiB of addresses, or as the marker bufpool(**options) says; closed when the test is over."""
    import bufpool

    name = request.node.name.encode()[:63].decode(errors="ignore")
    marker = request.node.get_closest_marker("bufpool")
    pool = bufpool.Pool(**{"capacity": "1 GiB", "name": name, **(marker.kwargs if marker else {})})
    yield pool
    pool.close()


@pytest.fixture
def bufpool_faults(request: pytest.FixtureRequest) -> Iterator[Watch]:
    """What this test has strayed: .reports; .take() gives it and forgives it. A test that has it is always watched."""
    plugin = request.config.pluginmanager.get_plugin(_NAME)
    if plugin is not None:
        yield plugin.watch
        return
    from bufpool.testing import watch_faults

    with watch_faults("") as watch:
        yield watch
