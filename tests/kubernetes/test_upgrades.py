"""What each `helm upgrade` changes and what it must not: the table of docs/kubernetes.md, with both majors of Helm."""

import shutil

import pytest

from jobs import ENDLESS, Jobs, job
from kube import CHART, COMPONENTS, Release, tag_trainers, wait_for

ONE_EACH = ("gateway.replicaCount=1", "inferencer.replicaCount=1", "gateway.shutdown.delaySeconds=1")


@pytest.fixture(scope="module", params=[4, 3], ids=["helm4", "helm3"])
def small(request):
    found = Release(f"helm{request.param}", request.param, *ONE_EACH)
    found.install()
    found.helm("test", "--timeout", "180s")
    yield found
    found.remove()


class Pods:
    """Which pods there were: `changed` tells whose are not the same ones, ended and new pods counted."""

    def __init__(self, release):
        self.release = release
        self.before = {c: release.uids(c) for c in COMPONENTS}

    def changed(self):
        self.release.wait_settled()
        return {c for c in COMPONENTS if self.release.uids(c) != self.before[c]}

    def ended(self):
        self.release.wait_settled()
        return {c for c in COMPONENTS if not self.before[c] <= self.release.uids(c)}


def replicas(release, component):
    return release.workload(component)["spec"]["replicas"]


def generations(release):
    return {o["metadata"]["name"]: o["metadata"]["generation"]
            for kind in ("deployments", "statefulsets") for o in release.list(kind)}


def test_more_inferencers_leave_the_running_ones_alone(small):
    pods = Pods(small)
    before = generations(small)
    small.upgrade("inferencer.replicaCount=2")
    assert pods.ended() == set() and pods.changed() == {"inferencer"}
    after = generations(small)
    assert {n for n in after if after[n] != before[n]} == {"demo-slipway-inferencer"}
    small.upgrade("inferencer.replicaCount=1")
    small.wait_settled()


def test_without_inferencers_the_api_stays_and_predictions_are_refused(small):
    pods = Pods(small)
    small.upgrade("inferencer.replicaCount=0")
    assert pods.changed() == {"inferencer"} and replicas(small, "inferencer") == 0
    # Those that were asked to go answer while they can.
    wait_for(lambda: not small.list("pods", "app.kubernetes.io/component=inferencer"), 120, "the end of the pods")
    answer = small.request("POST", "/v1/models/helm-test:predict", json={"instances": [[3]]})
    assert answer.status_code == 503 and "Retry-After" in answer.headers, answer.text
    assert small.api("/models/helm-test")["name"] == "helm-test"
    small.upgrade("inferencer.replicaCount=1")
    wait_for(small.predicts, 60, "predictions again")


def test_an_autoscaler_takes_over_the_number_of_pods(small):
    pods = Pods(small)
    small.kubectl("scale", "deployment/demo-slipway-inferencer", "--replicas=2")
    small.wait_settled("inferencer")
    small.upgrade("inferencer.autoscaling.enabled=true", "inferencer.autoscaling.minReplicas=2")
    if small.major == 4:
        assert replicas(small, "inferencer") == 2 and pods.ended() == set()
    else:  # takes its own number away, so that it falls to 1 until the autoscaler looks
        wait_for(lambda: replicas(small, "inferencer") == 2, 60, "the autoscaler's minimum")
        small.wait_settled()
    assert small.object("horizontalpodautoscalers", "inferencer")["spec"]["minReplicas"] == 2

    pods = Pods(small)
    before = generations(small)
    small.upgrade("inferencer.autoscaling.maxReplicas=20")
    assert "ignored" in small.upgrade("inferencer.replicaCount=5")
    assert small.object("horizontalpodautoscalers", "inferencer")["spec"]["maxReplicas"] == 20
    assert generations(small) == before and pods.changed() == set()

    # And back: whoever scaled last owns the number, which Helm 4 takes back only when it is told to.
    small.upgrade("inferencer.autoscaling.enabled=false", "inferencer.replicaCount=2", force=True)
    wait_for(lambda: not small.list("horizontalpodautoscalers"), 30, "the autoscaler gone")
    assert replicas(small, "inferencer") == 2 and pods.changed() == set()
    small.upgrade("inferencer.replicaCount=1", force=True)  # the first other number
    small.upgrade("inferencer.replicaCount=2")
    small.upgrade("inferencer.replicaCount=1")
    assert replicas(small, "inferencer") == 1


