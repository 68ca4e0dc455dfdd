"""Backups while work goes on, and what comes back from them: into a fleet that runs on, and onto another machine."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import threading

import pytest

from cluster import BIN, TERMINAL, wait_for
from fleet import Fleet, Load
from idx import four_files, small_job

IMAGE = [[20] * 8] * 8
GATEWAY, REGISTRY = "127.0.0.11", "127.0.0.21"


@pytest.fixture(scope="module")
def fleet():
    """A registry that keeps backups, a gateway, an inferencer, a trainer; the model `stripes` with an alias."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slipway-backup-"))
    fleet = None
    try:
        fleet = Fleet(folder)
        fleet.set_names({fleet.REGISTRY: [REGISTRY], fleet.GATEWAYS: [GATEWAY]})
        start_registry(fleet)
        fleet.start("gateway", "gateway", "--drain-grace-ms=300", address=GATEWAY)
        fleet.start("inferencer", "inferencer")
        fleet.start("trainer", "trainer")
        for service in fleet.services.values():
            service.wait_ready()
        gateway = fleet["gateway"]
        assert gateway.put_dataset("stripes", four_files()).status_code == 201
        gateway.train(small_job())
        assert gateway.request("PUT", "/api/v1/models/stripes/aliases/live", json={"version": 1}).status_code == 200
        yield fleet
    finally:
        if fleet:
            fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)


def start_registry(fleet):
    return fleet.start("registry", "registry", f"--backup-dir={fleet.folder / 'backups'}", "--lease-seconds=2",
                       address=REGISTRY)


def slipway(gateway, *arguments, code=0):
    done = subprocess.run([BIN / "slipway", "--server", gateway.url, *arguments], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def backup(gateway, *arguments):
    return json.loads(slipway(gateway, "--json", "backup", "create", *arguments))


def restore(fleet, *arguments, data=None, source=None):
    return subprocess.run(
        [BIN / "slipway-registry", "restore", f"--data-dir={data or fleet.folder / 'registry'}",
         f"--from={source or fleet.folder / 'backups'}", *arguments], capture_output=True, text=True, timeout=120)


def every(gateway, path):
    items, after = [], ""
    while True:
        page = gateway.get(f"{path}{after}").json()
        items += page["items"]
        if page["next"] is None:
            return items
        after = f"?{'before' if path.endswith('jobs') else 'after'}={page['next']}"


def picture(gateway):
    """All that the API tells of what is kept, and the digest of every file."""
    seen = {kind: every(gateway, f"/api/v1/{kind}") for kind in ("datasets", "models", "jobs")}
    for model in seen["models"]:
        model["versions"] = every(gateway, f"/api/v1/models/{model['name']}/versions")
        model["moves"] = {alias: every(gateway, f"/api/v1/models/{model['name']}/aliases/{alias}/history")
                          for alias in model["aliases"]}
        for version in model["versions"]:
            for file in version["files"]:
                content = gateway.get(f"/api/v1/models/{model['name']}/versions/{version['version']}/artifacts/"
                                      f"{file['name']}").content
                assert "sha256:" + hashlib.sha256(content).hexdigest() == file["digest"]
    # The stream of a job that goes on does not end.
    seen["events"] = {job["id"]: list(gateway.events(job["id"])) for job in seen["jobs"] if job["state"] in TERMINAL}
    return seen


def scores(gateway, model="stripes"):
    answer = gateway.predict(model, [IMAGE])
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]


def scores_of(content):
    import torch
    return torch.jit.load(io.BytesIO(content))(torch.tensor([IMAGE], dtype=torch.float32))[0].tolist()


