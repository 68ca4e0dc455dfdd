"""Predictions go on whatever is restarted, drained, killed or deleted."""

import time

import pytest

from cluster import wait_for
from kube import Load, cluster, kubectl, long_job


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


def spread(release):
    """A gateway and an inferencer on each node, so that each node's end leaves one."""
    for component in ("gateway", "inferencer"):
        nodes = {p["spec"]["nodeName"] for p in release.ready_pods(component)}
        if len(nodes) < 2:
            pod = release.ready_pods(component)[0]["metadata"]["name"]
            release.kubectl("delete", "pod", pod)
            release.wait_settled(component)
        wait_for(lambda c=component: len({p["spec"]["nodeName"] for p in release.ready_pods(c)}) == 2, 60, "pods on both nodes")


def test_a_node_is_drained_without_a_failure(release):
    spread(release)
    try:
        with Load(release) as load:
            kubectl("drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")
            for component in ("gateway", "inferencer", "trainer"):
                wait_for(lambda c=component: {p["spec"]["nodeName"] for p in release.ready_pods(c)} == {"node1"}, 120,
                         "pods on the node that is left")
    finally:
        kubectl("uncordon", "node2")
    release.wait_settled()
    load.assert_nothing_failed()


def test_a_node_that_is_lost_costs_only_what_the_cluster_has_not_noticed(release):
    spread(release)

    def gone(component):
        return all(p["spec"]["nodeName"] == "node1" for p in release.ready_pods(component))
    # A connection that was idle when the node went is found dead whenever it is used next: those are the client's.
    with Load(release, timeout="5s", keep_alive=False) as load:
        cluster("kill-node", 2)
        wait_for(lambda: gone("gateway") and gone("inferencer"), 90, "the cluster noticing")
        noticed = time.time()
        cluster("start-node", 2)
        kubectl("wait", "--for=condition=Ready", "node/node2", "--timeout=120s")
        release.wait_settled(seconds=180)
        wait_for(lambda: time.time() > noticed + 15, 30, "enough requests after it")
    # What began before may last until its request's deadline.
    late = [s for s in load.result["seconds"] if s["at"] > noticed + 6]
    assert len(late) >= 5 and sum(s["bad"] for s in late) == 0, load.result["errors"]
    assert sum(s["good"] for s in load.result["seconds"] if s["at"] <= noticed) > 0
    before = max(s["p99"] for s in load.result["seconds"][:2])
    after = sorted(s["p99"] for s in late)[len(late) // 2]
    assert after < max(4 * before, 100), (before, after)


def test_nothing_needs_the_registry_for_90_seconds(release):
    job = release.submit(long_job("long"))
    wait_for(lambda: release.api(f"/jobs/{job}")["state"] == "RUNNING", 60, "the job running")
    gateways = release.uids("gateway")
    with Load(release) as load:
        release.kubectl("scale", "statefulset/demo-slipway-registry", "--replicas=0")
        wait_for(lambda: not release.pods("registry"), 60, "the registry gone")
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert len(release.ready_pods("gateway")) == 2
            time.sleep(1)
        release.kubectl("scale", "statefulset/demo-slipway-registry", "--replicas=1")
        release.wait_settled("registry")
    load.assert_nothing_failed()
    assert release.uids("gateway") == gateways
    done = release.wait_job(job)
    assert done["attempt"] == 1, "the trainer held on to its job"


def test_the_restart_of_a_nodes_kubelet_is_not_noticed(release):
    node = release.pods("registry")[0]["spec"]["nodeName"]
    before = release.uids()
    with Load(release) as load:
        cluster("node", node.removeprefix("node"), "pkill", "-9", "-x", "kubelet")
        time.sleep(10)  # the drill: what happens while it is away and comes back
        kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=60s")
    load.assert_nothing_failed()
    assert release.uids() == before
