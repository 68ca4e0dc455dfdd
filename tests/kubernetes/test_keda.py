"""With KEDA, which reads the services' own numbers: trainers from zero and to zero, inferencers by outstanding predictions."""

import pytest

from jobs import Jobs, job
from kube import Release, wait_for
from load import Load
from test_scaling import MODEL, QUICK, WAIT, pressure, upgrade


def by_keda(minimum, maximum, **more):
    return {"autoscaling": {"enabled": True, "engine": "keda", "minReplicas": minimum, "maxReplicas": maximum, "behavior": QUICK,
                            "keda": {"pollingInterval": 2, "cooldownPeriod": 5}, **more}}


@pytest.fixture(scope="module")
def release():
    found = Release("keda-scaling")
    found.install("inferencer.replicaCount=1", "inferencer.threads=1")
    found.wait_settled()
    found.helm("test", "--timeout", "180s")
    yield found
    found.remove()


def test_trainers_come_from_nothing_and_go_again(release):
    upgrade(release, {"trainer": by_keda(0, 2)}, *WAIT)
    release.wait_gone("trainer", 120)
    jobs = Jobs(release, [job(f"queued-{i}") for i in range(6)])
    wait_for(lambda: len(release.ready_pods("trainer")) == 2, 120, "two trainers")
    jobs.wait_succeeded()
    release.wait_gone("trainer", 120)
    jobs.attempts()


def test_inferencers_follow_outstanding_predictions(release):
    Jobs(release, [job(MODEL, units=2048, epochs=1, batch_size=64)]).wait_succeeded()
    upgrade(release, {"inferencer": by_keda(1, 3, targetOutstandingPerReplica=3)}, *WAIT)
    with pressure(release) as failures:
        wait_for(lambda: len(release.ready_pods("inferencer")) == 3, 180, "three inferencers")
    with Load(release, rate=50, node="node3") as load, load.watched() as seen:
        wait_for(lambda: len(release.ready_pods("inferencer")) == 1 == len(release.pods("inferencer")), 180, "one inferencer")
    assert not failures
    seen.assert_nothing_failed()
