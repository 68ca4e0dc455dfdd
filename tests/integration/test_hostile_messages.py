"""Every kind of message, empty and with each field absent, to every port: no process ends, and all goes on working."""

import json
import subprocess

import pytest

from cluster import BIN, SANITIZER, wait_for
from idx import small_job

STORM = BIN / "message_storm"


def storm(*arguments):
    done = subprocess.run([STORM, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-2])


def pids(cluster):
    return {(s["role"], s["pid"]) for s in cluster.services()}


@pytest.mark.parametrize("role", ["registry", "gateway"])
def test_strangers_at_a_port(stripes, role):
    before = pids(stripes)
    assert storm("dial", f"127.0.0.1:{stripes.service(role)['ports']['bus']}") > 1000
    assert pids(stripes) == before
    stripes.wait_ready()
    assert stripes.get("/api/v1/models").status_code == 200
    assert stripes.predict("stripes", [[[20] * 8] * 8]).status_code == 200
    stripes.train(small_job())


@pytest.mark.parametrize("role", ["trainer", "inferencer"])
def test_a_false_gateway_at_a_worker(stripes, role, tmp_path):
    """A worker that dials a gateway which means ill, while it also belongs to an honest installation's registry."""
    bound = subprocess.Popen([STORM, "bind"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    announced = tmp_path / "ports.json"
    log = open(tmp_path / "worker.log", "wb")
    ports = stripes.service("registry")["ports"]
    arguments = [f"--gateways=127.0.0.1:{bound.stdout.readline().strip()}", f"--registry=127.0.0.1:{ports['bus']}",
                 "--metrics-port=0", f"--announce={announced}"]
    if role == "inferencer":
        arguments += [f"--registry-events=127.0.0.1:{ports['events']}", f"--cache-dir={tmp_path / 'files'}"]
    else:
        arguments += [f"--work-dir={tmp_path / 'files'}"]
    worker = subprocess.Popen([BIN / f"slipway-{role}", *arguments], stdout=log, stderr=log)
    try:
        assert bound.wait(300) == 0, bound.stderr.read()
        assert worker.poll() is None, (tmp_path / "worker.log").read_text(errors="replace")
        wait_for(announced.exists, 30, "the worker's ports")
        metrics = json.loads(announced.read_text())["metrics"]
        assert stripes.http.get(f"http://127.0.0.1:{metrics}/healthz", timeout=10).status_code == 200
    finally:
        for process in (bound, worker):
            if process.poll() is None:
                process.terminate()
        assert worker.wait(60 * (5 if SANITIZER else 1)) in (0, -15)
        bound.wait(10)
        log.close()
