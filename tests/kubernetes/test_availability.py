"""Predictions go on whatever pods are restarted, deleted or away."""

import time

import pytest

from jobs import ENDLESS, EPOCHS, Jobs, job, picture
from kube import COMPONENTS, Leaving, wait_for
from load import Load


@pytest.fixture(scope="module", params=COMPONENTS)
def component(request):
    return request.param


@pytest.fixture(scope="module")
def load(release, component):
    """One for each component, so that it does not come to the ports that it began with."""
    with Load(release) as found:
        yield found


def fresh(model):
    """A name that no earlier run on this cluster has used."""
    return f"{model}-{int(time.time())}"


def test_a_rolling_restart_fails_no_prediction(release, load, component):
    before = release.uids(component)
    jobs = Jobs(release, [job(fresh("rolled"), epochs=EPOCHS * 2)] if component == "trainer" else [])
    jobs.wait_running()
    with load.watched() as seen, Leaving(release, component) as leaving:
        workload = ("statefulset" if component == "registry" else "deployment") + f"/demo-slipway-{component}"
        release.kubectl("rollout", "restart", workload)
        release.kubectl("rollout", "status", workload, "--timeout=120s")
        release.wait_settled(component)
        seen.reacted()
        wait_for(lambda: not before & {p["metadata"]["uid"] for p in release.list("pods")}, 60, "the end of those before")
    leaving.assert_ended_in_time(*before)
    seen.assert_nothing_failed()
    seen.assert_recovered()
    jobs.wait_succeeded()
    assert not jobs.ids or jobs.attempts()[0] > 1, "the job was not moved"


def test_a_deleted_pod_fails_no_prediction(release, load, component):
    victim = release.ready_pods(component)[-1]["metadata"]
    with load.watched() as seen:
        begun = time.time()
        release.kubectl("delete", "pod", victim["name"], "--grace-period=0", "--force")
        wait_for(lambda: victim["uid"] not in release.uids(component), 60, "the pod's end")
        release.wait_settled(component)
        seen.reacted()
    if component == "gateway":  # what was open with it is lost with it
        failed = seen.errors()
        assert all(int(begun) <= at + seen.begin <= begun + 4 for at in failed), (failed, begun - seen.begin)
        said = {one for errors in failed.values() for one in errors}
        assert all(any(word in one for word in ("EOF", "reset by peer", "refused")) for one in said), said
        assert seen.bad() <= 20, failed
    else:
        seen.assert_nothing_failed()
    seen.assert_recovered()


def test_nothing_needs_the_registry_for_90_seconds(release):
    jobs = Jobs(release, [job("long", epochs=ENDLESS)])
    jobs.wait_running()
    waiting = Jobs(release, [job(fresh("waiting"), units=8, epochs=3)])
    gateways, kept = release.uids("gateway"), picture(release)
    epoch = jobs.all()[0]["progress"]["epoch"]
    with Load(release) as load, load.watched() as seen:
        release.kubectl("scale", "statefulset/demo-slipway-registry", "--replicas=0")
        release.wait_gone("registry")
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert len(release.ready_pods("gateway")) == 2
            time.sleep(1)
        release.kubectl("scale", "statefulset/demo-slipway-registry", "--replicas=1")
        release.wait_settled("registry")
        seen.reacted()
    assert release.uids("gateway") == gateways
    assert picture(release) == kept
    wait_for(lambda: jobs.running() and jobs.running()[0]["progress"]["epoch"] > epoch + 100, 60, "progress")
    assert jobs.all()[0]["attempt"] == 1, "the trainer held on to its job"
    assert waiting.all()[0]["state"] == "QUEUED"
    jobs.cancel()
    assert waiting.wait_succeeded()[0]["attempt"] == 1
    seen.assert_nothing_failed()
    seen.assert_recovered()
