"""Jobs of a release, and all that it keeps."""

import hashlib
import json

from kube import TERMINAL, wait_for

SMALL = "helm-test"  # the data set that `helm test` leaves: 64 rows of a line
EPOCHS = 300         # of a job that takes some 8 s
ENDLESS = 100_000  # of one that is cancelled


def network(units):
    layers = [{"class_name": "InputLayer", "config": {"name": "x", "batch_shape": [None, 1], "dtype": "float32"}}]
    for i, width in enumerate((units, units, 1)):
        layers.append({"class_name": "Dense", "config": {"name": f"layer{i}", "units": width}})
    return {"class_name": "Sequential", "config": {"name": "network", "layers": layers}}


def job(model, units=512, epochs=EPOCHS, batch_size=1, checkpoint_seconds=600):
    """Checkpoints come with SIGTERM alone, unless they are asked for: whatever restarts from zero is seen."""
    return {"publish": {"model": model}, "dataset": {"name": SMALL, "target": "y"}, "seed": 1, "model": network(units),
            "compile": {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 1e-5}}, "loss": "mse"},
            "fit": {"epochs": epochs, "batch_size": batch_size}, "checkpoint_seconds": checkpoint_seconds}


def events(release, job):
    """Those of an ended job."""
    answer = release.request("GET", f"/api/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 200, answer.text
    return [json.loads(line.removeprefix("data:")) for line in answer.text.splitlines() if line.startswith("data:")]


class Jobs:
    """Jobs that were submitted to a release."""

    def __init__(self, release, documents):
        self.release = release
        self.ids = [self.submit(one) for one in documents]

    def submit(self, document):
        answer = self.release.request("POST", "/api/v1/jobs", json=document)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()["id"]

    def all(self):
        """None while nobody can tell."""
        answer = self.release.request("GET", "/api/v1/jobs?limit=100")
        return [one for one in answer.json()["items"] if one["id"] in self.ids] if answer.status_code == 200 else []

    def running(self, attempt=1):
        """Those that have got somewhere in this attempt or a later one."""
        return [one for one in self.all() or [] if one["state"] == "RUNNING" and one["attempt"] >= attempt
                and (one["progress"] or {}).get("epoch", 0) >= 2]

    def wait_running(self, number=None, attempt=1, seconds=120):
        wanted = number or len(self.ids)
        wait_for(lambda: len(self.running(attempt)) == wanted, seconds, f"{wanted} running jobs, attempt {attempt}")

    def wait_ended(self, state, seconds):
        def ended():
            found = self.all()
            return found is not None and all(one["state"] in TERMINAL for one in found)
        wait_for(ended, seconds, "the end of all jobs")
        found = self.all()
        assert all(one["state"] == state for one in found), found
        return found

    def wait_succeeded(self, seconds=240):
        found = self.wait_ended("SUCCEEDED", seconds)
        for one in found:  # each has a model of its own
            assert one["version"] == 1 and self.release.api(f"/models/{one['model']}")["latest"] == 1, one
        return found

    def cancel(self):
        for one in self.ids:
            assert self.release.request("POST", f"/api/v1/jobs/{one}/cancel").status_code in (200, 202), one
        self.wait_ended("CANCELLED", 60)

    def attempts(self):
        """How many each of these ended jobs had; none may have begun at an epoch that an earlier one had finished."""
        found = []
        for one in self.ids:
            reached, attempts = 0, 0
            for event in events(self.release, one):
                attempts += event["kind"] == "state" and event["state"] == "STARTING"
                if event["kind"] == "epoch":
                    assert event["progress"]["epoch"] == reached + 1, (one, attempts, reached, event)
                    reached += 1
            found.append(attempts)
        return found


# --- what is kept -------------------------------------------------------------------------------------------------------------


def items(release, path):
    found = release.api(path)
    assert found["next"] is None, path
    return found["items"]


def picture(release):
    """All that the API tells of what is kept and does not change by itself; the bytes of every version are those of its digests."""
    models = items(release, "/models")
    for model in models:
        path = f"/models/{model['name']}"
        model["versions"] = items(release, f"{path}/versions")
        model["moves"] = {alias: items(release, f"{path}/aliases/{alias}/history") for alias in model["aliases"]}
        for version in model["versions"]:
            assert version["files"]
            for file in version["files"]:
                answer = release.request("GET", f"/api/v1{path}/versions/{version['version']}/artifacts/{file['name']}")
                assert "sha256:" + hashlib.sha256(answer.content).hexdigest() == file["digest"], (answer.status_code, file)
    jobs = [release.api(f"/jobs/{one['id']}") for one in items(release, "/jobs") if one["state"] in TERMINAL]
    return {"models": models, "jobs": jobs, "events": {one["id"]: events(release, one["id"]) for one in jobs},
            "datasets": [release.api(f"/datasets/{one['name']}") for one in items(release, "/datasets")]}


def put_dataset(release, name, rows):
    table = "x,y\n" + "".join(f"{x},{y}\n" for x, y in rows)
    answer = release.request("PUT", f"/api/v1/datasets/{name}", files=[("files", (f"{name}.csv", table, "text/csv"))])
    assert answer.status_code == 201, answer.text
