"""What an operator leans on: health, metrics, logs, draining, limits that push back."""

import concurrent.futures
import contextlib
import http.server
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest
import requests
import torch

from cluster import BIN, measures_memory, wait_for
from idx import four_files, small_job

IMAGE = [[20] * 8] * 8


def test_every_service_has_metrics_and_health(stripes):
    stripes.predict("stripes", [IMAGE])
    for service in stripes.services():
        base = f"http://127.0.0.1:{service['ports']['metrics']}"
        assert requests.get(base + "/healthz", timeout=10).status_code == 200
        assert requests.get(base + "/readyz", timeout=10).status_code == 200
        names = {line.split("{")[0].split(" ")[0] for line in requests.get(base + "/metrics", timeout=10).text.splitlines()
                 if line and not line.startswith("#")}
        own = [n for n in names if n.startswith(f"slipway_{service['role']}_")]
        assert own, (service["role"], sorted(names))


def test_predictions_and_readiness_do_not_need_the_registry(stripes):
    stripes.predict("stripes", [IMAGE])
    ready = f"http://127.0.0.1:{stripes.service('gateway')['ports']['metrics']}/readyz"
    stripes.kill("registry", signal.SIGSTOP)
    try:
        slowest, answers = 0, 0

        def away():
            nonlocal slowest, answers
            begun = time.monotonic()
            answer = stripes.predict("stripes", [IMAGE])
            slowest, answers = max(slowest, time.monotonic() - begun), answers + 1
            assert answer.status_code == 200, answer.text
            return stripes.metrics("gateway")["slipway_gateway_registry_up"] == 0
        wait_for(away, 60, "the gateway noticing that the registry is silent")
        for _ in range(100):
            away()
        assert slowest < 2, (slowest, answers)  # the registry's deadline is 10 s
        assert requests.get(ready, timeout=10).status_code == 200
        assert stripes.get("/v2/health/ready").json() == {"live": True, "ready": True}
    finally:
        stripes.kill("registry", signal.SIGCONT)
    wait_for(lambda: stripes.metrics("gateway")["slipway_gateway_registry_up"] == 1, 60)


def test_a_gateway_that_starts_is_ready_once_it_knows_the_models(start):
    cluster = start()
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30)

    def ready():
        return requests.get(f"http://127.0.0.1:{cluster.service('gateway')['ports']['metrics']}/readyz", timeout=10)

    def welcomed():
        with contextlib.suppress(requests.ConnectionError):  # it has only just started
            return cluster.metrics("gateway").get('slipway_gateway_workers{role="inferencer"}') == 1
    cluster.kill("registry", signal.SIGSTOP)
    try:
        cluster.wait_restarted("gateway", cluster.kill("gateway", signal.SIGKILL))
        wait_for(welcomed, 60, "the inferencer having found the new gateway")
        assert ready().status_code == 503 and "models" in ready().text
    finally:
        cluster.kill("registry", signal.SIGCONT)
    wait_for(lambda: ready().status_code == 200, 60, "the gateway being ready")
    cluster.kill("registry", signal.SIGSTOP)
    try:
        assert cluster.predict("stripes", [IMAGE]).status_code == 200, "nobody asked this gateway for it before"
    finally:
        cluster.kill("registry", signal.SIGCONT)


def test_a_gateway_without_inferencers_is_not_ready(start):
    cluster = start()
    ready = f"http://127.0.0.1:{cluster.service('gateway')['ports']['metrics']}/readyz"
    cluster.kill("inferencer", signal.SIGSTOP)
    try:
        wait_for(lambda: requests.get(ready, timeout=10).status_code == 503, 60, "the gateway missing its inferencer")
        assert cluster.get("/v2/health/ready").status_code == 400
        assert cluster.get("/api/v1/models").status_code == 200
    finally:
        cluster.kill("inferencer", signal.SIGCONT)
    wait_for(lambda: requests.get(ready, timeout=10).status_code == 200, 60, "the gateway being ready again")


def test_a_gateway_may_be_ready_without_inferencers(start):
    cluster = start("--inferencers=0")
    gateway = cluster.service("gateway")
    assert requests.get(f"http://127.0.0.1:{gateway['ports']['metrics']}/readyz", timeout=10).status_code == 200
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    answer = cluster.predict("stripes", [IMAGE])
    assert answer.status_code == 503 and "Retry-After" in answer.headers, answer.text


