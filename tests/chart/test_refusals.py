"""Values that cannot be meant are refused when they are rendered, with a sentence that says what to do."""

import pytest

from chart import HELMS, Refused, render

def variables(part, *names):
    return tuple(f"{part}.extraEnv[{i}].name={name}" for i, name in enumerate(names))


ON = "autoscaling.enabled=true"
RESTORE = ("registry.restore.enabled=true", "registry.restore.from=20260131T120000Z")
SENTENCES = {
    ("auth.existingSecret=",): "set auth.existingSecret=slipway-cluster",
    ("registry.replicaCount=2",): "Set it to 1",
    ("gateway.terminationGracePeriodSeconds=84",): "raise it to 85",
    ("trainer.shutdown.drainSeconds=600", "trainer.terminationGracePeriodSeconds=600"): "raise it to 615",
    ("registry.terminationGracePeriodSeconds=1",): "raise it to 75",
    (f"inferencer.{ON}", "inferencer.replicaCount=0"): "set inferencer.autoscaling.enabled=false too",
    (f"inferencer.{ON}", "inferencer.autoscaling.minReplicas=11"): "raise the one or lower the other",
    (f"inferencer.{ON}", "inferencer.autoscaling.minReplicas=0"): "or autoscaling.engine=keda",
    (f"trainer.{ON}",): "set autoscaling.engine=keda",
    (f"trainer.{ON}", "trainer.autoscaling.minReplicas=0", "trainer.autoscaling.targetOutstandingPerReplica=1"):
        "cannot start from zero. Set it to 1, or autoscaling.engine=keda",
    (f"gateway.{ON}", "gateway.resources.requests.cpu=null"): "set gateway.resources.requests.cpu",
    (f"inferencer.{ON}", "inferencer.autoscaling.engine=keda", "inferencer.pools.a.slots=2"):
        "give each its own autoscaling.keda.triggers",
    (f"inferencer.pools.a.{ON}", "inferencer.pools.a.autoscaling.targetOutstandingPerReplica=4"):
        "give each its own autoscaling.metrics",
    ("inferencer.pools.a.terminationGracePeriodSeconds=3",): "inferencer.pools.a.terminationGracePeriodSeconds is 3",
    ("inferencer.pools.default.slots=1",): "inferencer.pools.default: a pool's name",
    ("inferencer.pools.A.slots=1",): "inferencer.pools.A: a pool's name",
    (f"inferencer.pools.{'a' * 16}.slots=1",): "at most 15",
    ("gateway.podDisruptionBudget.minAvailable=2",): "Lower it, or use maxUnavailable",
    ("registry.podDisruptionBudget.minAvailable=1",): "Lower it, or use maxUnavailable",
    ("registry.podDisruptionBudget.minAvailable=1%",): "minAvailable is 1% of 1 pods",
    ("gateway.podDisruptionBudget.minAvailable=51%",): "Lower it, or use maxUnavailable",
    ("trainer.podDisruptionBudget.maxUnavailable=0",): "Raise it to 1",
    ("inferencer.pools.a.podDisruptionBudget.maxUnavailable=0%",): "inferencer.pools.a.podDisruptionBudget",
    ("gateway.service.type=LoadBalancer",): "set networkPolicy.api.allowExternal=true",
    ("gateway.ingress.enabled=true",): "list the namespace of what serves it in networkPolicy.api.from",
    ("gateway.httpRoute.enabled=true", "networkPolicy.enabled=false"): "name the Gateway that it belongs to",
    variables("gateway", "A", "B", "A"): "gateway.extraEnv has A twice",
    variables("inferencer.pools.a", "SLIPWAY_DRAIN_SECONDS"): "set inferencer.pools.a.shutdown.drainSeconds instead",
    variables("gateway", "SLIPWAY_DRAIN_GRACE_MS"): "set gateway.shutdown.delaySeconds instead",
    variables("inferencer", "SLIPWAY_INSTANCES"): "set inferencer.slots instead",
    variables("trainer", "SLIPWAY_CHECKPOINT_SECONDS"): "set trainer.checkpoint.everySeconds instead",
    variables("trainer", "SLIPWAY_CACHE_BYTES"): "set trainer.config.cache-bytes instead",
    variables("gateway", "SLIPWAY_LISTEN_ADDRESS"): "set listenAddress instead",
    variables("registry", "SLIPWAY_CLUSTER_SECRET"): "set auth.existingSecret instead",
    variables("registry", "SLIPWAY_LOG_LEVEL"): "set registry.config.log-level instead",
    variables("registry", "SLIPWAY_DATA_DIR"): "leave it out",
    variables("trainer", "SLIPWAY_REGISTRY"): "leave it out",
    variables("gateway", "SLIPWAY_HTTP_PORT"): "leave it out",
    ("gateway.config.cluster-secret=x",): "gateway.config.cluster-secret is made by the chart: set auth.existingSecret instead",
    ("inferencer.pools.a.config.threads=3",): "set inferencer.pools.a.threads instead",
    ("trainer.config.gateways={x:1}",): "set SLIPWAY_GATEWAYS in trainer.extraEnv instead",
    ("registry.config.backup-dir=/x",): "set registry.backup.enabled=true instead",
    ("registry.config.bus-port=1",): "leave it out",
    ("gateway.config.max-body-bytes=1", *variables("gateway", "SLIPWAY_MAX_BODY_BYTES")):
        "set gateway.config.max-body-bytes instead",
    ("ipFamilies={IPv6}",): "set listenAddress=::",
    ("ipFamilyPolicy=PreferDualStack",): "set listenAddress=::",
    ("ipFamilyPolicy=SingleStack", "ipFamilies={IPv6,IPv4}", "listenAddress=::"): "name one of them",
    ("trainer.resources.limits.memory=lots",): "write e.g. 512Mi or 10Gi",
    ("inferencer.pools.a.resources.requests.memory=8GB",): "8GB is no amount of memory",
    ("registry.resources.limits.memory=lots",): "write e.g. 512Mi or 10Gi",
    ("registry.restore.enabled=true",): "set registry.restore.from to its id",
    (*RESTORE, "registry.persistence.enabled=false"): "Set registry.persistence.enabled=true",
    (*RESTORE, "registry.backup.destination.existingClaim=data-demo-slipway-registry-0"): "Name another claim",
    ("registry.backup.enabled=true", "registry.backup.destination.existingClaim=data-demo-slipway-registry-0"):
        "Name another claim",
    ("registry.backup.enabled=true", "registry.backup.destination.existingClaim=a", "registry.persistence.existingClaim=a"):
        "is a, where the data is",
}
# What the schema says: one line, with the place.
UNKNOWN = ["gateway.replicacount=3", "inferencr.replicaCount=3", "gateway.config.max-body-byte=1", "global2=1",
           "inferencer.pools.a.replicas=3", "inferencer.pools.a.pools.b.slots=1",
           "metrics.podmonitor.enabled=true", "registry.autoscaling.enabled=true", "trainer.slots=2",
           "registry.backup.keep=3", "registry.backup.destination.claim=x", "registry.restore.id=20260131T120000Z",
           "inferencer.pools.a.config.max-rows=1"]
