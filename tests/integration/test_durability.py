"""Kill anything at any moment: nothing acknowledged is lost, and the result is the same bit for bit."""

import hashlib
import os
import signal
import threading

import pytest

from cluster import TERMINAL, wait_for
from idx import four_files, small_job, sequential

def put_data(cluster):
    assert cluster.put_dataset("stripes", four_files(rows=1200)).status_code == 201


def long_job(model, **extra):
    """Enough steps that there is a middle to kill in."""
    job = small_job(model=model, **{"epochs": 60, "checkpoint_seconds": 0.2, **extra})
    job["fit"]["batch_size"] = 4
    job["callbacks"] = [{"class_name": "ReduceLROnPlateau", "config": {"factor": 0.5, "patience": 1}}]
    # Dropout and batch statistics: random state and buffers have to come back too.
    job["model"] = sequential(
        ("Rescaling", {"scale": 1 / 255}), ("Flatten", {}), ("Dense", {"units": 64}),
        ("BatchNormalization", {}), ("Activation", {"activation": "relu"}), ("Dropout", {"rate": 0.3}),
        ("Dense", {"units": 4, "activation": "softmax"}), shape=(8, 8))
    return job


def weights_digest(cluster, model, version):
    document = cluster.get(f"/api/v1/models/{model}/versions/{version}").json()
    names = [f["name"] for f in document["files"]]
    assert names == ["model.pt"], names
    data = cluster.get(f"/api/v1/models/{model}/versions/{version}/artifacts/model.pt").content
    assert "sha256:" + hashlib.sha256(data).hexdigest() == document["files"][0]["digest"]
    return tensors(data)


def tensors(data):
    """Every tensor of a TorchScript file, as bytes: the file itself may hold names that differ."""
    import io

    import torch
    module = torch.jit.load(io.BytesIO(data))
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert state
    return {name: value.detach().numpy().tobytes() for name, value in state.items()}


@pytest.fixture(scope="module")
def unbroken(cluster):
    """The weights of the job when nobody disturbs it."""
    put_data(cluster)
    job = cluster.train(long_job("unbroken"))
    assert job["attempt"] == 1
    return weights_digest(cluster, "unbroken", 1)


def wait_in_the_middle(cluster, job, attempt=1):
    """Until the job's n-th attempt has committed a checkpoint."""
    begun = 0
    for _, kind, event in cluster.events(job):
        assert event["state"] not in TERMINAL, f"too late to disturb it: {event}"
        begun += kind == "state" and event["state"] == "STARTING"
        if kind == "checkpoint" and begun == attempt:
            return
    raise AssertionError("the events ended before the checkpoint")


def test_a_killed_trainer_ends_in_the_same_weights(start, unbroken):
    cluster = start("--registry-arg=--lease-seconds=1")
    put_data(cluster)
    job = cluster.submit(long_job("broken"))
    for attempt in (1, 2):
        wait_in_the_middle(cluster, job, attempt)
        pid = cluster.kill("trainer")
        cluster.wait_restarted("trainer", pid)
    done = cluster.wait_job(job)
    assert done["state"] == "SUCCEEDED", done
    assert done["attempt"] == 3, "both kills must have cost an attempt"
    assert done["version"] == 1
    # Told by the registry, once each.
    told = [event["message"] for _, kind, event in cluster.events(job) if kind == "checkpoint"]
    assert told == [f"checkpoint {n}" for n in range(1, len(told) + 1)], told
    assert weights_digest(cluster, "broken", 1) == unbroken


def test_a_trainer_told_to_stop_hands_its_job_back_at_once(start, unbroken):
    # A lease of ten minutes: only handing back in time lets the job go on.
    cluster = start("--registry-arg=--lease-seconds=600")
    put_data(cluster)
    job = cluster.submit(long_job("moved", checkpoint_seconds=600))
    next(event for _, kind, event in cluster.events(job) if kind == "epoch" and event["progress"]["epoch"] == 2)
    pid = cluster.kill("trainer", signal.SIGTERM)
    cluster.wait_restarted("trainer", pid)
    done = cluster.wait_job(job)
    assert done["state"] == "SUCCEEDED", done
    assert weights_digest(cluster, "moved", 1) == unbroken


@pytest.mark.parametrize("role", ["gateway", "registry"])
def test_a_job_outlives_a_killed(start, unbroken, role):
    cluster = start("--registry-arg=--lease-seconds=5")
    put_data(cluster)
    job = cluster.submit(long_job("outlived"))
    wait_in_the_middle(cluster, job)
    pid = cluster.kill(role)
    cluster.wait_restarted(role, pid)
    cluster.wait_ready()
    done = cluster.wait_job(job)
    assert done["state"] == "SUCCEEDED", done
    assert weights_digest(cluster, "outlived", 1) == unbroken


def test_everything_acknowledged_is_there_after_all_are_killed(start, tmp_path):
    cluster = start(keep=tmp_path)
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    first = cluster.train(small_job(seed=1))
    cluster.train(small_job(seed=2))
    moved = cluster.request("PUT", "/api/v1/models/stripes/aliases/prod", json={"version": 1, "reason": "first"})
    assert moved.status_code == 200, moved.text
    before = {path: cluster.get(path).json() for path in (
        "/api/v1/jobs", "/api/v1/datasets", "/api/v1/models", "/api/v1/models/stripes/versions",
        "/api/v1/models/stripes/aliases/prod/history")}
    assert first["version"] == 1
    for service in cluster.services():
        os.kill(service["pid"], signal.SIGKILL)
    cluster.process.kill()
    cluster.process.wait()

    again = start(keep=tmp_path)
    for path, document in before.items():
        assert again.get(path).json() == document, path


def test_predictions_go_on_when_one_of_two_inferencers_is_killed(start):
    cluster = start("--inferencers", "2")
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    image = [[0] * 8] * 8
    expected = wait_for(lambda: (a := cluster.predict("stripes", [image])).status_code == 200 and a.json(), 30)
    wrong = []
    stop = threading.Event()

    def ask():
        import requests
        with requests.Session() as session:
            session.trust_env = False
            url = cluster.url + "/v1/models/stripes:predict"
            while not stop.is_set():
                answer = session.post(url, json={"instances": [image]}, timeout=60)
                if answer.status_code != 200 or answer.json() != expected:
                    wrong.append(answer.text)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(3):
            pid = cluster.kill("inferencer")
            cluster.wait_restarted("inferencer", pid)
            cluster.wait_ready()
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert wrong == []
