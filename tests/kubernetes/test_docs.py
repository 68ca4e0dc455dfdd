"""The commands of docs/kubernetes.md, each as it is typed and in the order in which they stand there, and what comes of each.
A line that is not in the table below fails."""

import json
import os
import pathlib
import re
import subprocess
import tempfile

import pytest
import requests

import docs
from jobs import items, picture, put_dataset
from kube import (COMPONENTS, KUBECTL, ROOT, VALUES, Release, cluster, helm_program, is_ready, kubectl, run, tag_trainers, there,
                  wait_for, with_sets)

# Smaller than what the defaults ask of a machine.
SMALL = ["-f", str(VALUES), *with_sets("gateway.shutdown.delaySeconds=1", "inferencer.replicaCount=1")]
DATA, BACKUPS = "data-demo-slipway-registry-0", "demo-slipway-registry-backup"
EXAMPLE = "20260131T120000Z"  # a backup's id


class Reader:
    """Somebody who types what the document says, at a machine with kubectl, helm and slipway; and what there was before."""

    def __init__(self, folder):
        self.folder = folder
        self.release = Release("ml")
        self.forward = self.backup = self.kept = None
        (folder / "charts").symlink_to(ROOT / "charts")
        programs = folder / "bin"
        programs.mkdir()
        (programs / "kubectl").symlink_to(KUBECTL)
        (programs / "helm").symlink_to(helm_program(4))
        (programs / "slipway").write_text(f'''#!/bin/sh
exec {ROOT}/dev shell sh -c 'cd "$0" && exec "$@"' "$PWD" {ROOT}/build/release/bin/slipway "$@"
''')
        (programs / "slipway").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def type(self, line):
        line = line.replace(EXAMPLE, self.backup or EXAMPLE)
        if line.startswith("helm install"):
            line += " " + " ".join(SMALL)
        if " port-forward " in line:
            self.stop_forwarding()
            self.forward = subprocess.Popen(["bash", "-c", f"exec {line}"], env=self.environment, cwd=self.folder,
                                            stdout=subprocess.DEVNULL)
            return ""
        done = subprocess.run(["bash", "-c", line], env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def stop_forwarding(self):
        if self.forward:
            self.forward.terminate()
            self.forward.wait()
            self.forward = None

    def look(self):
        self.pods = {c: self.release.uids(c) for c in COMPONENTS}

    def assert_changed(self, *components):
        """These have other pods than at the last look, and no others have."""
        self.release.wait_settled()
        assert {c for c in COMPONENTS if self.release.uids(c) != self.pods[c]} == set(components)

    def replicas(self, component):
        return self.release.workload(component)["spec"]["replicas"]

    def autoscalers(self):
        return {one["metadata"]["name"].removeprefix("demo-slipway-"): one["spec"] for one in
                self.release.list("horizontalpodautoscalers")}

    def assert_same(self):
        """All that is kept is what it was."""
        self.release.wait_api()
        assert picture(self.release) == self.kept

    def claims(self):
        return {one["metadata"]["name"]: one for one in self.release.list("persistentvolumeclaims")}


@pytest.fixture(scope="module")
def reader():
    if there("ml"):  # of an earlier run
        Release("ml").helm("uninstall", check=False)
        kubectl("delete", "namespace", "ml")
    kubectl("apply", "--server-side", "-f", cluster("artifact", "crds").strip())
    with tempfile.TemporaryDirectory() as folder:
        found = Reader(pathlib.Path(folder))
        yield found
        found.stop_forwarding()
    found.release.remove()


# --- what comes of each line --------------------------------------------------------------------------------------------------


def nothing_more(reader, said):
    pass


def installed(reader, said):
    reader.release.wait_settled()


def tried(reader, said):
    assert "7" in said and reader.release.predicts()


def opened(reader, said):
    service = reader.release.object("services", "gateway")["spec"]
    assert service["type"] == "LoadBalancer"  # nobody is there who gives it an address
    url = f"http://10.10.0.11:{service['ports'][0]['nodePort']}/v2/health/ready"  # once the node has heard of it
    wait_for(lambda: run("curl", "-fsS", url, check=False).returncode == 0, 30, "the API from outside")


def forwarded(reader, said):
    def answers():
        done = run("curl", "-fsS", "http://localhost:8080/api/v1/models", check=False)
        return done.returncode == 0 and "helm-test" in done.stdout
    wait_for(answers, 30, "the API on this machine")


def five_inferencers(reader, said):
    reader.release.wait_settled()
    assert len(reader.release.ready_pods("inferencer")) == 5 and reader.pods["inferencer"] <= reader.release.uids("inferencer")
    reader.assert_changed("inferencer")


def no_trainers(reader, said):
    reader.release.wait_gone("trainer")
    reader.assert_changed("trainer")


def another_trainer(reader, said):
    reader.assert_changed("trainer")
    assert [p["spec"]["containers"][0]["image"] for p in reader.release.pods("trainer")] == ["slipway/trainer:0.1.1"]


def other_gateways(reader, said):
    reader.assert_changed("gateway")


def gateways_scaled(reader, said):
    assert reader.autoscalers()["gateway"]["metrics"][0]["containerResource"]["name"] == "cpu"
    wait_for(lambda: reader.replicas("gateway") == 2, 60, "the fewest gateways")
    reader.release.wait_settled()


def inferencers_scaled(reader, said):
    assert reader.autoscalers()["inferencer"]["maxReplicas"] == 6
    wait_for(lambda: reader.replicas("inferencer") < 5, 60, "the number that Helm gives up")
    reader.release.wait_settled()


def handed_over(reader, said):
    wait_for(lambda: reader.replicas("inferencer") >= 3, 60, "three inferencers")
    reader.release.wait_settled()


def scaled_from_three(reader, said):
    assert reader.autoscalers()["inferencer"]["minReplicas"] == 3
    reader.assert_changed()


def not_scaled(reader, said):
    assert "inferencer" not in reader.autoscalers() and reader.replicas("inferencer") == 3
    reader.assert_changed()


def for_keda(component, fewest):
    def check(reader, said):
        """Nobody acts on it here: what KEDA does is test_keda.py's."""
        scaled = reader.release.object("scaledobjects", component)["spec"]
        assert scaled["minReplicaCount"] == fewest and scaled["triggers"][0]["type"] == "metrics-api"
        assert component not in reader.autoscalers()
    return check


def pool(name):
    def check(reader, said):
        """Its pod runs where only it may; no other pod is another one."""
        def pods():
            return reader.release.list("pods", f"slipway/pool={name}")
        wait_for(lambda: len(pods()) == 1 and is_ready(pods()[0]), 60, f"the pool {name}")
        assert set().union(*reader.pods.values()) < reader.release.uids()
    return check


def no_large_pool(reader, said):
    wait_for(lambda: not reader.release.list("pods", "slipway/pool=large"), 60, "the pool gone")
    assert reader.release.list("pods", "slipway/pool=gpu")


def resized(reader, said):
    name = re.search("pod/([a-z0-9-]+) patched", said)[1]
    pod = reader.release.get("pods", name)
    url = f"http://{pod['status']['podIP']}:9090/metrics"
    wait_for(lambda: f"slipway_memory_limit_bytes {3 << 30}\n" in requests.get(url, timeout=10).text, 60, "the limit noticed")
    now = reader.release.get("pods", name)
    assert now["metadata"]["uid"] == pod["metadata"]["uid"] in reader.pods["inferencer"]
    assert now["status"]["containerStatuses"][0]["restartCount"] == 0


def watched(reader, said):
    found = reader.release.kubectl("get", "podmonitors,prometheusrules,configmaps", "-o", "name")
    for one in ("podmonitor.monitoring.coreos.com/", "prometheusrule.monitoring.coreos.com/", "configmap/demo-slipway-dashboard"):
        assert one in found, found


def backups_on(reader, said):
    reader.assert_changed("registry")
    reader.assert_same()
    assert reader.claims()[BACKUPS]["status"]["phase"] == "Bound"


def backed_up(reader, said):
    wait_for(lambda: reader.release.get("jobs", "now")["status"].get("succeeded"), 60, "the backup")
    reader.backup = items(reader.release, "/backups")[-1]["id"]


def listed(reader, said):
    assert reader.backup in said


def downloaded(reader, said):
    assert (reader.folder / f"slipway-{reader.backup}.tar").stat().st_size > 10_000
    put_dataset(reader.release, "late", [(1, 2)])  # what going back loses
    assert picture(reader.release) != reader.kept


def restored(reader, said):
    reader.assert_changed("registry")
    reader.assert_same()


def told(reader, said):
    assert reader.backup in said


def no_registry(reader, said):
    reader.release.wait_gone("registry")


def no_data(reader, said):
    assert DATA not in reader.claims()


def removed(reader, said):
    reader.release.wait_ended()
    assert {DATA, BACKUPS} <= reader.claims().keys()


def installed_from_backup(reader, said):
    reader.release.wait_settled()
    reader.assert_same()


def installed_elsewhere(reader, said):
    reader.release.wait_settled()
    reader.release.wait_api()
    assert items(reader.release, "/models") == [] == items(reader.release, "/backups")


def unpacked(reader, said):
    assert items(reader.release, "/backups")[-1]["id"] == reader.backup


def larger_claim(reader, said):
    """Nobody makes a volume larger here."""
    assert reader.claims()[DATA]["spec"]["resources"]["requests"]["storage"] == "40Gi"


def only_pods_left(reader, said):
    assert reader.release.uids("registry") == reader.pods["registry"]


def larger_template(reader, said):
    reader.assert_changed()
    template = reader.release.workload("registry")["spec"]["volumeClaimTemplates"][0]
    assert template["spec"]["resources"]["requests"]["storage"] == "40Gi"
    reader.assert_same()


# A part of a line, a regular expression, that no other line has; what comes of it.
LINES = {
    r"create namespace ml$": nothing_more,
    r"create secret generic slipway-cluster": nothing_more,
    r"helm install .*existingSecret=slipway-cluster$": installed,
    r"helm test demo": tried,
    r"networkPolicy.api.allowExternal=true": opened,
    r"port-forward": forwarded,
    r"label namespace ml": nothing_more,  # each pod after this is a restricted one
    r"inferencer.replicaCount=5": five_inferencers,
    r"trainer.replicaCount=0": no_trainers,
    r"trainer.image.tag=": another_trainer,
    r"gateway.config": other_gateways,
    r"helm rollback": other_gateways,
    r"kubectl (drain|uncordon) ": None,  # test_nodes.py types them, which has nodes for it
    r"gateway.autoscaling.enabled=true": gateways_scaled,
    r"maxReplicas=6": inferencers_scaled,
    r"scale deployment/demo-slipway-inferencer --replicas=3": handed_over,
    r"inferencer.autoscaling.minReplicas=3": scaled_from_three,
    r"inferencer.autoscaling.enabled=false": not_scaled,
    r"trainer.autoscaling.engine=keda": for_keda("trainer", 0),
    r"inferencer.autoscaling.engine=keda": for_keda("inferencer", 3),
    r"inferencer.pools.large.resources": pool("large"),
    r"inferencer.pools.gpu": pool("gpu"),
    r"inferencer.pools.large=null": no_large_pool,
    r"--subresource resize": resized,
    r"metrics.podMonitor.enabled=true": watched,
    r"helm upgrade .*registry.backup.enabled=true$": backups_on,
    r"create job": backed_up,
    r"backup list": listed,
    r"backup download": downloaded,
    r"registry.restore.replace=true": restored,
    r"logs demo-slipway-registry-0 -c restore": told,
    r"registry.replicaCount=0": no_registry,
    r"registry.replicaCount=1": installed_from_backup,
    r"delete pvc": no_data,
    r"helm uninstall": removed,
    r"helm install .*destination.existingClaim": installed_from_backup,
    r"helm install .*backup.enabled=true$": installed_elsewhere,
    r"tar -xf": unpacked,
    r"patch pvc": larger_claim,
    r"delete statefulset .*--cascade=orphan": only_pods_left,
    r"persistence.size=40Gi": larger_template,
}


# --- what the machines must have for it ---------------------------------------------------------------------------------------


def with_another_image(reader):
    tag_trainers("0.1.1")


def without_autoscaler(reader):
    reader.release.upgrade("gateway.service.type=ClusterIP", "inferencer.autoscaling.enabled=false", "inferencer.replicaCount=2",
                           force=True)


def with_other_kinds_of_nodes(reader):
    """A large one and one with a card; KEDA counts for all inferencers together, which pools are not."""
    reader.release.upgrade("inferencer.autoscaling.enabled=false", "inferencer.replicaCount=1", "trainer.autoscaling.enabled=false",
                           force=True)
    kubectl("label", "node", "node3", "size=large", "--overwrite")
    kubectl("patch", "node", "node3", "--subresource=status", "--type=json", "-p",
            json.dumps([{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "1"}]))
    kubectl("apply", "-f", "-", text=json.dumps(
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "runc"}))


