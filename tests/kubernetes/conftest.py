"""One release for all tests that want predictions served; tests of installing have their own."""

import pytest

from kube import Release


@pytest.fixture(scope="session")
def release():
    found = Release("ml")
    found.install()
    found.wait_settled()
    if found.request("GET", "/v1/models/helm-test").status_code != 200:
        found.helm("test", "--timeout", "180s")
    return found