def test_inputs_over_one_frame_of_the_bus_travel(start):
    cluster = start("--inferencer-arg=--max-queued-rows=100000")
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    rows = 80_000  # 20 MiB; a frame has 16
    answer = cluster.post("/v1/models/stripes:predict", data='{"instances":[' + ",".join([json.dumps(IMAGE)] * rows) + "]}")
    assert answer.status_code == 200, answer.text[:300]
    predictions = answer.json()["predictions"]
    assert len(predictions) == rows
    few = cluster.predict("stripes", [IMAGE]).json()["predictions"][0]
    assert all(abs(a - b) < 1e-5 for a, b in zip(predictions[0] + predictions[-1], few + few))


class Wide(torch.nn.Module):
    """A million numbers for each row."""

    def forward(self, x):
        return x.repeat([1, 1_000_000])


class Many(torch.nn.Module):
    """As many outputs as one answer carries."""

    def forward(self, x):
        return [x * i for i in range(256)]


def upload(cluster, name, module):
    """A model with one number as its input."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    signature = {"inputs": [{"name": "x", "dtype": "f32", "shape": [-1, 1]}]}
    answer = cluster.post(f"/api/v1/models/{name}/versions", files=[
        ("signature", (None, json.dumps(signature), "application/json")), ("file", ("model.pt", buffer.getvalue()))])
    assert answer.status_code == 201, answer.text


def test_answers_that_are_wide_or_of_many_outputs_come_whole(start):
    cluster = start("--trainers=0")
    upload(cluster, "wide", Wide())
    upload(cluster, "many", Many())
    wait_for(lambda: cluster.predict("wide", [[0.5]]).status_code == 200, 30)
    answer = cluster.predict("wide", [[float(i)] for i in range(5)])  # 20 MB: more than a frame of the bus
    assert answer.status_code == 200, answer.text[:300]
    predictions = answer.json()["predictions"]
    assert [(len(row), set(row)) for row in predictions] == [(1_000_000, {float(i)}) for i in range(5)]
    question = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}
    answer = wait_for(lambda: (a := cluster.post("/v2/models/many/infer", json=question)).status_code == 200 and a, 30)
    outputs = answer.json()["outputs"]
    assert [(o["shape"], o["data"]) for o in outputs] == [([2, 1], [i, 2 * i]) for i in range(256)]


@measures_memory
def test_large_answers_that_nobody_reads_do_not_fill_the_memory(start):
    """A row's answer takes 4 MB, and up to 16 MB as text, of the 100 MiB that all may take."""
    cluster = start("--gateway-arg=--max-buffered-bytes=104857600")
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    upload(cluster, "wide", Wide())
    assert len(cluster.predict("wide", [[0.5]]).json()["predictions"][0]) == 1_000_000
    before = cluster.rss_mib("gateway")
    body = b'{"instances":[[0.123456]]}'
    host, port = cluster.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as open_ones:
        slow = [open_ones.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(40)]
        for one in slow:
            one.sendall(b"POST /v1/models/wide:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                        + body)
        statuses = [one.recv(12)[9:].decode() for one in slow]  # and nothing more is read
        assert set(statuses) == {"200", "503"}, statuses
        assert statuses.count("200") <= 25, statuses
        assert cluster.predict("stripes", [IMAGE]).status_code == 200
        assert cluster.rss_mib("gateway") - before < 250
    # Their places come back with the connections.
    wait_for(lambda: cluster.predict("wide", [[0.5]]).status_code == 200)
    too_many = cluster.predict("wide", [[0.5]] * 6)
    assert too_many.status_code == 413 and "--max-buffered-bytes" in too_many.text, too_many.text[:300]


def test_the_root_tells_where_to_go(stripes):
    text = stripes.get("/")
    assert text.headers["Content-Type"].startswith("text/plain") and "/openapi.json" in text.text
    page = stripes.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["Content-Type"].startswith("text/html") and 'href="/v2"' in page.text
    assert stripes.get("/", headers={"Host": "evil.example"}).status_code == 403


@measures_memory
def test_idle_gateway_and_registry_are_small(start):
    cluster = start()
    for role in ("gateway", "registry"):
        print(role, f"{cluster.rss_mib(role):.1f} MiB")
        assert cluster.rss_mib(role) < 64, role


def test_logs_can_be_json(start):
    cluster = start(*[f"--{role}-arg=--log-format=json" for role in ("registry", "gateway", "trainer", "inferencer")])
    cluster.get("/api/v1/models")
    for role in ("registry", "gateway"):  # and stay so, and short, whatever strangers send
        port = cluster.service(role)["ports"]["bus"]
        subprocess.run([BIN / "message_storm", role, f"127.0.0.1:{port}"], check=True, timeout=300, stdout=subprocess.DEVNULL)
    files = list((cluster.state / "logs").glob("*.log"))
    assert files
    for path in files:
        role = path.stem.rpartition("-")[0]
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert 0 < len(lines) < 100, (path, len(lines))
        for line in lines:
            assert {"time", "level", "service", "message"} <= set(line) and line["service"] == role, (path.name, line)


def test_a_full_queue_pushes_back(start):
    cluster = start("--gateway-arg=--max-queued-requests=4", "--inferencer-arg=--max-queued-rows=64",
                    "--inferencer-arg=--max-batch-rows=64")
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30)
    url = cluster.url + "/v1/models/stripes:predict"
    body = json.dumps({"instances": [IMAGE] * 64})

    def ask(_):
        answer = requests.post(url, data=body, timeout=60)
        return answer.status_code, answer.headers.get("Retry-After")

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(400)))
    assert {status for status, _ in answers} <= {200, 503}
    assert any(status == 200 for status, _ in answers)
    assert all(retry for status, retry in answers if status == 503)
    assert cluster.predict("stripes", [IMAGE]).status_code == 200