WRONG = ["gateway.replicaCount=three", "gateway.replicaCount=-1", "inferencer.autoscaling.engine=vpa", "auth.enabled=maybe",
         "registry.persistence.size=big", "registry.persistence.accessModes[0]=ReadWriteMany", "gateway.service.port=0",
         "auth.clusterSecret=short", "logging.level=loud", "gateway.image.digest=latest", "gateway.config.max-body-bytes=64Mi",
         "inferencer.slots=0", "inferencer.pools.a.slots=0", "gateway.podDisruptionBudget.maxUnavailable=half",
         "registry.backup.retention=0", "registry.backup.schedule=nightly", "registry.backup.schedule=17 3 * *",
         "registry.backup.timeZone=Local time", "registry.backup.startingDeadlineSeconds=9",
         "registry.backup.destination.accessModes[0]=ReadOnlyMany", "registry.restore.from=../20260131T120000Z",
         "clusterDomain=cluster.local.", "clusterDomain=", "listenAddress=127.0.0.1", "listenAddress=[::]", "ipFamilies[0]=ipv6",
         "ipFamilyPolicy=DualStack", "gateway.extraEnv[0].name=1"]


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("sets", SENTENCES, ids=" ".join)
def test_a_sentence_says_what_to_do(sets, major):
    with pytest.raises(Refused) as refused:
        render(*sets, major=major)
    assert SENTENCES[sets] in " ".join(str(refused.value).split())


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("value", UNKNOWN + WRONG)
def test_what_is_unknown_or_of_another_type_is_refused_with_its_place(value, major):
    with pytest.raises(Refused) as refused:
        render(value, major=major)
    parts = value.partition("=")[0].replace("[", ".").replace("]", "").split(".")
    places = [f"- at '{''.join('/' + part for part in parts[:i])}': additional properties '{parts[i]}' not allowed"
              for i in range(len(parts))] if value in UNKNOWN else [f"- at '/{'/'.join(parts)}': "]
    said = [line.strip() for line in str(refused.value).splitlines() if line.lstrip().startswith("- at")]
    assert len(said) == 1 and said[0].startswith(tuple(places)), refused.value


@pytest.mark.parametrize("major", HELMS)
def test_a_variable_has_a_name(major):
    with pytest.raises(Refused, match="at '/gateway/extraEnv/0': missing property 'name'"):
        render("gateway.extraEnv[0].value=x", major=major)


def test_a_budget_that_lets_one_pod_go_is_none_of_ours():
    render("gateway.podDisruptionBudget.minAvailable=50%", "trainer.podDisruptionBudget.maxUnavailable=1%")
    render("inferencer.replicaCount=0", "inferencer.podDisruptionBudget.minAvailable=1")


def test_the_environment_may_say_what_the_chart_does_not():
    render("trainer.extraEnv[0].value=1", *variables("trainer", "SLIPWAY_MEMORY_MIB", "LD_DEBUG"), "inferencer.pools.a=null")
    render("registry.backup.enabled=true", "registry.replicaCount=0")  # so docs/kubernetes.md replaces a lost volume


@pytest.mark.parametrize("major", HELMS)
def test_a_chart_that_contains_this_one_may_set_its_own_globals(major):
    render("global.somebodyElses=1", "enabled=true", major=major)
