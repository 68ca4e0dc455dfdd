"""Everything that the chart renders, over a matrix of values, both majors of Helm and two releases of Kubernetes: it lints,
it has no field that the API does not know, it fits the Pod Security standard `restricted`, and its parts fit each other."""

import json
import math
import subprocess

import pytest

from chart import CHART, HELMS, KUBERNETES, NEWEST, TOOLS, VALUES, arguments_of, helm, pods, render
from strict import errors

FILES = sorted(path.stem for path in VALUES.glob("*.yaml"))
SOMEBODY_ELSES = {"data", "backups"}  # claims that kept.yaml names
OPENSHIFT = {"apis": ("security.openshift.io/v1",)}
CASES = {name: {"files": (name,)} for name in FILES} | {"openshift": {"files": ("pools",), **OPENSHIFT}}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("kube", KUBERNETES)
@pytest.mark.parametrize("name", FILES)
def test_it_lints(name, major, kube):
    helm(major, "lint", "--strict", "--kube-version", kube, CHART, *arguments_of(files=(name,)))


def test_defaults_lint_too():
    for major in HELMS:
        helm(major, "lint", "--strict", CHART)


def test_both_helms_render_the_same(case):
    for kube in KUBERNETES:
        assert list(render(major=4, kube=kube, **case).items()) == list(render(major=3, kube=kube, **case).items())


def test_an_older_kubernetes_is_refused():
    done = helm(4, "template", "demo", CHART, "--kube-version", "1.29.9", *arguments_of(), check=False)
    assert done.returncode != 0 and "1.30" in done.stderr


@pytest.mark.parametrize("kube", KUBERNETES)
def test_no_field_is_unknown_or_of_another_type(case, kube):
    assert [error for thing in render(kube=kube, **case).values() for error in errors(thing, kube)] == []


def test_the_check_of_fields_finds_what_it_should():
    objects = render(files=("keda",))
    deployment = json.loads(json.dumps(objects["Deployment", "demo-slipway-trainer"]))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    container["args"] = [1]
    del deployment["spec"]["selector"]
    found = " ".join(errors(deployment, NEWEST))
    assert "readynessProbe" in found and "1 is not of type 'string'" in found and "'selector' is a required" in found
    scaled = json.loads(json.dumps(objects["ScaledObject", "demo-slipway-trainer"]))
    scaled["spec"]["cooldwonPeriod"] = 3
    assert "cooldwonPeriod" in " ".join(errors(scaled, NEWEST))


