"""With KEDA, which reads the services' own numbers: trainers from zero and to zero, inferencers by outstanding predictions."""

import pytest

from cluster import wait_for
from kube import Load, Release
from test_scaling import EPOCHS, MODEL, QUICK, WAIT, Jobs, job, pressure, upgrade


def by_keda(minimum, maximum, **more):
    return {"autoscaling": {"enabled": True, "engine": "keda", "minReplicas": minimum, "maxReplicas": maximum, "behavior": QUICK,
                            "keda": {"pollingInterval": 2, "cooldownPeriod": 5}, **more}}


@pytest.fixture(scope="module")
def release():
    found = Release("keda-scaling")
    found.install("inferencer.replicaCount=1", "inferencer.threads=1")
    upgrade(found, {"trainer": by_keda(0, 2), "inferencer": by_keda(1, 3, targetOutstandingPerReplica=3)}, *WAIT)
    without_trainers(found)
    found.helm("test", "--timeout", "180s")  # its job waits until a trainer comes
    yield found
    found.uninstall()
    found.kubectl("delete", "namespace", found.namespace)


def without_trainers(release):
    wait_for(lambda: not release.pods("trainer"), 120, "no trainer")


def test_trainers_come_from_nothing_and_go_again(release):
    without_trainers(release)
    jobs = Jobs(release, [job(f"queued-{i}", units=512, epochs=EPOCHS, batch_size=1, checkpoint_seconds=600) for i in range(6)])
    wait_for(lambda: len(release.ready_pods("trainer")) == 2, 120, "two trainers")
    jobs.wait_succeeded()
    without_trainers(release)
    for one in jobs.ids:
        jobs.attempts(one)


def test_inferencers_follow_outstanding_predictions(release):
    Jobs(release, [job(MODEL, units=2048, epochs=1, batch_size=64)]).wait_succeeded()
    with pressure(release) as failures:
        wait_for(lambda: len(release.ready_pods("inferencer")) == 3, 180, "three inferencers")
    with Load(release, rate=50) as load:
        wait_for(lambda: len(release.ready_pods("inferencer")) == 1 == len(release.pods("inferencer")), 180, "one inferencer")
    assert not failures
    load.assert_nothing_failed()