def with_something_kept(reader):
    reader.kept = picture(reader.release)


def with_nothing(reader):
    """As on another cluster: nothing is there of the release that was."""
    reader.release.uninstall()
    reader.release.kubectl("delete", "pvc", DATA, BACKUPS)


BEFORE = {
    r"trainer.image.tag=": with_another_image,
    r"scale deployment/demo-slipway-inferencer --replicas=3": without_autoscaler,
    r"inferencer.pools.large.resources": with_other_kinds_of_nodes,
    r"helm upgrade .*registry.backup.enabled=true$": with_something_kept,
    r"helm install .*backup.enabled=true$": with_nothing,
}


@pytest.mark.parametrize("section", docs.SECTIONS)
def test_what_is_typed_does_what_it_says(reader, section):
    for line in docs.SECTIONS[section]:
        found = [part for part in LINES if re.search(part, line)]
        assert len(found) == 1, f"wanted one entry of the table for: {line}"
        if LINES[found[0]]:
            if found[0] in BEFORE:
                BEFORE[found[0]](reader)
            if there("ml") and reader.release.list("deployments"):
                reader.look()
            LINES[found[0]](reader, reader.type(line))
    reader.stop_forwarding()


def test_the_table_has_no_line_too_many():
    assert [part for part in LINES if not any(re.search(part, line) for line in docs.LINES)] == []