def test_a_fleet_that_runs_on_goes_back_to_its_backup(fleet):
    gateway = fleet["gateway"]
    before = picture(gateway)
    answer = scores(gateway)
    made = backup(gateway)
    assert made["state"] == "SUCCEEDED" and made["damaged_chunks"] == 0, made
    assert made["id"] in slipway(gateway, "backup", "list")

    # What comes later is gone afterwards, and its number is given again.
    gateway.train(small_job(seed=8))
    late = gateway.get("/api/v1/models/stripes/versions/2/artifacts/model.pt").content
    wait_for(lambda: scores(gateway) == pytest.approx(scores_of(late), abs=1e-6), 20, "version 2 being served")

    refused = restore(fleet)
    assert refused.returncode == 1 and "--replace" in refused.stderr, refused
    busy = restore(fleet, "--replace", f"--backup={made['id']}")
    assert busy.returncode == 1 and "a registry has" in busy.stderr, busy

    assert fleet["registry"].terminate() == 0
    done = restore(fleet, "--replace", f"--backup={made['id']}")
    assert done.returncode == 0, done
    start_registry(fleet).wait_ready()
    wait_for(lambda: gateway.get("/api/v1/models/stripes").json().get("latest") == 1, 20, "the backup's models")
    assert picture(gateway) == before
    wait_for(lambda: scores(gateway) == pytest.approx(answer, abs=1e-6), 20, "the backup's version being served")

    gateway.train(small_job(seed=9))
    again = gateway.get("/api/v1/models/stripes/versions/2/artifacts/model.pt").content
    assert scores_of(again) != pytest.approx(scores_of(late), abs=1e-6)
    wait_for(lambda: scores(gateway) == pytest.approx(scores_of(again), abs=1e-6), 20, "the new version 2")

    # Said once more, as at every start of a pod, it changes nothing.
    assert fleet["registry"].terminate() == 0
    done = restore(fleet, "--replace", f"--backup={made['id']}")
    assert done.returncode == 0 and "nothing to do" in done.stderr, done
    start_registry(fleet).wait_ready()
    assert gateway.get("/api/v1/models/stripes/versions/2/artifacts/model.pt").content == again


def test_a_backup_under_load_is_of_one_moment(fleet):
    gateway = fleet["gateway"]
    first = backup(gateway)
    stop = threading.Event()

    def work():
        seed = 100
        while not stop.is_set():
            seed += 1
            assert gateway.put_dataset(f"more-{seed}", four_files(rows=100 + seed, seed=seed)).status_code == 201
            gateway.train(small_job(model="busy", dataset=f"more-{seed}", epochs=1))

    worker = threading.Thread(target=work)
    ask = lambda session, g: session.post(f"{g.url}/v1/models/stripes:predict", json={"instances": [IMAGE]}, timeout=40)
    with Load([gateway], ask) as load:
        worker.start()
        try:
            for _ in range(4):
                made = backup(gateway, "--keep", "3")
                assert made["state"] == "SUCCEEDED" and made["damaged_chunks"] == 0, made
        finally:
            stop.set()
            worker.join(120)
    assert load.failures == []
    kept = gateway.get("/api/v1/backups").json()["items"]
    assert len(kept) == 3 and first["id"] not in [b["id"] for b in kept]
    # Each of them is whole: every version that it has can be read back.
    for index, item in enumerate(kept):
        with tempfile.TemporaryDirectory(prefix="slipway-restored-") as data:
            done = restore(fleet, f"--backup={item['id']}", data=data)
            assert done.returncode == 0, done
            registry = fleet.start("registry", f"restored-{index}", f"--data-dir={data}", "--bus-port=0",
                                   "--events-port=0", address="127.0.0.1")
            other = fleet.start("gateway", f"reader-{index}", "--ready-alone-after-seconds=0", "--bus-port=0",
                                f"--registry=127.0.0.1:{registry.ports['bus']}",
                                f"--registry-events=127.0.0.1:{registry.ports['events']}", address="127.0.0.1")
            try:
                other.wait_ready()
                seen = picture(other)
                assert {m["name"] for m in seen["models"]} >= {"stripes"}
                published = {j["version"] for j in seen["jobs"] if j["state"] == "SUCCEEDED" and j["model"] == "busy"}
                busy = [m for m in seen["models"] if m["name"] == "busy"]
                assert published == {v["version"] for m in busy for v in m["versions"]}
            finally:
                other.terminate()
                registry.terminate()


