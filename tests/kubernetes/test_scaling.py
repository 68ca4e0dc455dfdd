"""The number of pods follows the work, and nothing is lost while it does: by helm upgrade and by an autoscaler."""

import concurrent.futures
import contextlib
import json
import threading
import time

import pytest
import requests

from jobs import EPOCHS, Jobs, job
from kube import CHART, Release, wait_for
from load import Load

MODEL = "scaling"
WAIT = ("--wait", "--timeout", "180s")
# Autoscalers wait minutes before they take pods away.
QUICK = {"scaleDown": {"stabilizationWindowSeconds": 5, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 5}]}}


@pytest.fixture(scope="module")
def release():
    found = Release("scaling")
    found.install("inferencer.replicaCount=1", "inferencer.threads=1", "gateway.replicaCount=1")
    found.wait_settled()
    found.helm("test", "--timeout", "180s")
    Jobs(found, [job(MODEL, units=2048, epochs=1, batch_size=64)]).wait_succeeded()
    yield found
    found.remove()


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


def follow(release, **scaling):
    """Components go from one pod to as many as their autoscaler may have, and back, with a load that rises and falls."""
    values = {c: {"autoscaling": {"enabled": True, "minReplicas": 1, "behavior": QUICK, **own}} for c, own in scaling.items()}
    upgrade(release, values, *WAIT)
    try:
        release.wait_settled(*scaling)
        with pressure(release) as failures:
            for component, own in scaling.items():
                wait_for(lambda c=component, n=own["maxReplicas"]: len(release.ready_pods(c)) == n, 180, f"{component} as busy")
            assert not failures
        with Load(release, rate=50, node="node3") as load, load.watched() as seen:  # some go on asking while pods leave
            for component in scaling:
                wait_for(lambda c=component: len(release.pods(c)) == 1, 180, f"{component} as idle")
                release.wait_settled(component)
        assert not failures
        seen.assert_nothing_failed()
    finally:
        # Whoever scaled last owns the number.
        values = {component: {"autoscaling": {"enabled": False}, "replicaCount": 1} for component in scaling}
        upgrade(release, values, "--force-conflicts", *WAIT)
        release.wait_settled(*scaling)


def test_inferencers_follow_their_cpu(release):
    follow(release, inferencer={"maxReplicas": 3, "targetCPUUtilizationPercentage": 100})


def test_gateways_and_inferencers_follow_what_is_in_flight(release):
    """By the names that gateways show: requests of each gateway, and outstanding predictions of all together."""
    follow(release, gateway={"maxReplicas": 2, "targetCPUUtilizationPercentage": None, "targetOutstandingPerReplica": 8},
           inferencer={"maxReplicas": 3, "targetCPUUtilizationPercentage": None, "targetOutstandingPerReplica": 3})


def test_trainers_come_and_go_and_each_job_is_trained_once(release):
    jobs = Jobs(release, [job(f"moved-{i}", epochs=EPOCHS * 2 if 0 < i < 4 else EPOCHS // 6) for i in range(8)])
    jobs.wait_running(1)
    before = release.uids("trainer")
    upgrade(release, {"trainer": {"replicaCount": 4}})
    jobs.wait_running(4)
    assert before <= release.uids("trainer"), "the first trainer was restarted"
    upgrade(release, {"trainer": {"replicaCount": 1}})
    wait_for(lambda: len(release.pods("trainer")) == 1, 60, "one trainer")
    jobs.wait_succeeded()
    assert max(jobs.attempts()) > 1, "no job was moved, so this has shown nothing"
