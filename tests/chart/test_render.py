"""Everything that the chart renders, over a matrix of values, both majors of Helm and two releases of Kubernetes: it lints,
it has no field that the API does not know, it fits the Pod Security standard `restricted`, and its parts fit each other."""

import json
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