def test_a_pool_of_inferencers_comes_and_goes_alone(small):
    def names():
        return {one["metadata"]["name"] for one in small.list("deployments")}

    def inferencers():
        return small.metrics("gateway").get('slipway_gateway_workers{role="inferencer"}')
    pods, before, generation = small.uids(), names(), generations(small)
    small.upgrade("inferencer.pools.a.replicaCount=1")
    assert names() - before == {"demo-slipway-inferencer-a"}
    assert len(small.uids() - pods) == 1 and not pods - small.uids()
    assert {name: number for name, number in generations(small).items() if name in generation} == generation
    wait_for(lambda: inferencers() == 2, 60, "both known to the gateway")
    small.upgrade("inferencer.pools.a=null")
    wait_for(lambda: names() == before and small.uids() == pods, 60, "the pool gone")
    wait_for(lambda: inferencers() == 1, 60, "the gateway knowing it")


def test_another_image_of_trainers_restarts_trainers_only_and_their_jobs_go_on(small):
    tag_trainers("next")
    small.upgrade("trainer.replicaCount=2")
    jobs = Jobs(small, [job(f"rolled-{i}", epochs=ENDLESS) for i in range(2)])
    jobs.wait_running()
    pods = Pods(small)
    small.upgrade("trainer.image.tag=next")
    assert pods.changed() == {"trainer"}
    assert {p["spec"]["containers"][0]["image"] for p in small.pods("trainer")} == {"slipway/trainer:next"}
    jobs.wait_running(attempt=2)
    jobs.cancel()
    assert min(jobs.attempts()) > 1
    pods = Pods(small)
    small.helm("rollback", "--wait", "--timeout", "180s")
    assert pods.changed() == {"trainer"}
    assert {p["spec"]["containers"][0]["image"] for p in small.pods("trainer")} == {"slipway/trainer:0.1.0"}
    small.upgrade("trainer.replicaCount=1")


def test_a_setting_of_gateways_restarts_gateways_only(small):
    pods = Pods(small)
    small.upgrade("gateway.config.max-queued-requests=4096")
    assert pods.changed() == {"gateway"}
    # Earlier settings are still there.
    assert small.workload("gateway")["spec"]["replicas"] == 1


def test_another_size_of_the_volume_is_refused_with_what_to_do(small):
    pods = Pods(small)
    refused = small.upgrade("registry.persistence.size=2Gi", check=False)
    assert refused.returncode != 0
    assert "registry.persistence.size is 2Gi" in refused.stderr and "patch pvc data-demo-slipway-registry-0" in refused.stderr
    assert pods.changed() == set()


def test_a_wrong_value_is_refused(small):
    refused = small.upgrade("inferencer.replicas=5", check=False)
    assert refused.returncode != 0 and "replicas" in refused.stderr, refused.stderr


def test_a_new_chart_of_the_same_application_restarts_nothing(small, tmp_path):
    chart = tmp_path / "slipway"
    shutil.copytree(CHART, chart)
    text = (chart / "Chart.yaml").read_text()
    version = next(line for line in text.splitlines() if line.startswith("version: "))
    (chart / "Chart.yaml").write_text(text.replace(version, "version: 99.0.0"))
    pods = Pods(small)
    small.upgrade(chart=chart)
    assert pods.changed() == set()
    assert small.workload("gateway")["metadata"]["labels"]["helm.sh/chart"] == "slipway-99.0.0"


def test_the_volume_outlives_the_release(small):
    small.uninstall()
    assert small.list("persistentvolumeclaims"), "the claim is kept"
    small.install()
    assert small.api("/models/helm-test")["name"] == "helm-test"
    wait_for(small.predicts, 60, "the model served again")
