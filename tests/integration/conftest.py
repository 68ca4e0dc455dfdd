"""Real processes, real sockets. A cluster is shared by the tests of a file unless a test breaks or counts things."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

from cluster import Cluster  # noqa: E402
from idx import four_files, small_job  # noqa: E402


@pytest.fixture
def start():
    """Starts clusters that end with the test."""
    clusters = []

    def begin(*arguments, **kwargs):
        clusters.append(Cluster(*arguments, **kwargs))
        return clusters[-1]

    yield begin
    for cluster in clusters:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def stripes(cluster):
    """The cluster with the data set `stripes` and a model of that name trained on it, version 1."""
    answer = cluster.put_dataset("stripes", four_files())
    assert answer.status_code == 201, answer.text
    cluster.train(small_job())
    return cluster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the services logged."""
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        for name in ("cluster", "stripes"):
            if isinstance(item.funcargs.get(name), Cluster):
                report.sections.append(("service logs", item.funcargs[name].logs()))
                break
        if hasattr(item.funcargs.get("fleet"), "logs"):
            report.sections.append(("service logs", item.funcargs["fleet"].logs()))
