"""What strangers, broken clients and broken peers send: a clear error, and everything goes on."""

import json
import os
import random
import socket
import struct
import subprocess
import time
from urllib.parse import urlsplit

import pytest
import requests

from cluster import BIN, wait_for
from idx import small_job
from zmtp import connect, frame

IMAGE = [[20] * 8] * 8


@pytest.fixture(autouse=True)
def nothing_breaks(stripes):
    """After each test every process is the one it was, and predictions work."""
    before = {s["name"]: s["pid"] for s in stripes.services()}
    yield
    assert {s["name"]: s["pid"] for s in stripes.services()} == before
    assert stripes.predict("stripes", [IMAGE]).status_code == 200


def raw(cluster, data, timeout=20, close=True):
    """Sends bytes as they are; returns what comes back until the other side closes."""
    url = urlsplit(cluster.url)
    with socket.create_connection((url.hostname, url.port), timeout=timeout) as connection:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


# --- JSON ---

@pytest.mark.parametrize("path", ["/v1/models/stripes:predict", "/v2/models/stripes/infer", "/predict", "/api/v1/jobs"])
@pytest.mark.parametrize("body", [b"", b"{", b"[", b"null", b"{}", b"[1,2", b'{"instances": [1,}', b"\xff\xfe", b'"text"',
                                  b'{"instances": "x"}', b'{"instances": {}}', b'{"inputs": 5}', b"{" * 10_000,
                                  b"[" * 10_000, b'{"instances":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
                                  b'{"input":' + b"[" * 10_000 + b"]" * 10_000 + b"}"])
def test_malformed_json_is_a_400(stripes, path, body):
    answer = stripes.post(path, data=body)
    assert answer.status_code == 400, (answer.status_code, answer.text)
    document = answer.json()
    assert document.get("error") or document.get("detail")


@pytest.mark.parametrize("instances", [
    [], [[]], [[1, 2, 3]], [[[0] * 8] * 7], [[[0] * 8] * 7 + [[0] * 9]], [IMAGE, [[0] * 8]], [[["x"] * 8] * 8],
    [[[None] * 8] * 8], [[[True] * 8] * 8], [{"wrong": IMAGE}], [[[[0, 1]] * 8] * 8]])
def test_a_wrong_shape_or_type_is_a_400_that_says_what_is_wanted(stripes, instances):
    answer = stripes.predict("stripes", instances)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "nan", "0x10", "01", "+1", "1.", ".5", "--1"])
def test_what_is_no_number_is_a_400(stripes, number):
    row = ",".join([number] + ["0"] * 63)
    answer = stripes.post("/predict", data=f'{{"model":"stripes","input":[{row}]}}')
    assert answer.status_code == 400, answer.text
    answer = stripes.get("/predict", params={"model": "stripes", "values": row})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_refused_in_every_dialect(stripes, number):
    flat = ",".join([number] + ["0"] * 63)
    for path, body in (("/v1/models/stripes:predict", f'{{"instances":[[{flat}]]}}'),
                       ("/v2/models/stripes/infer", f'{{"inputs":[{{"name":"input","shape":[1,8,8],"datatype":"FP32","data":[{flat}]}}]}}')):
        answer = stripes.post(path, data=body)
        assert answer.status_code == 400 and answer.json()["error"], answer.text


def v2(**changes):
    tensor = {"name": "input", "shape": [1, 8, 8], "datatype": "FP32", "data": [0] * 64, **changes}
    return {"inputs": [{k: v for k, v in tensor.items() if v is not None}]}


@pytest.mark.parametrize("body", [
    v2(name="other"), v2(shape=[1, 8, 9]), v2(shape=[-1, 8, 8]), v2(shape=[2, 8, 8]), v2(datatype="INT64"),
    v2(datatype="FP31"), v2(data=[0] * 63), v2(data=[0] * 65), v2(data=None), v2(shape=None),
    v2(shape=[2**62, 2**62, 8]), {"inputs": []}, {"inputs": v2()["inputs"] * 2}, {"outputs": []},
    {**v2(), "outputs": [{"name": "nope"}]}])