def go_check(objects):
    done = subprocess.run([TOOLS / "manifests"], input=json.dumps(list(objects)), text=True, capture_output=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_pods_are_restricted_and_monitors_have_known_fields_only(case):
    assert go_check(render(**case).values()) == []


def test_the_check_of_pods_finds_what_it_should():
    objects = json.loads(json.dumps(list(render(files=("monitored",)).values())))
    for thing in objects:
        if thing["kind"] == "StatefulSet":
            thing["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"] = {}
            thing["spec"]["template"]["spec"]["hostNetwork"] = True
        if thing["kind"] == "PodMonitor":
            thing["spec"]["podMetricsEndpoints"][0]["intervall"] = "3s"
    found = "\n".join(go_check(objects))
    assert "unrestricted capabilities" in found and "host namespaces" in found and "intervall" in found


def test_openshift_gives_the_ids():
    for _, _, spec in pods(render(**CASES["openshift"])):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys()
        assert spec["securityContext"]["runAsNonRoot"]


# --- what the API would take, and yet be wrong ---


def selected(selector, labels):
    return selector.items() <= labels.items()


def test_every_reference_has_its_object(case):
    objects = render(**case)
    labels = {name: meta["labels"] for (_, name), (_, meta, _) in
              ((key, pod) for key in objects for pod in pods({key: objects[key]}))}
    for (kind, name), thing in objects.items():
        spec = thing.get("spec", {})
        if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            assert ("Deployment", spec["scaleTargetRef"]["name"]) in objects, name
            for metric in spec.get("metrics", []):
                if metric["type"] == "Object":
                    assert ("Service", metric["object"]["describedObject"]["name"]) in objects
                if metric["type"] == "ContainerResource":
                    target = objects["Deployment", spec["scaleTargetRef"]["name"]]["spec"]["template"]["spec"]
                    container = next(c for c in target["containers"]
                                     if c["name"] == metric["containerResource"]["container"])
                    assert "cpu" in container["resources"]["requests"], name
        if kind == "Service":
            assert [pod for pod in labels if selected(spec["selector"], labels[pod])], name
        if kind in ("NetworkPolicy", "PodDisruptionBudget"):
            selector = spec["podSelector" if kind == "NetworkPolicy" else "selector"]["matchLabels"]
            assert [pod for pod in labels if selected(selector, labels[pod])], name
        if kind in ("Deployment", "StatefulSet"):
            assert selected(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"])
    for thing, _, spec in pods(objects):
        account = spec["serviceAccountName"]
        assert account == "default" or ("ServiceAccount", account) in objects
        volumes = spec.get("volumes", [])
        for volume in volumes:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in objects
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim in SOMEBODY_ELSES or ("PersistentVolumeClaim", claim) in objects
        mounted = {mount["name"] for c in spec["containers"] + spec.get("initContainers", [])
                   for mount in c.get("volumeMounts", [])}
        claims = {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])}
        assert mounted == {volume["name"] for volume in volumes} | claims
        for container in spec["containers"] + spec.get("initContainers", []):
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["name"] != "cluster":
                    assert reference["key"] in objects["Secret", reference["name"]]["data"]


def test_monitors_find_what_they_scrape(case):
    objects = render(**case)
    for (kind, name), thing in objects.items():
        if kind not in ("ServiceMonitor", "PodMonitor"):
            continue
        spec = thing["spec"]
        if kind == "ServiceMonitor":
            found = [(one["metadata"]["labels"], one["spec"]["ports"]) for (k, _), one in objects.items() if k == "Service"]
        else:
            found = [(meta["labels"], [port for c in pod["containers"] for port in c.get("ports", [])])
                     for _, meta, pod in pods(objects)]
        for expression in spec["selector"].get("matchExpressions", []):
            assert expression["operator"] == "In"
            found = [(labels, ports) for labels, ports in found if labels.get(expression["key"]) in expression["values"]]
        found = [ports for labels, ports in found if selected(spec["selector"]["matchLabels"], labels)]
        assert found, name
        for endpoint in spec.get("endpoints", []) + spec.get("podMetricsEndpoints", []):
            for ports in found:
                assert endpoint["port"] in {port["name"] for port in ports}, (name, ports)


def test_what_comes_from_outside_finds_a_service_and_its_port(case):
    objects = render(**case)
    for (kind, name), thing in objects.items():
        backends = []
        if kind == "Ingress":
            backends = [(path["backend"]["service"]["name"], path["backend"]["service"]["port"])
                        for rule in thing["spec"]["rules"] for path in rule["http"]["paths"]]
        if kind == "HTTPRoute":
            backends = [(backend["name"], {"number": backend["port"]})
                        for rule in thing["spec"]["rules"] for backend in rule["backendRefs"]]
        assert bool(backends) == (kind in ("Ingress", "HTTPRoute")), name
        for service, port in backends:
            ports = objects["Service", service]["spec"]["ports"]
            assert port in [{"name": entry["name"]} for entry in ports] + [{"number": entry["port"]} for entry in ports], name