def test_a_deadline_is_kept(start):
    cluster = start()
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30)
    cluster.kill("inferencer", signal.SIGSTOP)
    try:
        begin = time.monotonic()
        answer = cluster.predict("stripes", [IMAGE], headers={"X-Request-Timeout-Ms": "300"})
        assert answer.status_code in (503, 504), answer.text
        assert time.monotonic() - begin < 5
    finally:
        cluster.kill("inferencer", signal.SIGCONT)
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30, "the inferencer coming back")


def test_a_stopping_gateway_answers_what_it_has(start):
    cluster = start()
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30)
    url = cluster.url + "/v1/models/stripes:predict"

    def ask(_):
        try:
            return requests.post(url, json={"instances": [IMAGE] * 32}, timeout=60).status_code
        except requests.ConnectionError as error:
            # Refused before anything was sent is fine, an answer lost on the way is not.
            return "refused" if "refused" in str(error).lower() else f"lost: {error}"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, i) for i in range(200)]
        wait_for(lambda: sum(a.done() for a in asked) > 20, 30)
        cluster.kill("gateway", signal.SIGTERM)
        outcomes = [a.result() for a in asked]
    assert set(outcomes) <= {200, 503, "refused"}, set(outcomes)


def test_stopping_everything_exits_with_0_and_leaves_no_process(start):
    cluster = start()
    pids = [s["pid"] for s in cluster.services()]
    assert cluster.stop() == 0
    for pid in pids:
        with pytest.raises(FileNotFoundError):
            open(f"/proc/{pid}/status").close()


def slipway(cluster, *arguments, check=True, stdin=""):
    result = subprocess.run([BIN / "slipway", "--server", cluster.url, *arguments], input=stdin, capture_output=True,
                            text=True, timeout=300)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_the_command_line_does_the_main_job(start, tmp_path):
    cluster = start()
    for name, data in four_files(compress=True).items():
        (tmp_path / name).write_bytes(data)
    job = tmp_path / "job.json"
    job.write_text(json.dumps(small_job(epochs=3)))
    image = tmp_path / "image.json"
    image.write_text(json.dumps(IMAGE))
    put = slipway(cluster, "dataset", "put", "stripes", *map(str, sorted(tmp_path.glob("*.gz"))))
    assert "stripes" in put.stdout
    assert "stripes" in slipway(cluster, "dataset", "list").stdout
    train = slipway(cluster, "train", str(job), "--watch")
    assert "accuracy" in train.stdout + train.stderr and "version 1 is ready" in train.stdout
    listed = json.loads(slipway(cluster, "--json", "jobs").stdout)
    assert listed[0]["state"] == "SUCCEEDED"
    assert "stripes" in slipway(cluster, "models").stdout
    slipway(cluster, "alias", "set", "stripes", "prod", "1", "--reason", "try")
    history = slipway(cluster, "alias", "history", "stripes", "prod").stdout
    assert "try" in history and "anonymous" in history, history
    predicted = slipway(cluster, "predict", "stripes", "--file", str(image))
    assert predicted.stdout.strip()
    measured = slipway(cluster, "evaluate", "stripes", "--images", str(tmp_path / "t10k-images-idx3-ubyte.gz"),
                       "--labels", str(tmp_path / "t10k-labels-idx1-ubyte.gz"))
    accuracy = float(measured.stdout.strip().splitlines()[-1].removeprefix("test accuracy "))
    assert accuracy > 0.9, measured.stdout


