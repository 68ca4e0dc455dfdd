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


def test_an_autoscaler_of_a_release_that_runs_is_handed_over(release):
    """From a HorizontalPodAutoscaler to a ScaledObject, with no pod less in between."""
    release.kubectl("scale", "deployment/demo-slipway-inferencer", "--replicas=2")
    upgrade(release, {"inferencer": {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 3}}}, *WAIT)
    release.wait_settled("inferencer")
    before = release.uids("inferencer")
    with Load(release, rate=50, node="node3") as load, load.watched() as seen:
        upgrade(release, {"inferencer": by_keda(2, 3, targetOutstandingPerReplica=3)}, *WAIT)
        assert [one["metadata"]["name"] for one in release.list("scaledobjects")] == ["demo-slipway-inferencer"]

        def by_keda_only():
            found = release.list("horizontalpodautoscalers")
            return [o["kind"] for one in found for o in one["metadata"].get("ownerReferences", [])] == ["ScaledObject"]
        wait_for(by_keda_only, 60, "KEDA's autoscaler alone")
        seen.go_on(15)  # some rounds of it
        assert release.uids("inferencer") == before
    seen.assert_nothing_failed()


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
