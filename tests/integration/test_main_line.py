"""From data to predictions, the way a person goes: upload, train, look, predict, name a version."""

import io
import json
import urllib.parse

import pytest
import requests

from cluster import ROOT, wait_for
from idx import four_files, small_job

IMAGE = [[180] * 8] * 2 + [[20] * 8] * 6  # class 0: the upper stripe is lit


def test_a_dataset_says_what_it_holds(cluster):
    answer = cluster.put_dataset("pictures", four_files(rows=40, test_rows=8))
    assert answer.status_code == 201
    document = answer.json()
    assert document["name"] == "pictures" and document["version"] == 1
    assert document["rows"] == 40 and document["test_rows"] == 8
    assert document["row_shape"] == [8, 8] and document["features"] == 64 and document["classes"] == 4
    assert document["digest"].startswith("sha256:") and len(document["digest"]) == 71


def test_the_same_content_is_the_same_version_compressed_or_not(cluster):
    first = cluster.put_dataset("twice", four_files(seed=3)).json()
    again = cluster.put_dataset("twice", four_files(seed=3, compress=True))
    assert again.status_code in (200, 201)
    assert again.json()["digest"] == first["digest"] and again.json()["version"] == first["version"] == 1
    other = cluster.put_dataset("twice", four_files(seed=4)).json()
    assert other["digest"] != first["digest"] and other["version"] == 2


def test_gzip_or_not_trains_to_the_same_weights(cluster):
    assert cluster.put_dataset("raw", four_files(seed=5)).status_code == 201
    assert cluster.put_dataset("zipped", four_files(seed=5, compress=True)).status_code == 201
    for name in ("raw", "zipped"):
        cluster.train(small_job(model=name, dataset=name))
    versions = [cluster.get(f"/api/v1/models/{name}/versions/1").json() for name in ("raw", "zipped")]
    assert versions[0]["metrics"] == versions[1]["metrics"]
    predictions = [cluster.predict(name, [IMAGE]).json() for name in ("raw", "zipped")]
    assert predictions[0] == predictions[1]


def test_a_csv_comes_as_one_raw_body(cluster):
    answer = cluster.request("PUT", "/api/v1/datasets/table?file=t.csv", data=b"a,b,kind\n1,2.5,x\n3,4,y\n")
    assert answer.status_code == 201, answer.text
    document = answer.json()
    assert document["format"] == "csv" and document["rows"] == 2
    assert [c["name"] for c in document["columns"]] == ["a", "b", "kind"]


def test_a_job_is_accepted_watched_and_published(stripes):
    job = stripes.post("/api/v1/jobs", json=small_job(model="watched"))
    assert job.status_code == 202
    assert job.headers["Location"] == f"/api/v1/jobs/{job.json()['id']}"
    seen = list(stripes.events(job.json()["id"]))
    ids = [event_id for event_id, _, _ in seen]
    assert ids == list(range(1, len(ids) + 1)), "ids are dense from 1"
    states = [event["state"] for _, kind, event in seen if kind == "state"]
    assert states[0] == "QUEUED" and states[-1] == "SUCCEEDED", states
    epochs = [event["progress"] for _, kind, event in seen if kind == "epoch"]
    assert [p["epoch"] for p in epochs] == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(epochs[-1]["metrics"])
    assert epochs[-1]["learning_rate"] == pytest.approx(0.01)
    document = stripes.job(job.json()["id"])
    assert document["version"] == 1 and document["progress"]["epoch"] == 2


def test_events_go_on_after_the_last_one_seen(stripes):
    job = stripes.train(small_job(model="resumed"))["id"]
    every = list(stripes.events(job))
    assert list(stripes.events(job, after=every[2][0])) == every[3:]


def test_a_version_knows_where_it_comes_from(stripes):
    version = stripes.get("/api/v1/models/stripes/versions/1").json()
    dataset = stripes.get("/api/v1/datasets/stripes").json()
    job = stripes.job(version["lineage"]["job"])
    assert version["lineage"]["dataset_digest"] == dataset["digest"]
    assert version["lineage"]["seed"] == 7
    assert job["state"] == "SUCCEEDED" and job["version"] == version["version"]
    assert version["signature"]["inputs"] == [{"name": "input", "dtype": "f32", "shape": [-1, 8, 8]}]
    assert version["signature"]["classes"] == ["0", "1", "2", "3"]
    assert version["metrics"]["test_accuracy"] > 0.9