def test_an_archive_restores_on_another_machine(fleet, tmp_path):
    gateway = fleet["gateway"]
    made = backup(gateway)
    before = picture(gateway)
    archive = tmp_path / "backup.tar"
    slipway(gateway, "backup", "download", made["id"], "--output", archive)
    with tarfile.open(archive) as tar:
        assert tar.getnames()[-1] == f"{made['id']}/backup.json"
        tar.extractall(tmp_path / "unpacked", filter="data")
    done = restore(fleet, data=tmp_path / "data", source=tmp_path / "unpacked")
    assert done.returncode == 0, done
    registry = fleet.start("registry", "elsewhere", f"--data-dir={tmp_path / 'data'}", "--bus-port=0",
                           "--events-port=0", address="127.0.0.1")
    other = fleet.start("gateway", "gateway-elsewhere", "--ready-alone-after-seconds=0", "--bus-port=0",
                        f"--registry=127.0.0.1:{registry.ports['bus']}",
                        f"--registry-events=127.0.0.1:{registry.ports['events']}", address="127.0.0.1")
    try:
        other.wait_ready()
        assert picture(other) == before
    finally:
        other.terminate()
        registry.terminate()

    # One that is cut short says so, and is no backup.
    short = tmp_path / "short.tar"
    short.write_bytes(archive.read_bytes()[:-2048])
    with pytest.raises(tarfile.ReadError), tarfile.open(short) as tar:
        tar.extractall(tmp_path / "short", filter="data")
    refused = restore(fleet, data=tmp_path / "data2", source=tmp_path / "short")
    assert refused.returncode == 1 and "no backup" in refused.stderr, refused


def test_wrong_questions_are_answered_with_what_is_wrong(fleet):
    gateway = fleet["gateway"]
    made = backup(gateway)["id"]
    for body, what in (({"keep": 0}, "from 1 to"), ({"keep": "7"}, "from 1 to"), ({"keeep": 7}, "there is keep"),
                       ([], "object")):
        answer = gateway.post("/api/v1/backups", json=body)
        assert answer.status_code == 400 and what in answer.text, answer.text
    for method, path in (("GET", "nothing"), ("GET", "nothing/content"), ("DELETE", "nothing"), ("GET", "..%2Fregistry")):
        answer = gateway.request(method, f"/api/v1/backups/{path}")
        assert answer.status_code == 404 and made in answer.text, answer.text
    assert made in slipway(gateway, "backup", "delete", "nothing", code=1)
    assert "is gone" in slipway(gateway, "backup", "delete", made)
    assert gateway.get(f"/api/v1/backups/{made}").status_code == 404

    usage = subprocess.run([BIN / "slipway-registry", "restore"], capture_output=True, text=True)
    assert usage.returncode == 2 and "--from" in usage.stderr, usage
    latest = restore(fleet, "--replace")  # would be another one after the next backup
    assert latest.returncode == 2 and "--backup" in latest.stderr, latest
    unknown = restore(fleet, "--backup=20010101T000000Z", data=fleet.folder / "nowhere")
    assert unknown.returncode == 1 and "there is no backup '20010101T000000Z'" in unknown.stderr, unknown
    assert not os.path.exists(fleet.folder / "nowhere"), "a refused restore makes nothing"


def test_a_registry_without_a_folder_for_backups_says_so(fleet):
    gateway = fleet["gateway"]
    assert fleet["registry"].terminate() == 0
    fleet.start("registry", "registry", "--lease-seconds=2", address=REGISTRY).wait_ready()
    answer = wait_for(lambda: [a for a in [gateway.post("/api/v1/backups")] if a.status_code != 503], 20)[0]
    assert answer.status_code == 400 and "--backup-dir" in answer.text, answer.text
    assert gateway.get("/api/v1/backups").status_code == 400