def test_ended_jobs_go_by_themselves(case):
    for (kind, name), thing in render(**case).items():
        if kind in ("CronJob", "Job"):
            spec = thing["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else thing["spec"]
            assert spec["ttlSecondsAfterFinished"] >= 0 and spec["activeDeadlineSeconds"] > 0, name


def replicas(objects, workload):
    """The fewest and the most pods of a workload."""
    for thing in objects.values():
        spec = thing.get("spec", {})
        if spec.get("scaleTargetRef", {}).get("name") == workload["metadata"]["name"]:
            return [spec.get(f"{which}Replicas", spec.get(f"{which}ReplicaCount")) for which in ("min", "max")]
    return [workload["spec"]["replicas"]] * 2


def keeps_apart(template):
    """Whether the pods of a template avoid each other."""
    spec, labels = template["spec"], template["metadata"]["labels"]
    rules = spec.get("affinity", {}).get("podAntiAffinity", {})
    terms = [term["podAffinityTerm"] for term in rules.get("preferredDuringSchedulingIgnoredDuringExecution", [])]
    terms += rules.get("requiredDuringSchedulingIgnoredDuringExecution", []) + spec.get("topologySpreadConstraints", [])
    return any(selected(term["labelSelector"]["matchLabels"], labels) for term in terms)


def test_one_node_never_has_all_pods_of_a_component(case):
    objects = render(**case)
    for (kind, name), thing in objects.items():
        if kind in ("Deployment", "StatefulSet") and replicas(objects, thing)[1] > 1:
            assert keeps_apart(thing["spec"]["template"]), name


def test_no_budget_blocks_every_eviction(case):
    objects = render(**case)
    workloads = [thing for (kind, _), thing in objects.items() if kind in ("Deployment", "StatefulSet")]
    for (kind, name), thing in objects.items():
        if kind == "PodDisruptionBudget":
            spec = thing["spec"]
            fewest = sum(replicas(objects, workload)[0] for workload in workloads
                         if selected(spec["selector"]["matchLabels"], workload["spec"]["template"]["metadata"]["labels"]))
            stay, leave = spec.get("minAvailable"), spec.get("maxUnavailable")
            if isinstance(stay, str):
                stay = math.ceil(int(stay.removesuffix("%")) * fewest / 100)
            assert (stay is None) != (leave is None), name
            assert leave not in (0, "0%") and (stay is None or fewest == 0 or stay < fewest), name


def test_ports_are_there_by_name(case):
    objects = render(**case)
    for (kind, name), thing in objects.items():
        if kind == "Service":
            for _, meta, spec in pods(objects):
                if not selected(thing["spec"]["selector"], meta["labels"]) or meta["labels"].get(
                        "app.kubernetes.io/component") in ("test", "backup"):
                    continue
                ports = {port["name"] for c in spec["containers"] for port in c.get("ports", [])}
                assert {port["targetPort"] for port in thing["spec"]["ports"]} <= ports, name
    for _, _, spec in pods(objects):
        for container in spec["containers"]:
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports


def test_pods_are_good_citizens(case):
    for thing, meta, spec in pods(render(**case)):
        assert not spec["automountServiceAccountToken"]
        assert spec["enableServiceLinks"] is False, "SLIPWAY_*_PORT of a Service would be taken for a setting"
        for container in spec["containers"] + spec.get("initContainers", []):
            assert not container["image"].endswith(":latest") and (":" in container["image"] or "@" in container["image"])
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys() and "memory" in resources["limits"], container["name"]
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names))
            assert not any("SECRET" in v["name"] and "value" in v for v in container.get("env", []))
        labels = {key for key in meta["labels"] if key.startswith(("app.kubernetes.io", "helm.sh", "slipway"))}
        if thing["kind"] in ("Deployment", "StatefulSet"):
            assert labels == set(thing["spec"]["selector"]["matchLabels"]), "a new chart would restart every pod"


def test_every_selector_names_its_component(case):
    objects = render(**case)
    for (kind, name), thing in objects.items():
        if kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selector = thing["spec"]["selector"]["matchLabels"]
            assert "app.kubernetes.io/component" in selector, name
            if selector["app.kubernetes.io/component"] == "inferencer":
                assert "slipway/pool" in selector, name
    workloads = [thing for (kind, _), thing in objects.items() if kind in ("Deployment", "StatefulSet")]
    for one in workloads:
        for other in workloads:
            if one is not other:
                assert not selected(one["spec"]["selector"]["matchLabels"], other["spec"]["template"]["metadata"]["labels"])
