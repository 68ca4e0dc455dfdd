"""What each way of scaling and upgrading changes, and what it leaves alone: the table of docs/kubernetes.md."""

import copy
import re
import shutil

import pytest
import yaml

import live
from chart import CHART, HELMS, NEWEST, REPO, Refused, arguments_of, changes, helm, notes, pod_template, pods, render, text

SCALED = ("inferencer.autoscaling.enabled=true",)
DEPLOYMENT = ("Deployment", "demo-slipway-inferencer")
HPA = ("HorizontalPodAutoscaler", "demo-slipway-inferencer")
SCALED_OBJECT = ("ScaledObject", "demo-slipway-inferencer")

each_helm = pytest.mark.parametrize("major", HELMS)


def templates(objects):
    return {key: pod_template(thing) for key, thing in objects.items() if key[0] in ("Deployment", "StatefulSet")}


@each_helm
def test_more_replicas_change_one_number(major):
    before, after = render(major=major), render("inferencer.replicaCount=5", major=major)
    assert changes(before, after) == {DEPLOYMENT}
    assert after[DEPLOYMENT]["spec"].pop("replicas") == 5
    changed = dict(before[DEPLOYMENT], spec={k: v for k, v in before[DEPLOYMENT]["spec"].items() if k != "replicas"})
    assert changed == after[DEPLOYMENT]


@each_helm
def test_replicas_of_what_is_autoscaled_change_nothing_and_the_notes_say_so(major):
    assert not changes(render(*SCALED, major=major), render(*SCALED, "inferencer.replicaCount=5", major=major))
    assert "inferencer.replicaCount is ignored" in notes(*SCALED, "inferencer.replicaCount=5", major=major)


@each_helm
def test_no_replicas_stop_it_and_nothing_would_start_it_again(major):
    objects = render("inferencer.replicaCount=0", major=major)
    assert objects[DEPLOYMENT]["spec"]["replicas"] == 0
    assert not [key for key in objects if key[0] in ("HorizontalPodAutoscaler", "ScaledObject")]
    assert "inferencer is scaled to zero" in notes("inferencer.replicaCount=0", major=major)


@each_helm
def test_autoscaling_takes_the_replicas_out_of_the_manifest(major):
    before, after = render(major=major), render(*SCALED, major=major)
    assert changes(before, after) == {DEPLOYMENT, HPA}
    assert "replicas" in before[DEPLOYMENT]["spec"] and "replicas" not in after[DEPLOYMENT]["spec"]
    assert before[DEPLOYMENT]["spec"]["selector"] == after[DEPLOYMENT]["spec"]["selector"]
    assert templates(before) == templates(after)
    handed_over = notes(*SCALED, major=major)
    assert "scale deployment/demo-slipway-inferencer --replicas=N" in handed_over and "--force-conflicts" in handed_over


@each_helm
def test_a_new_maximum_changes_the_autoscaler_only(major):
    before = render(*SCALED, major=major)
    after = render(*SCALED, "inferencer.autoscaling.maxReplicas=20", major=major)
    assert changes(before, after) == {HPA}
    assert after[HPA]["spec"]["maxReplicas"] == 20


@each_helm
def test_keda_takes_over_under_the_same_name(major):
    before = render(*SCALED, major=major)
    after = render(*SCALED, "inferencer.autoscaling.engine=keda", major=major)
    gateway_policy = ("NetworkPolicy", "demo-slipway-gateway")  # KEDA may read the signal
    assert changes(before, after) == {HPA, SCALED_OBJECT, gateway_policy}
    assert HPA not in after
    assert after[SCALED_OBJECT]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["name"] == HPA[1]
    assert after[SCALED_OBJECT]["metadata"]["annotations"]["scaledobject.keda.sh/transfer-hpa-ownership"] == "true"


@each_helm
def test_a_new_image_of_trainers_restarts_trainers_only(major):
    before, after = render(major=major), render("trainer.image.tag=0.2.0", major=major)
    assert changes(before, after) == {("Deployment", "demo-slipway-trainer")}


@each_helm
@pytest.mark.parametrize("component", ["gateway", "inferencer", "trainer", "registry"])
def test_a_setting_restarts_its_component_only(component, major):
    before, after = render(major=major), render(f"{component}.config.log-level=debug", major=major)
    kind = "StatefulSet" if component == "registry" else "Deployment"
    name = f"demo-slipway-{component}"
    assert changes(before, after) == {(kind, name), ("ConfigMap", name)}
    old, new = (pod_template(objects[kind, name]) for objects in (before, after))
    assert old["metadata"]["annotations"] != new["metadata"]["annotations"] and old["spec"] == new["spec"]