def test_a_bad_v2_request_is_a_400(stripes, body):
    answer = stripes.post("/v2/models/stripes/infer", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


def test_a_body_over_the_limit_is_a_413(stripes):
    answer = stripes.post("/v1/models/stripes:predict", data=b"[" + b"0," * (50 << 20) + b"0]")
    assert answer.status_code == 413, answer.status_code
    assert "67108864" in answer.text, "the error names the limit"


# --- what is not there ---

@pytest.mark.parametrize("path, status", [
    ("/v1/models/none", 404), ("/v1/models/stripes/versions/99", 404), ("/v2/models/none", 404),
    ("/v2/models/stripes/versions/99", 404), ("/api/v1/models/none", 404), ("/api/v1/models/stripes/versions/99", 404),
    ("/api/v1/datasets/none", 404), ("/api/v1/jobs/job-99999", 404), ("/api/v1/jobs/job-99999/events", 404),
    ("/api/v1/models/stripes/versions/1/artifacts/none", 404),
    ("/api/v1/models/stripes/versions/1/artifacts/..%2f..%2fetc%2fpasswd", 404),
    ("/api/v1/none", 404), ("/none", 404)])
def test_what_is_not_there_is_a_404(stripes, path, status):
    answer = stripes.get(path)
    assert answer.status_code == status, answer.text
    if path.startswith("/api/"):
        assert answer.headers["Content-Type"] == "application/problem+json" and answer.json()["status"] == 404


def test_predicting_with_what_is_not_there_is_a_404(stripes):
    assert stripes.predict("none", [IMAGE]).status_code == 404
    assert stripes.post("/v1/models/stripes/versions/99:predict", json={"instances": [IMAGE]}).status_code == 404
    assert stripes.post("/v1/models/stripes/labels/none:predict", json={"instances": [IMAGE]}).status_code == 404
    assert stripes.post("/v2/models/none/infer", json=v2()).status_code == 404
    assert stripes.post("/predict", json={"model": "none", "input": IMAGE}).status_code == 404
    missing = stripes.request("PUT", "/api/v1/models/stripes/aliases/x", json={"version": 99})
    assert missing.status_code == 404, missing.text
    assert stripes.request("DELETE", "/api/v1/models/stripes/aliases/none").status_code == 404
    assert stripes.post("/api/v1/jobs/job-99999/cancel").status_code == 404
    assert stripes.post("/api/v1/jobs", json=small_job(dataset="none")).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/jobs?limt=3", "/api/v1/models?before=x", "/api/v1/models/stripes?verbose",
                                  "/api/v1/datasets/stripes?file=x"])
def test_an_unknown_query_parameter_is_a_400_that_names_it(stripes, path):
    answer = stripes.get(path)
    assert answer.status_code == 400, answer.text
    assert f"'{path.partition('?')[2].partition('=')[0]}'" in answer.json()["detail"]


@pytest.mark.parametrize("method, path", [("PUT", "/api/v1/datasets/a%20b?file=t.csv"),
                                          ("POST", "/api/v1/models/..%2fx/versions")])
def test_a_bad_name_is_refused_before_the_body_is_taken(stripes, method, path):
    head = (f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(stripes.url).netloc}\r\nContent-Length: 5000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n")
    answer = raw(stripes, head.encode(), close=False)  # not one byte of it
    assert answer.startswith(b"HTTP/1.1 400") and b"wanted 1 to 128 letters" in answer, answer


def test_a_key_that_comes_twice_is_a_400_that_names_it(stripes):
    answer = stripes.request("PUT", "/api/v1/models/stripes/aliases/twice", data='{"version": 1, "version": 1}')
    assert answer.status_code == 400 and answer.json()["path"] == "$.version", answer.text
    assert "twice" in answer.json()["detail"]


def test_too_short_a_pause_between_checkpoints_is_refused(stripes):
    answer = stripes.post("/api/v1/jobs", json=small_job(checkpoint_seconds=1e-9))
    assert answer.status_code == 400 and answer.json()["path"] == "$.checkpoint_seconds", answer.text


