"""Every kind of message, empty and with each field absent, to every port: no process ends, and all goes on working."""

import contextlib
import json
import os
import struct
import subprocess

import pytest

from cluster import BIN, SANITIZER, wait_for
from idx import small_job
from zmtp import connect, frame

STORM = BIN / "message_storm"
IMAGE = [[20] * 8] * 8


@pytest.fixture(params=["a stranger", "one who knows the secret"])
def who(request, stripes):
    """The environment of whoever sends, and whether he shows the cluster's secret."""
    known = request.param != "a stranger"
    secret = (stripes.state / "secret").read_text().strip() if known else ""
    return {**os.environ, "SLIPWAY_CLUSTER_SECRET": secret}, known


def told(output):
    """What the storm's last line says: messages sent, answers about the secret, other answers."""
    words = output.split()
    assert words[-5::2] == ["messages", "refused", "taken"], output
    return [int(number) for number in words[-6::2]]


def pids(cluster):
    return {(s["role"], s["pid"]) for s in cluster.services()}


def faults(cluster):
    """Handlers that threw, by what is counted: they are caught, and are faults all the same."""
    return {(role, name): count for role in ("registry", "gateway", "trainer", "inferencer")
            for name, count in cluster.metrics(role).items() if "handler_failures" in name or "bus_thrown" in name}


def works(cluster):
    cluster.wait_ready()
    assert cluster.get("/api/v1/models").status_code == 200
    # Who knows the secret may unload the model and load it again, and may have said that he serves it, before he went.
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30, "a prediction")
    cluster.train(small_job())


@pytest.mark.parametrize("role", ["registry", "gateway"])
def test_anybody_at_a_port(stripes, role, who):
    environment, known = who
    before, faults_before = pids(stripes), faults(stripes)
    done = subprocess.run([STORM, role, f"127.0.0.1:{stripes.service(role)['ports']['bus']}"], capture_output=True, text=True,
                          timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    sent, refused, taken = told(done.stdout)
    assert sent > 1000
    assert (taken > sent / 10 and not refused) if known else (refused > sent / 10 and not taken), done.stdout
    assert pids(stripes) == before
    works(stripes)
    assert pids(stripes) == before and faults(stripes) == faults_before


def test_a_listener_that_talks_to_the_events_port(stripes):
    before = pids(stripes)
    forms = subprocess.run([STORM, "print"], capture_output=True, timeout=60, check=True).stdout
    with connect(stripes.service("registry")["ports"]["events"], kind=b"SUB") as connection:
        connection.sendall(frame(b"\1"))  # to all there is
        at = 0
        while at < len(forms):
            size, = struct.unpack_from(">I", forms, at)
            envelope = forms[at + 4:at + 4 + size]
            at += 4 + size
            # As the end and the begin of a subscription, and as neither. What it begins is kept: not too much of that.
            envelope = envelope[:200]
            connection.sendall(frame(envelope, more=True) + frame(b"\1" + envelope[:100], more=True) + frame(b"\2" + envelope))
        job = stripes.submit(small_job())
        assert list(stripes.events(job))[-1][2]["state"] == "SUCCEEDED", "the gateway hears what happens"
        connection.settimeout(20)
        heard = b""
        while job.encode() not in heard:  # and so does whoever talked
            heard += connection.recv(65536) or pytest.fail("closed")
    # A long topic would take a hundred times its size: whoever sends one is cut off.
    with connect(stripes.service("registry")["ports"]["events"], kind=b"SUB") as greedy:
        with contextlib.suppress(ConnectionError):
            greedy.sendall(frame(b"\1" + bytes(4 << 20)))
            while greedy.recv(65536):
                pass
    assert pids(stripes) == before


@pytest.mark.parametrize("role", ["trainer", "inferencer"])
def test_a_false_gateway_at_a_worker(stripes, role, who, tmp_path):
    """A worker that dials a gateway which means ill, while it also belongs to an honest installation's registry."""
    environment, known = who
    strangers = "slipway_registry_wrong_secrets_total"
    refused_before, faults_before = stripes.metrics("registry")[strangers], faults(stripes)
    bound = subprocess.Popen([STORM, "bind"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    announced = tmp_path / "ports.json"
    log = open(tmp_path / "worker.log", "wb")
    ports = stripes.service("registry")["ports"]
    arguments = [f"--gateways=127.0.0.1:{bound.stdout.readline().strip()}", f"--registry=127.0.0.1:{ports['bus']}",
                 "--metrics-port=0", f"--announce={announced}"]
    if role == "inferencer":
        arguments += [f"--registry-events=127.0.0.1:{ports['events']}", f"--cache-dir={tmp_path / 'files'}"]
    else:
        arguments += [f"--work-dir={tmp_path / 'files'}"]
    worker = subprocess.Popen([BIN / f"slipway-{role}", *arguments], stdout=log, stderr=log, env=environment)
    try:
        assert bound.wait(300) == 0, bound.stderr.read()
        assert told(bound.stdout.read())[2] > 100
        assert worker.poll() is None, (tmp_path / "worker.log").read_text(errors="replace")
        wait_for(announced.exists, 30, "the worker's ports")
        metrics = f"http://127.0.0.1:{json.loads(announced.read_text())['metrics']}"
        assert stripes.http.get(f"{metrics}/healthz", timeout=10).status_code == 200
        assert "\nslipway_bus_thrown_total 0\n" in stripes.http.get(f"{metrics}/metrics", timeout=10).text
        assert (stripes.metrics("registry")[strangers] == refused_before) == known
    finally:
        for process in (bound, worker):
            if process.poll() is None:
                process.terminate()
        assert worker.wait(60 * (5 if SANITIZER else 1)) in (0, -15)
        bound.wait(10)
        log.close()
    assert faults(stripes) == faults_before