def test_an_artifact_can_be_read_in_part(stripes):
    path = "/api/v1/models/stripes/versions/1/artifacts/model.pt"
    whole = stripes.get(path)
    assert whole.status_code == 200 and whole.headers["Accept-Ranges"] == "bytes"
    part = stripes.get(path, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
    tail = stripes.get(path, headers={"Range": "bytes=-5"})
    assert tail.status_code == 206 and tail.content == whole.content[-5:]
    assert stripes.get(path, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416


def test_python_reads_the_version_and_gives_the_same_output(stripes):
    import torch
    data = stripes.get("/api/v1/models/stripes/versions/1/artifacts/model.pt").content
    module = torch.jit.load(io.BytesIO(data)).eval()
    images = torch.randint(0, 256, (5, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        expected = module(images)
    answer = stripes.predict("stripes", images.int().tolist()).json()["predictions"]
    assert torch.allclose(torch.tensor(answer), expected, atol=1e-6, rtol=0)


def test_every_dialect_gives_the_same_answer(stripes):
    row = stripes.predict("stripes", [IMAGE]).json()["predictions"][0]
    assert len(row) == 4 and sum(row) == pytest.approx(1, abs=1e-5) and max(row) == row[0]

    column = stripes.post("/v1/models/stripes/versions/1:predict", json={"inputs": [IMAGE]}).json()
    assert column["outputs"] == [row]

    flat = [v for line in IMAGE for v in line]
    v2 = stripes.post("/v2/models/stripes/infer", json={
        "id": "q1", "inputs": [{"name": "input", "shape": [1, 8, 8], "datatype": "FP32", "data": flat}]}).json()
    assert v2["id"] == "q1" and v2["model_version"] == "1"
    assert v2["outputs"][0]["shape"] == [1, 4] and v2["outputs"][0]["data"] == row

    plain = stripes.post("/predict", json={"input": IMAGE, "model": "stripes"}).json()
    assert plain == {"prediction": "0", "probability": f"{row[0]:.4f}"}
    nested = stripes.post("/predict", json={"input": flat, "model": "stripes"}).json()
    assert nested == plain
    query = stripes.get("/predict?model=stripes&values=" + ",".join(map(str, flat))).json()
    assert query == plain


def test_v2_metadata_and_health(stripes):
    assert stripes.get("/v2/health/live").json()["live"] is True
    assert stripes.get("/v2/health/ready").status_code == 200
    assert "slipway" in stripes.get("/v2").json()["name"]
    model = stripes.get("/v2/models/stripes").json()
    assert model["versions"] == ["1"] and model["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 8, 8]}]
    assert stripes.get("/v2/models/stripes/ready").status_code == 200


def test_an_alias_moves_only_from_where_it_is_expected(stripes):
    stripes.train(small_job(seed=8))
    path = "/api/v1/models/stripes/aliases/prod"
    assert stripes.request("PUT", path, json={"version": 1, "reason": "start"}).status_code == 200
    assert stripes.request("PUT", path, json={"version": 2, "expected": 1, "reason": "better"}).status_code == 200
    late = stripes.request("PUT", path, json={"version": 1, "expected": 1, "reason": "too late"})
    assert late.status_code == 409 and "2" in late.json()["detail"]
    by_label = stripes.post("/v1/models/stripes/labels/prod:predict", json={"instances": [IMAGE]})
    by_number = stripes.post("/v1/models/stripes/versions/2:predict", json={"instances": [IMAGE]})
    assert by_label.status_code == 200 and by_label.json() == by_number.json()
    history = stripes.get(path + "/history").json()["items"]
    assert {(m["from"], m["to"], m["reason"]) for m in history} == {(None, 1, "start"), (1, 2, "better")}
    assert stripes.request("DELETE", path, json={"expected": 2}).status_code in (200, 204)
    assert stripes.post("/v1/models/stripes/labels/prod:predict", json={"instances": [IMAGE]}).status_code == 404


def test_the_history_of_an_alias_comes_in_pages_the_newest_move_first(stripes):
    path = "/api/v1/models/stripes/aliases/paged"
    for _ in range(2):
        assert stripes.request("PUT", path, json={"version": 1}, headers={"X-Slipway-Actor": "ann"}).status_code == 200
        assert stripes.request("DELETE", path).status_code == 200
    first = stripes.get(path + "/history?limit=3").json()
    assert [(m["number"], m["from"], m["to"], m["actor"]) for m in first["items"]] == [
        (4, 1, None, "anonymous"), (3, None, 1, "ann"), (2, 1, None, "anonymous")]
    rest = stripes.get(f"{path}/history?limit=3&before={first['next']}").json()
    assert [m["number"] for m in rest["items"]] == [1] and rest["next"] is None
    never = stripes.get("/api/v1/models/stripes/aliases/never/history")
    assert never.status_code == 404 and "never had an alias" in never.json()["detail"]


def test_who_asked_is_recorded(stripes):
    ann = {"X-Slipway-Actor": "ann"}
    put = stripes.request("PUT", "/api/v1/datasets/anns?file=t.csv", data=b"a,b\n1,2\n", headers=ann)
    assert put.json()["actor"] == "ann" and stripes.get("/api/v1/datasets/anns").json()["actor"] == "ann"
    job = stripes.post("/api/v1/jobs", json=small_job(model="anns"), headers=ann).json()
    assert job["actor"] == "ann"
    assert stripes.wait_job(job["id"])["actor"] == "ann"


def test_a_queued_job_can_be_cancelled_and_a_running_one_too(stripes):
    endless = small_job(model="endless", epochs=100_000)
    running = stripes.submit(endless)
    stripes.wait_job(running, states=("RUNNING",))
    queued = stripes.submit(endless)
    assert stripes.job(queued)["state"] == "QUEUED"
    for job in (queued, running):
        answer = stripes.post(f"/api/v1/jobs/{job}/cancel")
        assert answer.status_code in (200, 202), answer.text
        assert stripes.wait_job(job)["state"] == "CANCELLED"
    assert stripes.get("/api/v1/models/endless").status_code == 404


def test_a_repeated_submission_with_a_key_is_one_job(stripes):
    headers = {"Idempotency-Key": "once"}
    first = stripes.post("/api/v1/jobs", json=small_job(model="once"), headers=headers).json()
    second = stripes.post("/api/v1/jobs", json=small_job(model="once"), headers=headers).json()
    assert first["id"] == second["id"]
    stripes.wait_job(first["id"])


def python_modules():
    """What people export: name -> (module, an input)."""
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.inner, self.out = kind(8, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.inner(x)[0][:, -1])

    torch.manual_seed(3)
    image, steps = torch.randn(4, 1, 8, 8), torch.randn(3, 5, 8)
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                                nn.Linear(4 * 4 * 4, 3), nn.Softmax(1)).eval()
    encoder = nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
                            nn.Flatten(), nn.Linear(40, 2)).eval()
    words = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 2)).eval()
    recurrent = {f"scripted-{kind.__name__.lower()}": (torch.jit.script(Recurrent(kind).eval()), steps)
                 for kind in (nn.LSTM, nn.GRU, nn.RNN)}
    return recurrent | {
        "scripted-convolution": (torch.jit.script(convolution), image),
        "frozen-convolution": (torch.jit.freeze(torch.jit.script(convolution)), image),
        "traced-convolution": (torch.jit.trace(convolution, image), image),
        "scripted-transformer": (torch.jit.script(encoder), steps),
        "scripted-embedding": (torch.jit.script(words), torch.randint(0, 10, (3, 5)))}


@pytest.mark.parametrize("name", ["scripted-convolution", "frozen-convolution", "traced-convolution", "scripted-lstm",
                                  "scripted-gru", "scripted-rnn", "scripted-transformer", "scripted-embedding"])
def test_a_module_exported_by_python_is_served_as_it_is(cluster, name):
    import torch
    module, x = python_modules()[name]
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    signature = {"inputs": [{"name": "x", "dtype": {torch.float32: "f32", torch.int64: "i64"}[x.dtype],
                             "shape": [-1, *x.shape[1:]]}]}
    answer = cluster.post(f"/api/v1/models/{name}/versions", files=[
        ("signature", (None, json.dumps(signature), "application/json")),
        ("file", ("model.pt", buffer.getvalue(), "application/octet-stream"))])
    assert answer.status_code == 201, answer.text
    with torch.no_grad():
        expected = module(x)
    assert answer.json()["signature"]["outputs"][0]["shape"] == [-1, *expected.shape[1:]]
    got = cluster.predict(name, x.tolist())
    assert got.status_code == 200, got.text
    assert torch.allclose(torch.tensor(got.json()["predictions"]), expected, atol=1e-6, rtol=0)


def test_boston_reaches_the_least_squares_error(cluster):
    """Dense(1) on standardised columns is linear regression: its error is known in closed form."""
    import numpy
    csv = ROOT / "examples" / "boston" / "boston.csv"
    assert cluster.put_dataset("boston", [csv]).status_code == 201
    document = json.loads((ROOT / "examples" / "boston" / "job.json").read_text())
    job = cluster.train(document)
    table = numpy.loadtxt(csv, delimiter=",", skiprows=1)
    x, y = table[:, :-1], table[:, -1]
    split = int(numpy.floor(len(x) * (1 - document["fit"].get("validation_split", 0))))
    design = numpy.hstack([x[:split], numpy.ones((split, 1))])
    solution, *_ = numpy.linalg.lstsq(design, y[:split], rcond=None)
    best = float(numpy.mean((design @ solution - y[:split]) ** 2))
    predictions = cluster.predict("boston", x[:split].tolist()).json()["predictions"]
    error = float(numpy.mean((numpy.array(predictions).reshape(-1) - y[:split]) ** 2))
    print(f"least squares {best:.4f}, trained {error:.4f}, ratio {error / best:.4f}")
    assert error <= best * 1.03
    one = cluster.get("/predict?model=boston&values=" + ",".join(map(str, x[0]))).json()
    assert one["prediction"] == pytest.approx(float(numpy.array(predictions).reshape(-1)[0]), abs=0.05)
    assert job["state"] == "SUCCEEDED"


def test_the_openapi_document_covers_what_answers(stripes):
    document = stripes.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path in ("/api/v1/jobs", "/api/v1/datasets/{name}", "/v1/models/{model}:predict", "/v2/models/{model}/infer",
                 "/predict"):
        assert path in document["paths"], sorted(document["paths"])


def test_the_openapi_document_is_true_of_real_answers(stripes):
    """Each documented GET that needs no more than known names answers as its schema says."""
    import jsonschema
    document = stripes.get("/openapi.json").json()
    known = {"name": "stripes", "model": "stripes", "version": "1", "id": "job-1", "dataset": "stripes", "job": "job-1"}
    checked = 0
    for path, operations in document["paths"].items():
        if "get" not in operations:
            continue
        names = [part.split("}")[0] for part in path.split("{")[1:]]
        if not set(names) <= set(known) or path.endswith("/events") or path == "/predict":
            continue
        url = path
        for name in names:
            url = url.replace("{" + name + "}", urllib.parse.quote(known[name]))
        answer = stripes.get(url)
        responses = operations["get"]["responses"]
        assert str(answer.status_code) in responses, f"{url}: {answer.status_code} is not documented"
        content = responses[str(answer.status_code)].get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema:
            jsonschema.Draft202012Validator({**schema, "components": document.get("components", {})}).validate(answer.json())
            checked += 1
    assert checked >= 8, checked


def test_two_askers_at_once_get_their_own_answers(stripes):
    import concurrent.futures
    images = [[[(180 if y * 4 // 8 == c else 20)] * 8 for y in range(8)] for c in range(4)]
    expected = [stripes.predict("stripes", [image]).json() for image in images]
    url = stripes.url + "/v1/models/stripes:predict"

    def ask(i):
        answer = requests.post(url, json={"instances": [images[i % 4]]}, timeout=60).json()
        got, want = answer["predictions"][0], expected[i % 4]["predictions"][0]
        return got == pytest.approx(want, abs=1e-6)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))


def test_a_text_log_line_carries_the_request_id(stripes):
    stripes.get("/api/v1/models", headers={"X-Request-Id": "find-me-123"})
    answer = stripes.post("/api/v1/jobs", json={"publish": {}}, headers={"X-Request-Id": "find-me-456"})
    assert answer.headers["X-Request-Id"] == "find-me-456" and answer.json()["request_id"] == "find-me-456"
    wait_for(lambda: "find-me-456" in stripes.logs(), 10, "the log line")
