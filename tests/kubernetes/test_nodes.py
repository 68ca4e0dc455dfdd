"""Predictions and jobs go on whatever becomes of a node."""

import json
import shlex
import time

import docs
from jobs import ENDLESS, Jobs, job
from kube import cluster, is_ready, kubectl, node, read, wait_for
from load import Load


def spread(release):
    """A gateway and an inferencer on each node, so that each node's end leaves one."""
    for component in ("gateway", "inferencer"):
        if len(release.nodes_of(component)) < 2:
            pod = release.ready_pods(component)[0]["metadata"]["name"]
            release.kubectl("delete", "pod", pod)
            release.wait_settled(component)
        wait_for(lambda c=component: len(release.nodes_of(c)) == 2, 60, "pods on both nodes")


def test_a_node_is_drained_without_a_failure(release):
    """By the commands of docs/kubernetes.md; the node is the one where the registry and its volume are."""
    spread(release)
    home = release.pods("registry")[0]["spec"]["nodeName"]
    other = {"node1": "node2", "node2": "node1"}[home]
    drain, uncordon = (shlex.split(docs.line(f"kubectl {verb} "))[1:] for verb in ("drain", "uncordon"))
    drain[1] = uncordon[1] = home
    try:
        with Load(release, node=other) as load, load.watched() as seen:
            kubectl(*drain, "--timeout=150s")
            # Their successors are ready when they know the registry's models: its volume, and so its pod, waits for the node.
            for component in ("gateway", "inferencer"):
                wait_for(lambda c=component: {p["spec"]["nodeName"] for p in release.pods(c)} == release.nodes_of(c) | {other} == {other},
                         60, "pods on the node that is left")
            seen.reacted()
            assert release.pods("registry")[0]["status"]["phase"] == "Pending"
    finally:
        kubectl(*uncordon)
    release.wait_settled()
    seen.assert_nothing_failed()
    seen.assert_recovered()


def test_a_node_that_is_lost_costs_only_what_the_cluster_has_not_noticed(release):
    spread(release)

    def unanswered():
        return {name: value for name, value in release.metrics("gateway").items()
                if value and ("hangups" in name or 'code="5xx"' in name)}
    # A connection that was idle when the node went is found dead whenever it is used next: those are the client's.
    with Load(release, timeout="5s", keep_alive=False) as load, load.watched() as seen:
        cluster("kill-node", 2)
        lost = time.time()
        try:
            wait_for(lambda: release.nodes_of("gateway") == release.nodes_of("inferencer") == {"node1"}, 90, "the cluster noticing")
            noticed = time.time()
            seen.reacted()
            # A gateway misses an inferencer after five seconds, as long as its clients wait: some of those have gone.
            before = unanswered()
        finally:
            cluster("start-node", 2)
        returned = time.time()
        wait_for(lambda: is_ready(node("node2")), 120, "the node's return")
        release.wait_settled(seconds=180)
        seen.reacted()
    # What began before may last until its request's deadline.
    failed = {at + seen.begin: said for at, said in seen.errors().items()}
    assert not [at for at in failed if at < int(lost) or noticed + 6 < at < int(returned)], (lost, noticed, returned, failed)
    assert sum(s["good"] for s in seen.seconds if lost < s["at"] <= noticed) > 0, failed
    # The node comes back with other addresses of pods, while the other one still tracks connections to the old ones, and a pod
    # may be ready before its network's policy lets anybody in: some requests get nowhere, no more than a second's. What reaches
    # a gateway is answered.
    at_return = {at: said for at, said in failed.items() if at >= int(returned)}
    assert all(what.startswith("connecting: ") for said in at_return.values() for what in said), json.dumps(at_return)
    assert sum(s["bad"] for s in seen.seconds if s["at"] >= int(returned)) <= load.rate, json.dumps(at_return)
    now = unanswered()
    assert all(value <= before.get(name, 0) for name, value in now.items()), (before, now, failed)
    seen.assert_recovered()


def test_the_restart_of_a_nodes_kubelet_is_not_noticed(release):
    spread(release)  # a kubelet that starts calls its pods unready until it has probed them
    jobs = Jobs(release, [job("through", epochs=ENDLESS)])
    jobs.wait_running()
    name = release.pods("trainer")[0]["spec"]["nodeName"]
    before = release.uids()

    def kubelet():
        return cluster("node", name.removeprefix("node"), "pgrep", "-x", "kubelet", check=False).stdout.split()

    def heartbeat():
        return read(f"apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")["spec"]["renewTime"]
    with Load(release) as load, load.watched() as seen:
        killed = kubelet()
        cluster("node", name.removeprefix("node"), "kill", "-9", *killed)
        wait_for(lambda: kubelet() and kubelet() != killed, 60, "another kubelet")
        last = heartbeat()
        wait_for(lambda: heartbeat() > last and is_ready(node(name)), 60, "its heartbeat")
        seen.reacted()
    assert release.uids() == before
    jobs.wait_running()
    assert jobs.all()[0]["attempt"] == 1
    jobs.cancel()
    seen.assert_nothing_failed()
    seen.assert_recovered()
