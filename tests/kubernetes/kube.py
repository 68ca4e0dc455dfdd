"""The cluster of these tests, and a release of the chart in it."""

import contextlib
import json
import pathlib
import subprocess
import sys
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from cluster import TERMINAL, wait_for  # noqa: E402

CHART = ROOT / "charts" / "slipway"
VALUES = pathlib.Path(__file__).with_name("values.yaml")
COMPONENTS = ("gateway", "inferencer", "trainer", "registry")


def cluster(*arguments, check=True, text=None, seconds=300):
    """`./dev cluster ...`: what it printed, or with check=False the process that ended."""
    done = subprocess.run([ROOT / "dev", "cluster", *map(str, arguments)], input=text, capture_output=True, text=True,
                          timeout=seconds)
    if not check:
        return done
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
    return done.stdout


def kubectl(*arguments, **options):
    return cluster("kubectl", *arguments, **options)


def get(*arguments):
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


class Release:
    """A release called `demo` in a namespace of its own."""

    def __init__(self, namespace, major=4, *sets):
        self.namespace = namespace
        self.helm_command = "helm" if major == 4 else "helm3"
        if kubectl("get", "namespace", namespace, check=False).returncode != 0:
            kubectl("create", "namespace", namespace)
            kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
            self.kubectl("create", "secret", "generic", "cluster-secret", "--from-literal=cluster-secret=s3cret-of-the-tests")
        self.sets = list(sets)

    def kubectl(self, *arguments, **options):
        return kubectl("-n", self.namespace, *arguments, **options)

    def get(self, *arguments):
        return get("-n", self.namespace, *arguments)

    def helm(self, command, *arguments, **options):
        return cluster(self.helm_command, command, "demo", *arguments, "-n", self.namespace, **options)

    def install(self, *sets):
        self.helm("upgrade", CHART, "--install", "-f", VALUES, *with_sets(*self.sets, *sets), "--wait", "--timeout", "180s")

    def upgrade(self, *sets, chart=CHART, force=False, check=True):
        forced = ["--force-conflicts"] if force and self.helm_command == "helm" else []
        return self.helm("upgrade", chart, "--reset-then-reuse-values", *with_sets(*sets), *forced, "--wait", "--timeout", "180s",
                         check=check)

    def uninstall(self):
        self.helm("uninstall", "--wait", "--timeout", "180s")

    def object(self, kind, component):
        return self.get(kind, f"demo-slipway-{component}")

    def pods(self, component=None):
        wanted = "app.kubernetes.io/instance=demo" + (f",app.kubernetes.io/component={component}" if component else "")
        return [p for p in self.get("pods", "-l", wanted)["items"] if "deletionTimestamp" not in p["metadata"]]

    def ready_pods(self, component):
        return [p for p in self.pods(component) if is_ready(p)]

    def uids(self, *components):
        return {p["metadata"]["uid"] for c in components or COMPONENTS for p in self.pods(c)}

    def settled(self, component):
        """Whether as many pods are ready as wanted, and no other is there."""
        kind = "statefulset" if component == "registry" else "deployment"
        wanted = self.object(kind, component)
        status = wanted["status"]
        return (status.get("observedGeneration") == wanted["metadata"]["generation"]
                and status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == wanted["spec"]["replicas"]
                and len(self.pods(component)) == wanted["spec"]["replicas"])

    def wait_settled(self, *components, seconds=120):
        for component in components or COMPONENTS:
            wait_for(lambda c=component: self.settled(c), seconds, f"{component} as it should be")

    # --- the API, of a ready gateway ---------------------------------------------------------------------

    def url(self):
        pods = wait_for(lambda: self.ready_pods("gateway"), 60, "a ready gateway")
        return f"http://{pods[0]['status']['podIP']}:8080"

    def request(self, method, path, **options):
        """As requests.request; a gateway that goes meanwhile is left for another."""
        for _ in range(20):
            with contextlib.suppress(requests.ConnectionError):
                return requests.request(method, self.url() + path, timeout=30, **options)
            time.sleep(0.2)
        raise AssertionError(f"no gateway answers {method} {path}")

    def api(self, path):
        answer = self.request("GET", "/api/v1" + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, document):
        answer = self.request("POST", "/api/v1/jobs", json=document)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()["id"]

    def wait_job(self, job, seconds=180):
        def ended():
            found = self.api(f"/jobs/{job}")
            return found if found["state"] in TERMINAL else None
        found = wait_for(ended, seconds, f"the end of {job}")
        assert found["state"] == "SUCCEEDED", found
        return found


def long_job(model, epochs=15_000):
    """A job of two minutes or more on one core."""
    document = json.loads((CHART / "files" / "test" / "job.json").read_text())
    layers = document["model"]["config"]["layers"]
    wide = [{"class_name": "Dense", "config": {"name": f"wide{i}", "units": 1024, "activation": "relu"}} for i in range(2)]
    layers[1:1] = wide
    document["fit"]["epochs"] = epochs
    document["compile"]["optimizer"]["config"]["learning_rate"] = 1e-6
    document["publish"]["model"] = model
    document["checkpoint_seconds"] = 1
    return document


def probe(*arguments):
    """A container of the probe (deploy/cluster/probe), as the Pod Security standard `restricted` wants it."""
    return {"name": "probe", "image": "localhost/probe:1", "imagePullPolicy": "Never", "args": list(arguments),
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
                                "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}}


def with_sets(*sets):
    return [word for one in sets for word in ("--set", one)]


class Load:
    """Predictions at a steady rate from a pod on node1, half of them over connections that stay. As a context; what came of
    it is in `result` afterwards."""

    def __init__(self, release, rate=200, rows=1, seconds=600, timeout="10s", keep_alive=True, name="load"):
        self.release = release
        self.name = name
        body = json.dumps({"instances": [[3.0]] * rows})
        url = "http://demo-slipway-gateway/v1/models/helm-test:predict"
        self.pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": "node1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
                "tolerations": [{"operator": "Exists"}],
                "containers": [probe("load", f"-rate={rate}", f"-timeout={timeout}", f"-keep-alive={str(keep_alive).lower()}",
                                     f"-body={body}", url, str(seconds))]}}

    def phase(self):
        return self.release.get("pod", self.name)["status"]["phase"]

    def __enter__(self):
        self.release.kubectl("apply", "-f", "-", text=json.dumps(self.pod))
        wait_for(lambda: "begun" in self.release.kubectl("logs", self.name, check=False).stdout, 90, "the load's begin")
        time.sleep(2)  # of load before whatever is to be seen
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                time.sleep(2)  # and after it
                self.release.kubectl("exec", self.name, "--", "/probe", "stop")
                wait_for(lambda: self.phase() in ("Succeeded", "Failed"), 60, "the load's end")
                self.result = json.loads(self.release.kubectl("logs", self.name).splitlines()[-1])
        finally:
            self.release.kubectl("delete", "pod", self.name, "--grace-period=0", "--force", check=False)

    def assert_nothing_failed(self):
        seconds = self.result["seconds"]
        when = [(s["at"] - seconds[0]["at"], s["bad"]) for s in seconds if s["bad"]]
        assert self.result["bad"] == 0, f"{self.result['errors']} in (second, how many) {when} of {len(seconds)} s"
        assert self.result["good"] > 100, self.result
