"""Predictions go on whatever is restarted, drained, killed or deleted."""

import time

import pytest

from cluster import wait_for
from kube import Load, cluster, kubectl, get


@pytest.mark.parametrize("component", ["gateway", "inferencer", "trainer", "registry"])
def test_a_rolling_restart_fails_no_prediction(release, component):
    before = release.uids(component)
    kind = "statefulset" if component == "registry" else "deployment"
    with Load(release) as load:
        release.kubectl("rollout", "restart", f"{kind}/demo-slipway-{component}")
        release.kubectl("rollout", "status", f"{kind}/demo-slipway-{component}", "--timeout=120s")
        release.wait_settled(component)
    assert not before & release.uids(component)
    load.assert_nothing_failed()


@pytest.mark.parametrize("component", ["gateway", "inferencer", "trainer", "registry"])
def test_a_deleted_pod_fails_no_prediction(release, component):
    victim = release.ready_pods(component)[-1]["metadata"]
    with Load(release) as load:
        release.kubectl("delete", "pod", victim["name"], "--grace-period=0", "--force")
        wait_for(lambda: victim["uid"] not in release.uids(component), 60, "the pod's end")
        release.wait_settled(component)
    if component == "gateway":  # what was with it is lost with it
        assert load.result["bad"] <= 20, load.result["errors"]
    else:
        load.assert_nothing_failed()