@each_helm
def test_another_size_of_the_volume_is_refused_with_what_to_do_instead(major, tmp_path):
    objects = render()
    upgrade = ("template", "demo", CHART, "--namespace", "ml", "--dry-run=server", "--disable-openapi-validation",
               "--kube-version", NEWEST, *arguments_of())
    there = copy.deepcopy(objects["StatefulSet", "demo-slipway-registry"])
    there["metadata"]["annotations"] = {"meta.helm.sh/release-name": "demo", "meta.helm.sh/release-namespace": "ml"}
    with live.server(objects, there, tmp_path) as config:
        helm(major, *upgrade, "--kubeconfig", config)
        helm(major, *upgrade, "--kubeconfig", config, "--set", "registry.persistence.size=20480Mi")  # the same
        for size in ("40Gi", "10Gi"):
            with pytest.raises(Refused) as refused:
                helm(major, *upgrade, "--kubeconfig", config, "--set", f"registry.persistence.size={size}")
            said = " ".join(str(refused.value).split())
            assert f"is {size}, but the volume was made with 20Gi" in said
            assert "delete statefulset demo-slipway-registry --cascade=orphan" in said
            assert "patch pvc data-demo-slipway-registry-0" in said


@each_helm
@pytest.mark.parametrize("size", ["40Gi", "10Gi"])
def test_another_size_of_the_volume_touches_the_claim_only(size, major):
    """Without a cluster there is nothing to compare with; the API then refuses it."""
    before, after = render(major=major), render(f"registry.persistence.size={size}", major=major)
    assert changes(before, after) == {("StatefulSet", "demo-slipway-registry")}
    assert templates(before) == templates(after)


@each_helm
def test_a_new_chart_of_the_same_application_restarts_no_pod(major, tmp_path):
    newer = tmp_path / "slipway"
    shutil.copytree(CHART, newer)
    description = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump(description | {"version": "9.9.9"}))
    for files in [(), ("pools",), ("everything",)]:
        before, after = render(files=files, major=major), render(files=files, major=major, chart=newer)
        assert changes(before, after), "labels of objects name the chart"
        assert templates(before) == templates(after)
        for key, thing in before.items():
            if key[0] == "StatefulSet":
                assert thing["spec"]["volumeClaimTemplates"] == after[key]["spec"]["volumeClaimTemplates"]


def test_a_pool_comes_and_goes_without_touching_the_others():
    before = render("inferencer.pools.a.replicaCount=1")
    after = render("inferencer.pools.a.replicaCount=1", "inferencer.pools.b.slots=4")
    added = "demo-slipway-inferencer-b"
    assert changes(before, after) == {(kind, added) for kind in ("Deployment", "ConfigMap", "PodDisruptionBudget")}
    assert "instances = 4" in after["ConfigMap", added]["data"]["config.toml"]


def test_a_pool_may_switch_off_what_the_inferencers_have():
    objects = render(*SCALED, "inferencer.pools.a.autoscaling.enabled=false", "inferencer.pools.a.replicaCount=0",
                     "inferencer.pools.a.podDisruptionBudget.enabled=false")
    assert objects["Deployment", "demo-slipway-inferencer-a"]["spec"]["replicas"] == 0
    assert ("PodDisruptionBudget", "demo-slipway-inferencer-a") not in objects and HPA in objects


# --- drain ---


def grace(objects, component):
    kind = "StatefulSet" if component == "registry" else "Deployment"
    return pod_template(objects[kind, f"demo-slipway-{component}"])["spec"]["terminationGracePeriodSeconds"]


def config(objects, component):
    return objects["ConfigMap", f"demo-slipway-{component}"]["data"]["config.toml"].splitlines()