def test_an_idempotency_key_is_for_one_document(stripes):
    headers = {"Idempotency-Key": "k" * 255}
    first = stripes.post("/api/v1/jobs", json=small_job(model="keyed"), headers=headers)
    assert first.status_code == 202, first.text
    other = stripes.post("/api/v1/jobs", json=small_job(model="keyed", epochs=3), headers=headers)
    assert other.status_code == 409, other.text
    again = stripes.post("/api/v1/jobs", json=small_job(model="keyed"), headers=headers)
    assert again.status_code == 202 and again.json()["id"] == first.json()["id"]
    assert stripes.post("/api/v1/jobs", json=small_job(), headers={"Idempotency-Key": "k" * 256}).status_code == 400
    stripes.wait_job(first.json()["id"])


def test_a_number_is_no_alias(stripes):
    answer = stripes.request("PUT", "/api/v1/models/stripes/aliases/7", json={"version": 1})
    assert answer.status_code == 400 and "alias '7'" in answer.json()["detail"]


def test_a_wrong_method_is_a_405_that_names_the_right_ones(stripes):
    answer = stripes.request("DELETE", "/api/v1/jobs")
    assert answer.status_code == 405 and "GET" in answer.headers["Allow"] and "POST" in answer.headers["Allow"]


# --- jobs ---

def layers(job):
    return job["model"]["config"]["layers"]


def with_change(change):
    job = small_job()
    change(job)
    return job


@pytest.mark.parametrize("change, path", [
    (lambda j: layers(j)[2].update(class_name="Lambda"), "$.model.config.layers[2]"),
    (lambda j: layers(j)[2].update(class_name="FancyLayer"), "$.model.config.layers[2]"),
    (lambda j: layers(j)[2].update(class_name="LSTM"), "$.model.config.layers[2]"),
    (lambda j: layers(j)[2].update(registered_name="mine>Layer"), "$.model.config.layers[2]"),
    (lambda j: layers(j).insert(3, {**layers(j)[3], "class_name": "MaxPooling2D", "config": {}}), "$.model.config.layers[3]"),
    (lambda j: layers(j)[3]["config"].update(units=-1), "$.model.config.layers[3].config.units"),
    (lambda j: layers(j)[3]["config"].update(units="ten"), "$.model.config.layers[3].config.units"),
    (lambda j: layers(j)[4]["config"].update(rate=1.5), "$.model.config.layers[4].config.rate"),
    (lambda j: j["compile"].update(loss="hinge"), "$.compile.loss"),
    (lambda j: j["compile"].update(optimizer="lion"), "$.compile.optimizer"),
    (lambda j: j["fit"].update(epochs=0), "$.fit.epochs"),
    (lambda j: j["fit"].update(batch_size=0), "$.fit.batch_size"),
    (lambda j: j["fit"].update(validation_split=1.0), "$.fit.validation_split"),
    (lambda j: j.update(seed=-1), "$.seed"),
    (lambda j: j.update(callbacks=[{"class_name": "TensorBoard", "config": {}}]), "$.callbacks[0]"),
    (lambda j: j["publish"].update(model="../x"), "$.publish.model"),
    (lambda j: j.pop("publish"), "$"),
    (lambda j: j.pop("model"), "$"),
    (lambda j: j.pop("compile"), "$"),
    (lambda j: j.update(surprise=1), "$.surprise"),
])
def test_a_job_that_cannot_be_trained_is_refused_with_its_path(stripes, change, path):
    answer = stripes.post("/api/v1/jobs", json=with_change(change))
    assert answer.status_code == 400, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["path"].startswith(path), answer.json()
    assert len(answer.json()["detail"]) > 10


def test_a_loss_that_does_not_fit_the_output_is_refused(stripes):
    job = small_job()
    layers(job)[-1]["config"]["units"] = 1
    layers(job)[-1]["config"]["activation"] = "sigmoid"
    answer = stripes.post("/api/v1/jobs", json=job)
    assert answer.status_code == 400 and answer.json()["path"] == "$.compile.loss", answer.text


def test_a_diverging_job_fails_with_a_reason(stripes):
    job = small_job(model="diverging", epochs=50, callbacks=[{"class_name": "TerminateOnNaN", "config": {}}])
    job["compile"] = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 1e30}}, "loss": "mse", "metrics": []}
    layers(job)[-1]["config"]["activation"] = "linear"
    layers(job)[-1]["config"]["units"] = 1
    done = stripes.wait_job(stripes.submit(job))
    assert done["state"] == "FAILED" and done["reason"] == "NAN_LOSS", done


# --- uploaded modules ---