def test_a_prediction_may_be_compared_as_helm_test_does(start):
    """The very files and steps of the chart's test."""
    chart = pathlib.Path(__file__).resolve().parents[2] / "charts" / "slipway"
    steps = (chart / "templates" / "tests" / "main-line.yaml").read_text()
    steps = [re.findall(r'"([^"]+)"', words) for words in re.findall(r'"args" \(list ([^)]*)\)', steps)]
    assert [step[0] for step in steps] == ["dataset", "train", "predict"]
    cluster = start()
    for step in steps:
        slipway(cluster, *(word.replace("/etc/slipway-test", str(chart / "files" / "test")) for word in step))

    predict = steps[-1][:steps[-1].index("--expect")]
    other = slipway(cluster, *predict, "--expect", "7.2", "--tolerance", "0.1", check=False)
    assert other.returncode == 1 and re.search(r"the answer is \[(6.9|7)[\d.]*\], not 7.2 within 0.1", other.stderr), other.stderr
    assert slipway(cluster, *predict, "--expect", "seven", check=False).returncode == 2
    assert slipway(cluster, *predict, "--tolerance", "1", check=False).returncode == 2
    slipway(cluster, *predict[:2], "--input", "[3]", "--expect", "[7]", "--tolerance", "0.1")


def test_the_doctor_finds_nothing_and_then_what_is_wrong(start):
    cluster = start()
    well = slipway(cluster, "doctor")
    assert "Nothing is wrong." in well.stdout and "inferencers: 1, trainers: 1" in well.stdout, well.stdout
    document = cluster.get("/api/v1/doctor").json()
    assert document["findings"] == [] and document["unreadable"] == {"total": 0, "items": []}
    assert document["registry"] == {"reachable": True, "error": None} and document["quarantined"] == []
    registry = cluster.kill("registry", signal.SIGSTOP)
    try:
        ill = slipway(cluster, "doctor", check=False)
        assert ill.returncode == 1 and "does not answer" in ill.stdout, ill.stdout
        found = json.loads(slipway(cluster, "--json", "doctor", check=False).stdout)
        assert "registry_unreachable" in [f["code"] for f in found["findings"]] and found["quarantined"] is None
    finally:
        os.kill(registry, signal.SIGCONT)


def test_the_services_share_a_secret_that_only_their_owner_may_read(start):
    cluster = start()
    secret = cluster.state / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600 and len(secret.read_text().strip()) == 64
    for service in cluster.services():
        command = open(f"/proc/{service['pid']}/cmdline").read()
        assert secret.read_text().strip() not in command, service["name"]


def test_the_command_line_says_what_is_wrong(start, tmp_path):
    cluster = start()
    bad = tmp_path / "bad.json"
    bad.write_text('{"publish": {"model": "x"}}')
    refused = slipway(cluster, "train", str(bad), check=False)
    assert refused.returncode == 1 and "$" in refused.stderr, refused
    assert slipway(cluster, "jobs", "job-99", check=False).returncode == 1
    for words in (["no-such-command"], ["dataset", "no-such-command"]):
        unknown = slipway(cluster, *words, check=False)
        assert unknown.returncode == 2 and "no command 'no-such-command'" in unknown.stderr, unknown
    assert slipway(cluster, "jobs", "--limit", "0", check=False).returncode == 2
    piped = slipway(cluster, "train", "-", check=False, stdin='{"publish": {"model": "x"}}')
    assert piped.returncode == 1 and "$" in piped.stderr, piped
    away = subprocess.run([BIN / "slipway", "--server", "http://127.0.0.1:1", "models"], capture_output=True, text=True, timeout=60)
    assert away.returncode == 3 and "127.0.0.1:1" in away.stderr, away


def test_the_command_line_may_wait_for_a_server_to_come():
    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"items": []}')

    def models(port, seconds):
        return subprocess.Popen([BIN / "slipway", f"--server=http://127.0.0.1:{port}", f"--connect-within={seconds}", "models"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    begun = time.monotonic()
    assert models(port, 1).wait(60) == 3
    assert time.monotonic() - begun >= 1
    waiting = models(port, 60)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    server = http.server.HTTPServer(("127.0.0.1", port), Empty)
    try:
        server.timeout = 30
        server.handle_request()
        assert waiting.wait(60) == 0, waiting.stderr.read()
    finally:
        server.server_close()
