"""One release for all tests that want predictions served; tests of installing have their own. Which tests run side by side."""

import pytest

from kube import ON_DRILL_NODES, Release

# Each lane runs by itself, the longest first. What drains nodes, or measures how long requests take, is in one.
LANES = dict.fromkeys(("test_availability", "test_network", "test_nodes", "test_scaling"), "serving")


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in this hook, too
def pytest_collection_modifyitems(items):
    def lane(item):
        module = item.module.__name__
        return LANES.get(module) or module + "".join(f"-{name}" for name in ("helm4", "helm3") if name in item.name)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(lane(item)))
    items.sort(key=lambda item: (lane(item) != "serving", lane(item)))


@pytest.fixture(scope="session")
def release():
    found = Release("serving", 4, *ON_DRILL_NODES, "trainer.resources.limits.cpu=500m")
    found.install()
    found.wait_settled()
    if found.request("GET", "/v1/models/helm-test").status_code != 200:
        found.helm("test", "--timeout", "180s")
    return found