def test_pods_may_take_as_long_to_end_as_draining_may_take():
    objects = render()
    assert {c: grace(objects, c) for c in ("gateway", "inferencer", "trainer", "registry")} == {
        "gateway": 10 + 60 + 15, "inferencer": 30 + 15, "trainer": 120 + 15, "registry": 60 + 15}
    for component in ("gateway", "inferencer", "trainer", "registry"):
        tail = {"gateway": 10}.get(component, 0) + 15  # the time to go on accepting, and to end once drained
        assert f"drain-seconds = {grace(objects, component) - tail}" in config(objects, component)
    longer = render("gateway.shutdown.delaySeconds=5", "gateway.shutdown.drainSeconds=300")
    assert grace(longer, "gateway") == 5 + 300 + 15
    assert {"drain-grace-ms = 5000", "drain-seconds = 300"} <= set(config(longer, "gateway"))
    assert grace(render("trainer.terminationGracePeriodSeconds=600"), "trainer") == 600


def test_no_pod_leaves_before_its_successor_is_ready_unless_it_holds_a_card():
    objects = render(files=("pools",))
    strategy = {name: thing["spec"]["strategy"]["rollingUpdate"] for (kind, name), thing in objects.items()
                if kind == "Deployment"}
    assert strategy["demo-slipway-inferencer"] == {"maxUnavailable": 0, "maxSurge": "25%"}
    assert strategy["demo-slipway-inferencer-gpu"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_a_card_is_asked_for_beside_the_other_limits():
    gpu = pod_template(render(files=("pools",))["Deployment", "demo-slipway-inferencer-gpu"])["spec"]
    assert gpu["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/mig-1g.10gb": 1}
    assert gpu["runtimeClassName"] == "nvidia" and gpu["nodeSelector"] == {"accelerator": "a100"}


def test_large_numbers_stay_whole():
    lines = config({("ConfigMap", "demo-slipway-gateway"): render(files=("everything",))["ConfigMap", "ship-gateway"]}, "gateway")
    assert "max-upload-bytes = 137438953472" in lines and 'allowed-hosts = ["ml.example.org"]' in lines
    assert "nonfinite-inputs = true" in lines


def test_services_size_themselves_by_their_cgroup():
    """A pod that is resized in place would not see what a file says."""
    objects = render("gateway.resources.limits.memory=8Gi", "inferencer.resources.limits.cpu=4")
    assert not [line for line in config(objects, "gateway") if line.startswith("max-buffered-bytes")]
    assert "threads = 0" in config(objects, "inferencer")
    assert not [line for line in config(objects, "trainer") if line.startswith("threads")]
    assert "threads = 3" in config(render("inferencer.threads=3"), "inferencer")
    assert "threads = 2" in config(render("trainer.threads=2"), "trainer")


def test_spread_constraints_get_their_selector():
    spec = pod_template(render(files=("everything",))["Deployment", "ship-trainer"])["spec"]
    constraint = spec["topologySpreadConstraints"][0]
    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "trainer"
    assert constraint["matchLabelKeys"] == ["pod-template-hash"] and constraint["maxSkew"] == 1


def test_workers_find_every_gateway_ready_or_not():
    service = render()["Service", "demo-slipway-gateway-zmq"]["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
    assert service["ports"][0] == {"name": "tcp-zmq-workers", "port": 7070, "targetPort": "tcp-zmq-workers",
                                   "appProtocol": "tcp"}
    for component in ("inferencer", "trainer"):
        assert 'gateways = ["demo-slipway-gateway-zmq.ml.svc.cluster.local.:7070"]' in config(render(), component)


@pytest.mark.parametrize("component", ["inferencer", "trainer"])
def test_gateways_may_be_found_by_a_file_instead(component):
    """A setting's environment wins over the file that the chart writes, and only a flag over that."""
    watched = {"name": "SLIPWAY_GATEWAYS", "value": "@/etc/gateways/list"}
    objects = render(*(f"{component}.extraEnv[0].{key}={value}" for key, value in watched.items()),
                     f"{component}.extraVolumes[0].name=gateways", f"{component}.extraVolumes[0].configMap.name=gateways",
                     f"{component}.extraVolumeMounts[0].name=gateways",
                     f"{component}.extraVolumeMounts[0].mountPath=/etc/gateways")
    container = pod_template(objects["Deployment", f"demo-slipway-{component}"])["spec"]["containers"][0]
    assert watched in container["env"] and "gateways" not in flags(objects)[f"demo-slipway-{component}"]
    assert {"name": "gateways", "mountPath": "/etc/gateways"} in container["volumeMounts"]
    assert changes(render(), objects) == {("Deployment", f"demo-slipway-{component}")}


def dialled(objects):
    """Each host and port that a service is told to dial, with who is told."""
    for (kind, name), thing in objects.items():
        for setting, places in re.findall(r"^(gateways|registry|registry-events) = (.+)$", thing.get("data", {}).get(
                "config.toml", ""), re.M) if kind == "ConfigMap" else ():
            for place in re.findall(r'"([^"]+)"', places):
                yield name, setting, *place.rsplit(":", 1)


def test_services_dial_names_that_no_search_domain_is_tried_for():
    """Pods resolve with ndots:5, and the name of a Service has four dots: each look-up would be several."""
    objects = render("clusterDomain=example.org", files=("pools",))
    found = sorted(dialled(objects))
    assert {(setting, int(port)) for _, setting, _, port in found} == {("gateways", 7070), ("registry", 7071),
                                                                      ("registry-events", 7072)}
    assert {name for name, setting, _, _ in found if setting == "registry"} == {
        name for kind, name in objects if kind == "Deployment"}
    for _, _, host, port in found:
        service, _, rest = host.partition(".")
        assert rest == "ml.svc.example.org."
        assert int(port) in [entry["port"] for entry in objects["Service", service]["spec"]["ports"]]


def flags(objects):
    """Of every service: the settings it is given as flags, which win over its environment."""
    found = {}
    for thing, meta, spec in pods(objects):
        if thing["kind"] in ("Deployment", "StatefulSet"):
            pairs = [word.removeprefix("--").split("=", 1) for word in spec["containers"][0]["args"]]
            found[thing["metadata"]["name"]] = dict(pairs)
    return found


def test_services_listen_where_the_values_say():
    assert {given["listen-address"] for given in flags(render(files=("pools",))).values()} == {"0.0.0.0"}
    given = flags(render("listenAddress=::", files=("pools",)))
    assert len(given) == 6 and {one["listen-address"] for one in given.values()} == {"::"}


def test_the_api_may_have_two_families_and_each_pod_is_dialled_once():
    given = ("metrics.serviceMonitor.enabled=true", "listenAddress=::")
    assert "ipFamil" not in text(*given)
    objects = render(*given, "ipFamilyPolicy=PreferDualStack", "ipFamilies={IPv6,IPv4}")
    families = {name: (thing["spec"]["ipFamilyPolicy"], thing["spec"]["ipFamilies"])
                for (kind, name), thing in objects.items() if kind == "Service"}
    assert families.pop("demo-slipway-gateway") == ("PreferDualStack", ["IPv6", "IPv4"])
    assert len(families) == 3 and all(one == ("SingleStack", ["IPv6"]) for one in families.values())


def test_what_images_set_does_not_win_over_the_values():
    """The environment wins over the file: what an image has in it must be a flag here, or the same."""
    set_by_images = dict(re.findall(r"^ENV SLIPWAY_(\w+)=(\S+)", (REPO / "Dockerfile").read_text(), re.M))
    assert "LISTEN_ADDRESS" in set_by_images
    objects = render()
    for name, given in flags(objects).items():
        written = dict(line.split(" = ") for line in config(objects, name.removeprefix("demo-slipway-")))
        for variable, value in set_by_images.items():
            setting = variable.lower().replace("_", "-")
            assert setting in given or written.get(setting, f'"{value}"') == f'"{value}"', (name, setting)


def test_urls_name_hosts_as_clients_send_them():
    """A name with a dot at its end would be in the Host field, where proxies and meshes do not know it."""
    hosts = [re.findall(r"//([^/:\"]+)", text(*BACKUP, files=(name,))) for name in ("keda", "base")]
    hosts = {host for found in hosts for host in found if ".svc." in host}
    assert hosts == {f"demo-slipway-{service}.ml.svc.cluster.local" for service in ("gateway", "gateway-zmq", "registry")}


def test_two_releases_do_not_take_each_others_workers():
    assert 'release-id = "ml/demo-slipway"' in config(render(), "gateway")


# --- backups ---


BACKUP = ("registry.backup.enabled=true",)
RESTORE = ("registry.restore.enabled=true", "registry.restore.from=20260131T120000Z")
REGISTRY = ("StatefulSet", "demo-slipway-registry")
CRON_JOB = ("CronJob", "demo-slipway-registry-backup")
CLAIM = ("PersistentVolumeClaim", "demo-slipway-registry-backup")


def without_backup(spec):
    """The spec of a registry's pod as it is where there are no backups; also what of it was for them."""
    spec = copy.deepcopy(spec)
    taken = [spec["volumes"].pop(i) for i, volume in enumerate(spec["volumes"]) if volume["name"] == "backup"]
    mounts = spec["containers"][0]["volumeMounts"]
    taken += [mounts.pop(i) for i, mount in enumerate(mounts) if mount["name"] == "backup"]
    return spec, taken


@each_helm
def test_backups_come_to_a_release_that_is_there_and_restart_the_registry_only(major):
    before, after = render(major=major), render(*BACKUP, major=major)
    assert changes(before, after) == {CRON_JOB, CLAIM, REGISTRY, ("ConfigMap", REGISTRY[1]),
                                      ("NetworkPolicy", "demo-slipway-backup")}
    assert {k: v for k, v in before[REGISTRY]["spec"].items() if k != "template"} == \
        {k: v for k, v in after[REGISTRY]["spec"].items() if k != "template"}, "the API would refuse it"
    spec, taken = without_backup(pod_template(after[REGISTRY])["spec"])
    assert spec == pod_template(before[REGISTRY])["spec"]
    assert taken == [{"name": "backup", "persistentVolumeClaim": {"claimName": CLAIM[1]}},
                     {"name": "backup", "mountPath": "/var/backups/slipway"}]
    assert config(after, "registry") == sorted([*config(before, "registry"), 'backup-dir = "/var/backups/slipway"'])


@each_helm
def test_another_schedule_restarts_nothing(major):
    before = render(*BACKUP, major=major)
    after = render(*BACKUP, "registry.backup.schedule=@hourly", "registry.backup.retention=24", major=major)
    assert changes(before, after) == {CRON_JOB}


def test_a_backup_is_asked_for_over_the_api_and_mounts_nothing():
    objects = render(*BACKUP, "registry.backup.retention=3", "gateway.service.port=8000")
    spec = objects[CRON_JOB]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid" and spec["schedule"] == "17 3 * * *" and "timeZone" not in spec
    pod = pod_template(objects[CRON_JOB])["spec"]
    assert "volumes" not in pod and pod["restartPolicy"] == "Never"
    container = pod["containers"][0]
    assert container["args"] == ["backup", "create", "--keep", "3"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env["SLIPWAY_SERVER"] == "http://demo-slipway-gateway.ml.svc.cluster.local:8000"
    policy = objects["NetworkPolicy", "demo-slipway-backup"]["spec"]
    assert "ingress" not in policy and [rule["ports"][0]["port"] for rule in policy["egress"]] == [53, 8080]


def test_backups_outlive_their_release():
    claim = render(*BACKUP, "registry.backup.destination.annotations.helm\\.sh/resource-policy=none")[CLAIM]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert render("registry.backup.enabled=false", "registry.backup.retention=3") == render()


def test_backups_may_lie_in_somebody_elses_claim():
    objects = render(*BACKUP, "registry.backup.destination.existingClaim=far-away")
    assert CLAIM not in objects
    _, taken = without_backup(pod_template(objects[REGISTRY])["spec"])
    assert taken[0]["persistentVolumeClaim"] == {"claimName": "far-away"}


def test_the_longest_name_leaves_room_for_that_of_a_job():
    objects = render(*BACKUP, f"fullnameOverride={'x' * 40}")
    names = [name for kind, name in objects if kind == "CronJob"]
    assert len(names[0]) <= 52 and ("PersistentVolumeClaim", names[0]) in objects


@each_helm
def test_a_restore_restarts_the_registry_only(major):
    before, after = render(*BACKUP, major=major), render(*BACKUP, *RESTORE, major=major)
    assert changes(before, after) == {REGISTRY}
    other = render(*BACKUP, *RESTORE, "registry.restore.from=20260201T120000Z", "registry.restore.replace=true", major=major)
    assert changes(after, other) == {REGISTRY}
    old, new = (pod_template(objects[REGISTRY])["spec"] for objects in (before, after))
    first = new.pop("initContainers")[0]
    assert new == old
    service = new["containers"][0]
    assert {key: first[key] for key in ("image", "securityContext", "resources")} == \
        {key: service[key] for key in ("image", "securityContext", "resources")}
    assert first["volumeMounts"] == service["volumeMounts"] and "env" not in first, "it needs no secret"
    assert first["args"] == ["--config=/etc/slipway/config.toml", "restore", "--from=/var/backups/slipway",
                             "--backup=20260131T120000Z"]
    args = pod_template(other[REGISTRY])["spec"]["initContainers"][0]["args"]
    assert args[-2:] == ["--backup=20260201T120000Z", "--replace"]


def test_a_release_may_be_restored_and_make_no_backups():
    before, after = render(), render(*RESTORE)
    assert changes(before, after) == {REGISTRY, CLAIM}
    spec = pod_template(after[REGISTRY])["spec"]
    assert "backup" in [mount["name"] for mount in spec["initContainers"][0]["volumeMounts"]]
    assert "backup" not in [mount["name"] for mount in spec["containers"][0]["volumeMounts"]]


@each_helm
def test_the_notes_tell_of_backups(major):
    assert "backup" not in notes(major=major).lower()
    assert "create job --from=cronjob/demo-slipway-registry-backup" in notes(*BACKUP, major=major)
    assert "if that is empty" in notes(*RESTORE, major=major)
    assert "what came after it is lost" in notes(*RESTORE, "registry.restore.replace=true", major=major)


# --- signals ---


def test_trainers_are_scaled_by_the_registrys_jobs_from_zero():
    objects = render(files=("keda",))
    spec = objects["ScaledObject", "demo-slipway-trainer"]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 8)
    assert spec["triggers"] == [{"type": "metrics-api", "metricType": "AverageValue", "metadata": {
        "url": "http://demo-slipway-registry.ml.svc.cluster.local:9090/autoscaling", "format": "json",
        "valueLocation": "jobs.outstanding", "targetValue": "1"}}]
    assert "replicas" not in objects["Deployment", "demo-slipway-trainer"]["spec"]


def test_inferencers_are_scaled_by_all_gateways_predictions_together():
    metadata = render(files=("keda",))["ScaledObject", "demo-slipway-inferencer"]["spec"]["triggers"][0]["metadata"]
    assert metadata["aggregateFromKubeServiceEndpoints"] == "true" and metadata["aggregationType"] == "sum"
    assert metadata["valueLocation"] == "predictions.outstanding" and metadata["targetValue"] == "8"  # 4 a slot


def test_an_hpa_needs_nothing_but_the_metrics_server_unless_told_so():
    metrics = render(*SCALED)[HPA]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["ContainerResource"]
    metrics = render(files=("hpa",))[HPA]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["ContainerResource", "Object"]
    assert metrics[1]["object"]["metric"]["name"] == "slipway_gateway_outstanding_predictions"


# --- who reaches whom ---


def admits(objects, component, port):
    """The components that a component's policy admits to a port; None: everyone."""
    peers = set()
    for rule in objects["NetworkPolicy", f"demo-slipway-{component}"]["spec"].get("ingress", []):
        if port in [entry["port"] for entry in rule["ports"]]:
            if "from" not in rule:
                return None
            peers |= {peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component", "namespace")
                      for peer in rule["from"]}
    return peers


def test_only_services_of_the_release_reach_the_message_ports():
    objects = render()
    assert admits(objects, "gateway", 7070) == {"inferencer", "trainer"}
    assert admits(objects, "registry", 7071) == admits(objects, "registry", 7072) == {"gateway", "inferencer", "trainer"}
    assert admits(objects, "gateway", 8080) == {"namespace"}
    assert admits(render("networkPolicy.api.allowExternal=true"), "gateway", 8080) is None
    for component in ("gateway", "inferencer", "trainer", "registry"):
        assert admits(objects, component, 9090) == set(), "nobody reads metrics yet"
        assert admits(render("metrics.podMonitor.enabled=true"), component, 9090) is None
    keda = render(files=("keda",))
    assert admits(keda, "registry", 9090) is None and admits(keda, "trainer", 9090) == set()


def test_every_pod_falls_under_the_default_deny():
    objects = render(files=("pools",))
    selector = objects["NetworkPolicy", "demo-slipway-default-deny"]["spec"]["podSelector"]["matchLabels"]
    for _, meta, _ in pods(objects):
        assert selector.items() <= meta["labels"].items()


def test_a_secret_that_the_chart_keeps_restarts_everybody_when_it_changes():
    one, other = (render(f"auth.clusterSecret={c * 32}", "auth.existingSecret=") for c in "ab")
    assert all(one[key] != other[key] for key in one if key[0] in ("Deployment", "StatefulSet"))
    assert render(kube=NEWEST) == render(kube=NEWEST), "nothing is random"
