"""What the services show on /metrics after the main job is what docs/metrics.md lists; autoscalers read the same as JSON."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from cluster import wait_for
from idx import small_job

DOCUMENT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
ROLES = ("gateway", "registry", "trainer", "inferencer")


def table():
    """Name -> (type, labels, section)."""
    rows = {}
    for section in DOCUMENT.split("\n## ")[1:]:
        for name, kind, labels in re.findall(r"^\| `(slipway_\w+)` \| (\w+) \| ?([^|]*?) ?\|", section, re.M):
            rows[name] = (kind, set(re.findall(r"`(\w+)`", labels)), section.splitlines()[0].lower())
    return rows


def shown(cluster, role):
    return cluster.http.get(f"http://127.0.0.1:{cluster.service(role)['ports']['metrics']}/metrics", timeout=10).text


def families(text):
    """Name -> (type, labels) of what a process shows."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    found = {name: (kind, set()) for name, kind in kinds.items()}
    for sample, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.M):
        name = sample if sample in kinds else re.sub(r"_(bucket|sum|count)$", "", sample)
        found[name][1].update(set(re.findall(r'(\w+)="', labels)) - {"le"})
    return found


@pytest.fixture(scope="module")
def texts(stripes):
    stripes.predict("stripes", [[[0] * 28] * 28])
    return {role: shown(stripes, role) for role in ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_what_is_shown_is_documented(texts, role):
    rows = table()
    for name, (kind, labels) in families(texts[role]).items():
        assert name in rows, f"{name} is not in docs/metrics.md"
        assert (kind, labels) == rows[name][:2], name
        assert rows[name][2] in (role, "all services"), name


def test_what_is_documented_is_shown(texts):
    """But for the families with labels of which nothing has happened: they come with their first value."""
    for name, (_, labels, section) in table().items():
        for role in ROLES if section == "all services" else (section,):
            if not labels:
                assert f"# TYPE {name} " in texts[role], (role, name)


def test_prometheus_finds_no_fault(texts):
    promtool = shutil.which(os.environ.get("SLIPWAY_PROMTOOL", "")) or shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: ./dev chart prepares it")
    for role in ROLES:
        done = subprocess.run([promtool, "check", "metrics"], input=texts[role], text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_autoscalers_read_outstanding_work_as_json(stripes):
    def signals(role):
        return stripes.http.get(f"http://127.0.0.1:{stripes.service(role)['ports']['metrics']}/autoscaling", timeout=10).json()

    wait_for(lambda: signals("registry") == {"jobs": {"outstanding": 0, "queued": 0}}, 10, "no job outstanding")
    assert signals("gateway") == {"predictions": {"outstanding": 0, "queued": 0}, "requests": {"inflight": 0}}
    stripes.kill("trainer", signal.SIGSTOP)  # the job waits
    try:
        job = stripes.submit(small_job())
        wait_for(lambda: signals("registry")["jobs"]["outstanding"] == 1, 30, "a job outstanding")
    finally:
        stripes.kill("trainer", signal.SIGCONT)
    assert stripes.wait_job(job)["state"] == "SUCCEEDED"
    wait_for(lambda: signals("registry")["jobs"]["outstanding"] == 0, 10, "no job outstanding")
