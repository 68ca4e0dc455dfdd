"""What single values make of single objects. Whether objects fit each other is test_render.py's, what an upgrade changes
test_upgrade.py's."""

import pytest
import yaml

from chart import CHART, HELMS, pod_template, pods, render

HOST = "kubernetes.io/hostname"
DIGEST = "sha256:" + "0123456789abcdef" * 4
BACKUP = ("registry.backup.enabled=true",)
RESTORE = ("registry.restore.enabled=true", "registry.restore.from=20260131T120000Z")
REGISTRY = ("StatefulSet", "demo-slipway-registry")
COMPONENTS = ("gateway", "inferencer", "trainer", "registry")


def pod_of(objects, component):
    key = REGISTRY if component == "registry" else ("Deployment", f"demo-slipway-{component}")
    return pod_template(objects[key])


def specs(objects):
    return {component: pod_of(objects, component)["spec"] for component in COMPONENTS}


# --- pods ---


def test_pods_of_a_component_keep_apart_as_well_as_they_can_or_must_or_need_not():
    own = {"topologyKey": HOST, "labelSelector": {"matchLabels": {
        "app.kubernetes.io/name": "slipway", "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "gateway"}}}
    affinity = {preset: specs(render(f"global.podAntiAffinityPreset={preset}"))["gateway"].get("affinity")
                for preset in ("soft", "hard", "")}
    assert affinity == {
        "soft": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": own}]}},
        "hard": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [own]}},
        "": None}
    assert specs(render())["gateway"]["affinity"] == affinity["soft"]


def test_pools_keep_apart_from_themselves_only_and_the_one_registry_from_nobody():
    objects = render("global.podAntiAffinityPreset=hard", "inferencer.pools.a.slots=2")
    assert "affinity" not in specs(objects)["registry"]
    for name, pool in (("inferencer", "default"), ("inferencer-a", "a")):
        term, = pod_of(objects, name)["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"]["matchLabels"]["slipway/pool"] == pool


def test_a_components_affinity_takes_the_place_of_the_preset():
    given = specs(render(f"trainer.affinity.podAffinity.note={HOST}", f"registry.affinity.podAffinity.note={HOST}"))
    for component in ("trainer", "registry"):
        assert given[component]["affinity"] == {"podAffinity": {"note": HOST}}


def test_node_autoscalers_leave_trainers_alone_when_told_so():
    protection = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    objects = render("trainer.protectFromNodeScaleDown=true")
    for component in COMPONENTS:
        annotations = pod_of(objects, component)["metadata"]["annotations"]
        assert (protection.items() <= annotations.items()) == (component == "trainer")
        assert not protection.keys() & pod_of(render(), component)["metadata"]["annotations"].keys()


def images(*sets):
    found = {}
    for thing, _, spec in pods(render(*BACKUP, *RESTORE, *sets)):
        for container in spec.get("initContainers", []) + spec["containers"]:
            found[thing["kind"], container["name"]] = container["image"]
    return found


def test_an_image_is_that_of_the_chart_until_it_is_said_otherwise():
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    default = images()
    assert set(default.values()) == {f"slipway/{name}:{version}" for name in (*COMPONENTS, "cli")}
    gateway = "Deployment", "gateway"
    own = "gateway.image.registry=a.example.org", "gateway.image.repository=b/c", "gateway.image.tag=d"
    assert images(*own) == default | {gateway: "a.example.org/b/c:d"}
    assert images(*own, f"gateway.image.digest={DIGEST}") == default | {gateway: f"a.example.org/b/c@{DIGEST}"}
    everywhere = images(*own, "global.imageRegistry=mirror.example.org:5000")
    assert everywhere == {key: f"mirror.example.org:5000/{image}" for key, image in default.items()} | {
        gateway: "mirror.example.org:5000/b/c:d"}


def test_every_pod_has_the_secrets_to_pull_with():
    found = [spec.get("imagePullSecrets") for _, _, spec in pods(render(*BACKUP, "global.imagePullSecrets={one,two}"))]
    assert found == [[{"name": "one"}, {"name": "two"}]] * 6  # four services, the test, the backup
    assert [spec for _, _, spec in pods(render(*BACKUP)) if "imagePullSecrets" in spec] == []


def test_priority_is_everybodys_or_a_components_own():
    given = specs(render("global.priorityClassName=high", "trainer.priorityClassName=low"))
    assert {component: spec["priorityClassName"] for component, spec in given.items()} == {
        "gateway": "high", "inferencer": "high", "trainer": "low", "registry": "high"}
    assert not [spec for spec in specs(render()).values() if "priorityClassName" in spec]


def test_probes_ask_whether_it_lives_and_whether_it_is_ready():
    for component, spec in specs(render()).items():
        container = spec["containers"][0]
        for kind, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
            assert container[f"{kind}Probe"]["httpGet"] == {"path": path, "port": "metrics"}, (component, kind)
    changed = specs(render("trainer.livenessProbe.enabled=false", "trainer.startupProbe.failureThreshold=7"))
    container = changed["trainer"]["containers"][0]
    assert "livenessProbe" not in container and container["startupProbe"]["failureThreshold"] == 7


def test_large_volumes_are_given_to_the_pod_once_not_at_every_start():
    for component, spec in specs(render()).items():
        changes = spec["securityContext"].get("fsGroupChangePolicy")
        assert changes == ("OnRootMismatch" if component == "registry" else None), "an emptyDir is empty"


def test_a_gateway_is_ready_without_an_inferencer_after_a_while():
    def file(*sets):
        return render(*sets)["ConfigMap", "demo-slipway-gateway"]["data"]["config.toml"].splitlines()
    assert "ready-alone-after-seconds = 15" in file()
    assert "ready-alone-after-seconds = -1" in file("gateway.config.ready-alone-after-seconds=-1")


# --- the registry's workload ---


def test_a_registry_that_cannot_start_does_not_hold_up_what_mends_it():
    assert render()[REGISTRY]["spec"]["podManagementPolicy"] == "Parallel"


def test_the_registrys_claim_stays_unless_it_is_said_otherwise():
    kept = {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert render()[REGISTRY]["spec"]["persistentVolumeClaimRetentionPolicy"] == kept
    spec = render("registry.persistence.retention.whenDeleted=Delete")[REGISTRY]["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == kept | {"whenDeleted": "Delete"}
    spec = render("registry.persistence.existingClaim=mine")[REGISTRY]["spec"]
    assert not {"persistentVolumeClaimRetentionPolicy", "volumeClaimTemplates"} & spec.keys()


def test_volumes_have_the_clusters_class_or_everybodys_or_their_own():
    def classes(*sets):
        objects = render(*BACKUP, *sets)
        claims = objects[REGISTRY]["spec"]["volumeClaimTemplates"][0], objects["PersistentVolumeClaim", f"{REGISTRY[1]}-backup"]
        return [claim["spec"].get("storageClassName") for claim in claims]
    assert classes() == [None, None]
    assert classes("global.storageClass=fast") == ["fast", "fast"]
    own = "registry.persistence.storageClass=local", "registry.backup.destination.storageClass=far"
    assert classes("global.storageClass=fast", *own) == ["local", "far"]


# --- the way in ---


def test_an_ingress_leads_to_the_api():
    on = "gateway.ingress.enabled=true", "networkPolicy.api.allowExternal=true"
    key = "Ingress", "demo-slipway-gateway"
    http = {"paths": [{"path": "/", "pathType": "Prefix",
                       "backend": {"service": {"name": "demo-slipway-gateway", "port": {"name": "http"}}}}]}
    assert render(*on)[key]["spec"] == {"rules": [{"http": http}]}
    ingress = render(*on, "gateway.ingress.className=nginx", "gateway.ingress.hosts={a.example.org,b.example.org}",
                     "gateway.ingress.tls[0].secretName=tls", "gateway.ingress.annotations.size=big")[key]
    assert ingress["spec"] == {"ingressClassName": "nginx", "tls": [{"secretName": "tls"}], "rules": [
        {"host": "a.example.org", "http": http}, {"host": "b.example.org", "http": http}]}
    assert ingress["metadata"]["annotations"] == {"size": "big"}
    assert key not in render()


def test_a_route_leads_to_the_api_unless_it_has_rules_of_its_own():
    on = "gateway.httpRoute.enabled=true", "networkPolicy.api.allowExternal=true", "gateway.httpRoute.parentRefs[0].name=public"
    key = "HTTPRoute", "demo-slipway-gateway"
    spec = render(*on, "gateway.service.port=8000", "gateway.httpRoute.hostnames={ml.example.org}")[key]["spec"]
    assert spec == {"parentRefs": [{"name": "public"}], "hostnames": ["ml.example.org"], "rules": [
        {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
         "backendRefs": [{"name": "demo-slipway-gateway", "port": 8000}]}]}
    assert render(*on, "gateway.httpRoute.rules[0].name=mine")[key]["spec"]["rules"] == [{"name": "mine"}]
    assert key not in render()


# --- autoscalers ---


def policies(*given):
    return [{"type": kind, "value": value, "periodSeconds": seconds} for kind, value, seconds in given]


BEHAVIOR = {
    "gateway": (0, policies(("Percent", 100, 15), ("Pods", 2, 15)), 300, policies(("Pods", 1, 60))),
    "inferencer": (15, policies(("Percent", 100, 60), ("Pods", 2, 60)), 300, policies(("Percent", 25, 120))),
    "trainer": (0, policies(("Percent", 100, 15), ("Pods", 4, 15)), 600, policies(("Pods", 1, 300))),
}


@pytest.mark.parametrize("component", BEHAVIOR)
def test_autoscalers_are_quick_to_add_and_slow_to_take_away(component):
    up_window, up, down_window, down = BEHAVIOR[component]
    name = f"demo-slipway-{component}"
    behavior = render(files=("hpa",))["HorizontalPodAutoscaler", name]["spec"]["behavior"]
    assert behavior == {
        "scaleUp": {"stabilizationWindowSeconds": up_window, "selectPolicy": "Max", "policies": up},
        "scaleDown": {"stabilizationWindowSeconds": down_window, "policies": down}}
    keda = render(files=("keda",))["ScaledObject", name]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert keda["behavior"] == behavior
    own = render(f"{component}.autoscaling.behavior.scaleDown.selectPolicy=Disabled", files=("hpa",))
    assert own["HorizontalPodAutoscaler", name]["spec"]["behavior"] == {"scaleDown": {"selectPolicy": "Disabled"}}


# --- all objects ---


def test_dashboards_are_labelled_for_grafana():
    def found(*sets):
        return [thing["metadata"] for (kind, name), thing in render("metrics.dashboards.enabled=true", *sets).items()
                if kind == "ConfigMap" and "-dashboard-" in name]
    assert len(found()) == len(list((CHART / "files" / "dashboards").glob("*.json")))
    assert all((meta["labels"]["grafana_dashboard"], meta["namespace"]) == ("1", "ml") for meta in found())
    own = "metrics.dashboards.label=board", "metrics.dashboards.labelValue=ours", "metrics.dashboards.namespace=grafana"
    assert all((meta["labels"]["board"], meta["namespace"]) == ("ours", "grafana") for meta in found(*own))
    assert not any("grafana_dashboard" in meta["labels"] for meta in found(*own))


@pytest.mark.parametrize("major", HELMS)
def test_further_objects_are_templates(major):
    objects = render(files=("everything",), major=major)
    assert objects["ConfigMap", "ship-mine"]["data"] == {"a": "b"} and ("ConfigMap", "demo-text") in objects


def test_common_labels_are_on_objects_and_in_no_pod_and_no_selector():
    objects = render(files=("everything",))
    given = {"labels": ("team", "vision"), "annotations": ("owner", "vision@example.org")}
    for (kind, name), thing in objects.items():
        if name in ("ship-mine", "demo-text"):  # are somebody else's
            continue
        for place, (key, value) in given.items():
            assert thing["metadata"][place][key] == value, (kind, name)
        inner = yaml.safe_dump(thing["spec"] if "spec" in thing else thing.get("data"))
        assert "team: vision" not in inner and "owner: vision" not in inner, (kind, name)