def upload(cluster, data, name="uploaded", headers=None):
    signature = {"inputs": [{"name": "x", "dtype": "f32", "shape": [-1, 4]}]}
    return cluster.post(f"/api/v1/models/{name}/versions", headers=headers, files=[
        ("signature", (None, json.dumps(signature), "application/json")),
        ("file", ("model.pt", data, "application/octet-stream"))])


def saved(module):
    import io

    import torch
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def test_an_upload_that_is_repeated_under_its_key_is_one_version(stripes):
    import torch
    data = saved(torch.nn.Linear(4, 2))
    headers = {"Idempotency-Key": "upload-1", "X-Slipway-Actor": "ann"}
    first = upload(stripes, data, "repeated", headers)
    assert first.status_code == 201, first.text
    again = upload(stripes, data, "repeated", headers)
    assert again.status_code == 201 and again.json() == first.json(), again.text
    other = upload(stripes, saved(torch.nn.Linear(4, 3)), "repeated", headers)
    assert other.status_code == 409 and "SHA-256" in other.json()["detail"], other.text
    assert upload(stripes, data, "repeated", {"Idempotency-Key": "k" * 256}).status_code == 400
    assert upload(stripes, data, "repeated").json()["version"] == 2


def test_what_is_no_torchscript_is_refused(stripes):
    import torch
    good = saved(torch.nn.Linear(4, 2))
    for data in (b"", b"hello", b"PK\x03\x04" + bytes(100), good[:-100], good[: len(good) // 2]):
        answer = upload(stripes, data)
        assert answer.status_code == 400, answer.text
    assert stripes.get("/api/v1/models/uploaded").status_code == 404


def test_a_module_that_runs_code_at_load_is_refused_before_it_is_loaded(stripes, tmp_path):
    import torch
    target = tmp_path / "written"

    class Evil(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(4, 2))

        def forward(self, x):
            return x @ self.w

        @torch.jit.export
        def __getstate__(self):
            return (self.w, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            self.w = state[0]
            self.training = state[1]
            raise RuntimeError("ran at load")

    answer = upload(stripes, saved(Evil()))
    assert answer.status_code == 400 and "__setstate__" in answer.text, answer.text
    assert not target.exists()


def test_a_module_that_touches_files_is_refused(stripes):
    import torch

    class Reader(torch.nn.Module):
        def forward(self, x):
            return x + torch.from_file("/etc/passwd", False, 4, dtype=torch.float32)

    answer = upload(stripes, saved(Reader()))
    assert answer.status_code == 400 and "from_file" in answer.text, answer.text


# --- HTTP ---

@pytest.mark.parametrize("request_text", [
    b"GET /v2 HTTP/1.1\r\n\r\n",                                                     # no Host
    b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\nGET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET /v2 HTTP/1.1\nHost: localhost\n\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    b"nonsense\r\n\r\n",
])
def test_a_request_that_could_smuggle_is_refused_and_the_connection_closed(stripes, request_text):
    answer = raw(stripes, request_text + b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", close=False)
    assert answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 5") or answer == b"", answer
    assert answer.count(b"HTTP/1.1 ") <= 1, "the rest must not be read as a second request"


def test_trailers_are_refused(stripes):
    body = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n"
    assert raw(stripes, body, close=False).startswith(b"HTTP/1.1 400")


def test_too_many_header_bytes_are_a_431(stripes):
    for headers in (b"X: " + b"a" * 20_000 + b"\r\n", b"".join(b"X%d: a\r\n" % i for i in range(200))):
        answer = raw(stripes, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n", close=False)
        assert answer.startswith(b"HTTP/1.1 431"), answer[:100]


def test_pipelined_requests_are_answered_in_order(stripes):
    data = b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"/v2/health/live", b"/none", b"/v2"))
    answer = raw(stripes, data)
    assert answer.index(b'"live"') < answer.index(b" 404 ") < answer.rindex(b"HTTP/1.1 200"), answer


def test_expect_continue_is_answered(stripes):
    url = urlsplit(stripes.url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_slow_and_half_open_clients_are_dropped(start):
    cluster = start("--gateway-arg=--header-timeout-ms=500", "--gateway-arg=--idle-timeout-ms=500")
    url = urlsplit(cluster.url)
    half_open = socket.create_connection((url.hostname, url.port), timeout=30)
    half_open.sendall(b"GET /v2 HT")
    slow = socket.create_connection((url.hostname, url.port), timeout=30)
    begin = time.monotonic()
    closed = False
    try:
        for byte in b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000:
            slow.sendall(bytes([byte]))
            slow.settimeout(0.05)
            try:
                if slow.recv(1000) == b"":
                    closed = True
                    break
            except TimeoutError:
                pass
            assert time.monotonic() - begin < 25, "a byte at a time must not keep a connection open"
    except (ConnectionResetError, BrokenPipeError):
        closed = True
    assert closed or time.monotonic() - begin < 25
    while half_open.recv(1000) != b"":
        pass
    assert cluster.get("/v2/health/live").status_code == 200


def test_random_bytes_do_no_harm(stripes):
    rng = random.Random(5)
    for i in range(100):
        data = rng.randbytes(rng.randrange(1, 3000))
        if i % 2:
            data = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        try:
            raw(stripes, data)
        except ConnectionResetError:
            pass


# --- ZeroMQ ports ---

def bus_ports(cluster):
    gateway, registry = cluster.service("gateway"), cluster.service("registry")
    return [gateway["ports"]["bus"], registry["ports"]["bus"], registry["ports"]["events"]]


def test_garbage_on_the_zeromq_ports_does_no_harm(stripes):
    rng = random.Random(6)
    for port in bus_ports(stripes):
        for _ in range(20):  # not even ZeroMQ
            with socket.create_connection(("127.0.0.1", port)) as connection:
                try:
                    connection.sendall(rng.randbytes(rng.randrange(1, 500)))
                except OSError:
                    pass
        for _ in range(20):  # ZeroMQ, but no envelope
            try:
                with connect(port) as connection:
                    for _ in range(10):
                        size = 8 * rng.randrange(0, 60)
                        body = bytes(4) + struct.pack("<I", max(size // 8 - 1, 0)) + rng.randbytes(max(size - 8, 0))
                        connection.sendall(frame(body, more=rng.random() < 0.3))
            except OSError:
                pass  # it may close the door


def test_a_frame_that_claims_to_be_huge_is_not_believed(stripes):
    for port in bus_ports(stripes)[:2]:
        role = "gateway" if port == bus_ports(stripes)[0] else "registry"
        before = stripes.rss_mib(role)
        with connect(port) as connection:
            try:
                connection.sendall(frame(bytes(1000), size=1 << 40))
                connection.settimeout(20)
                while connection.recv(65536):
                    pass
            except OSError:
                pass
        assert stripes.rss_mib(role) - before < 32


@pytest.mark.parametrize("arguments, knows_secret, word", [(["--release-id", "foreign"], True, "foreign"),
                                                           ([], False, "cluster secret")])
def test_a_worker_of_another_release_or_without_the_secret_is_refused(stripes, tmp_path, arguments, knows_secret, word):
    before = stripes.metrics("gateway")
    gateway = stripes.service("gateway")["ports"]["bus"]
    registry = stripes.service("registry")["ports"]
    secret = (stripes.state / "secret").read_text().strip() if knows_secret else ""
    foreign = subprocess.Popen(
        [BIN / "slipway-inferencer", "--gateways", f"127.0.0.1:{gateway}", "--registry", f"127.0.0.1:{registry['bus']}",
         "--registry-events", f"127.0.0.1:{registry['events']}", "--metrics-port", "0", "--cache-dir", tmp_path, *arguments],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "SLIPWAY_CLUSTER_SECRET": secret})
    try:
        line = ""
        while "gateway refused us" not in line:
            line = foreign.stderr.readline()
            assert line, "it ended without a word"
        assert word in line, line
    finally:
        foreign.kill()
        foreign.wait()
        foreign.stderr.close()
    after = stripes.metrics("gateway")
    workers = [k for k in after if k.startswith("slipway_gateway_workers")]
    assert workers and all(after[k] == before[k] for k in workers)


def test_requests_without_any_model_say_so(start):
    cluster = start()
    answer = cluster.post("/predict", json={"input": [1]})
    assert answer.status_code in (400, 404) and answer.json()["error"]
    assert requests.get(cluster.url + "/v2/models", timeout=10).status_code in (200, 404)
