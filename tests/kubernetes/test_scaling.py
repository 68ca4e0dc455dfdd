"""The number of pods follows the work, and nothing is lost while it does: by helm upgrade and by an autoscaler."""

import concurrent.futures
import contextlib
import json
import threading
import time

import pytest
import requests

from cluster import TERMINAL, wait_for
from kube import CHART, Load, Release

MODEL = "scaling"
SMALL = "helm-test"  # the data set that `helm test` leaves: 64 rows of a line
WAIT = ("--wait", "--timeout", "180s")
EPOCHS = 400  # of a job that takes some 10 s
# Autoscalers wait minutes before they take pods away.
QUICK = {"scaleDown": {"stabilizationWindowSeconds": 5, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 5}]}}


def network(units):
    layers = [{"class_name": "InputLayer", "config": {"name": "x", "batch_shape": [None, 1], "dtype": "float32"}}]
    for i, width in enumerate((units, units, 1)):
        layers.append({"class_name": "Dense", "config": {"name": f"layer{i}", "units": width}})
    return {"class_name": "Sequential", "config": {"name": "network", "layers": layers}}


def job(model, units, epochs, batch_size, **extra):
    return {"publish": {"model": model}, "dataset": {"name": SMALL, "target": "y"}, "seed": 1, "model": network(units),
            "compile": {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 1e-5}}, "loss": "mse"},
            "fit": {"epochs": epochs, "batch_size": batch_size}, **extra}


@pytest.fixture(scope="module")
def release():
    found = Release("scaling")
    found.install("inferencer.replicaCount=1", "inferencer.threads=1")
    found.wait_settled()
    found.helm("test", "--timeout", "180s")
    found.wait_job(found.submit(job(MODEL, units=2048, epochs=1, batch_size=64)))
    yield found
    found.uninstall()
    found.kubectl("delete", "namespace", found.namespace)


def upgrade(release, values, *options):
    """Values as a document: --set makes numbers of some strings."""
    release.helm("upgrade", CHART, "--reset-then-reuse-values", "-f", "-", *options, text=json.dumps(values))


@contextlib.contextmanager
def pressure(release, clients=12, most_seconds=300):
    """As many predictions outstanding as there are clients, until the context ends. Nothing is asked twice; what failed is
    in the list that is given."""
    failures, counts = [], []
    stop = threading.Event()
    body = json.dumps({"instances": [[1.0]] * 32})
    addresses = [pod["status"]["podIP"] for pod in release.ready_pods("gateway")]
    end = time.monotonic() + most_seconds

    def ask(number):
        asked = 0
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://{addresses[number % len(addresses)]}:8080/v1/models/{MODEL}:predict"
            while not stop.is_set() and time.monotonic() < end:
                asked += 1
                try:
                    answer = session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=30)
                    if answer.status_code != 200:
                        failures.append(f"{answer.status_code} {answer.text[:200]}")
                except requests.RequestException as error:
                    failures.append(str(error))
                if failures:
                    time.sleep(0.1)  # what is broken is not asked as fast as it can refuse
        counts.append(asked)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, number) for number in range(clients)]
        try:
            yield failures
        finally:
            stop.set()
            for one in asking:
                one.result()
    assert sum(counts) > 100, counts


def follow(release, values=None, **signal):
    """Inferencers go 1 -> 3 -> 1 with a load that rises and falls."""
    scaling = {"enabled": True, "maxReplicas": 3, "behavior": QUICK, **signal}
    upgrade(release, {"inferencer": {"autoscaling": scaling}, **(values or {})}, *WAIT)
    try:
        with pressure(release) as failures:
            wait_for(lambda: len(release.ready_pods("inferencer")) == 3, 180, "three inferencers")
            assert not failures
        with Load(release, rate=50) as load:  # some go on asking while pods leave
            wait_for(lambda: len(release.pods("inferencer")) == 1, 180, "one inferencer")
            release.wait_settled("inferencer")
        assert not failures
        load.assert_nothing_failed()
    finally:
        # Whoever scaled last owns the number.
        upgrade(release, {"inferencer": {"autoscaling": {"enabled": False}, "replicaCount": 1}}, "--force-conflicts", *WAIT)
        release.wait_settled("inferencer")


def test_inferencers_follow_their_cpu(release):
    follow(release, targetCPUUtilizationPercentage=100, metrics=[])


def test_inferencers_follow_outstanding_predictions(release):
    """By the name that gateways show, through the API for external metrics."""
    labels = {"app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "gateway"}
    metric = {"name": "slipway_gateway_outstanding_predictions", "selector": {"matchLabels": labels}}
    follow(release, {"gateway": {"podAnnotations": {"prometheus.io/port": "9090"}}},
           metrics=[{"type": "External", "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "3"}}}])


class Jobs:
    """Jobs of a release, seen through one gateway, which stays."""

    def __init__(self, release, documents):
        self.base = release.url() + "/api/v1"
        self.http = requests.Session()
        self.http.trust_env = False
        self.ids = [self.http.post(f"{self.base}/jobs", json=one, timeout=30).json()["id"] for one in documents]

    def get(self, path, **options):
        answer = self.http.get(self.base + path, timeout=60, **options)
        assert answer.status_code == 200, answer.text
        return answer

    def all(self):
        return [one for one in self.get("/jobs?limit=100").json()["items"] if one["id"] in self.ids]

    def running(self):
        return [one for one in self.all() if one["state"] == "RUNNING"]

    def wait_succeeded(self, seconds=240):
        wait_for(lambda: all(one["state"] in TERMINAL for one in self.all()), seconds, "the end of all jobs")
        assert {one["state"] for one in self.all()} == {"SUCCEEDED"}, self.all()
        for one in self.all():  # each has a model of its own
            assert one["version"] == 1 and self.get(f"/models/{one['model']}").json()["latest"] == 1, one

    def attempts(self, job):
        """How many there were; none may have begun at an epoch that an earlier one had finished."""
        reached, attempts = 0, 0
        with self.get(f"/jobs/{job}/events", stream=True, headers={"Accept": "text/event-stream"}) as answer:
            for line in answer.iter_lines(decode_unicode=True):
                if not line.startswith("data:"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                attempts += event["kind"] == "state" and event["state"] == "STARTING"
                if event["kind"] == "epoch":
                    assert event["progress"]["epoch"] == reached + 1, (attempts, reached, event)
                    reached += 1
        assert reached == EPOCHS
        return attempts


def test_trainers_come_and_go_and_each_job_is_trained_once(release):
    # Checkpoints come with SIGTERM alone: whatever restarts from zero is seen.
    jobs = Jobs(release, [job(f"moved-{i}", units=512, epochs=EPOCHS, batch_size=1, checkpoint_seconds=600) for i in range(8)])
    wait_for(jobs.running, 60, "a running job")
    before = release.uids("trainer")
    upgrade(release, {"trainer": {"replicaCount": 4}})
    wait_for(lambda: len(jobs.running()) == 4 and all((one["progress"] or {}).get("epoch", 0) >= 2 for one in jobs.running()),
             120, "progress of four jobs")
    assert before <= release.uids("trainer"), "the first trainer was restarted"
    upgrade(release, {"trainer": {"replicaCount": 1}})
    wait_for(lambda: len(release.pods("trainer")) == 1, 60, "one trainer")
    jobs.wait_succeeded()
    assert max(map(jobs.attempts, jobs.ids)) > 1, "no job was moved, so this has shown nothing"
