"""The cluster of these tests, and a release of the chart in it."""

import base64
import collections
import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import requests
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import cluster as support  # noqa: E402

TERMINAL = support.TERMINAL
CHART = ROOT / "charts" / "slipway"
VALUES = pathlib.Path(__file__).with_name("values.yaml")
COMPONENTS = ("gateway", "inferencer", "trainer", "registry")
CONFIG = pathlib.Path(os.environ["KUBECONFIG"])
KUBECTL = CONFIG.parents[1] / "bin" / "kubectl"
# Nodes 1 and 2 are for what is drained and lost (`run` says so to the cluster): nobody else's pods come there.
ON_DRILL_NODES = ("global.nodeSelector.drills=here,global.tolerations[0].key=drills,global.tolerations[0].operator=Exists",)

wait_for = functools.partial(support.wait_for, every=0.1)


def run(*words, check=True, text=None, seconds=300, **options):
    """What a command printed, or with check=False the process that ended."""
    done = subprocess.run([str(word) for word in words], input=text, capture_output=True, text=True, timeout=seconds, cwd=ROOT,
                          **options)
    if not check:
        return done
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    return done.stdout


def cluster(*arguments, **options):
    """`./dev cluster ...`"""
    return run(ROOT / "dev", "cluster", *arguments, **options)


def kubectl(*arguments, **options):
    return run(KUBECTL, *arguments, **options)


@functools.cache
def helm_program(major):
    return cluster("artifact", f"helm{major}").strip()


# --- reading from the API server: kubectl takes a tenth of a second of computing each time -------------------------------------

PATHS = {"pods": "api/v1", "services": "api/v1", "persistentvolumeclaims": "api/v1", "deployments": "apis/apps/v1",
         "statefulsets": "apis/apps/v1", "horizontalpodautoscalers": "apis/autoscaling/v2", "jobs": "apis/batch/v1",
         "cronjobs": "apis/batch/v1", "scaledobjects": "apis/keda.sh/v1alpha1"}
_threads = threading.local()
_files = tempfile.TemporaryDirectory()


@functools.cache
def _server():
    """Its address, and the files of the administrator's certificate, its key and the authority."""
    config = yaml.safe_load(CONFIG.read_text())
    of_server, of_user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    paths = []
    for name, text in (("crt", of_user["client-certificate-data"]), ("key", of_user["client-key-data"]),
                       ("ca", of_server["certificate-authority-data"])):
        paths.append(pathlib.Path(_files.name) / name)
        paths[-1].write_bytes(base64.b64decode(text))
    return of_server["server"], *map(str, paths)


def answer_of(path, **query):
    address, certificate, key, authority = _server()
    if not hasattr(_threads, "session"):
        _threads.session = requests.Session()
        _threads.session.trust_env = False
    return _threads.session.get(f"{address}/{path}", params=query, cert=(certificate, key), verify=authority, timeout=30)


def read(path, **query):
    answer = answer_of(path, **query)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


def path_of(kind, namespace, name=""):
    return f"{PATHS[kind]}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def there(namespace):
    return answer_of(f"api/v1/namespaces/{namespace}").status_code == 200


def node(name):
    return read(f"api/v1/nodes/{name}")


def tag_trainers(tag):
    """Gives the trainers' image another tag, on the node of those that drain none."""
    cluster("node", 3, "ctr", "-n", "k8s.io", "images", "tag", "--force", "docker.io/slipway/trainer:0.1.0",
            f"docker.io/slipway/trainer:{tag}")


def is_ready(thing):
    """A pod or a node."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in thing["status"].get("conditions", []))


class Release:
    """A release called `demo` in a namespace of its own."""

    def __init__(self, namespace, major=4, *sets):
        self.namespace = namespace
        self.major = major
        self.sets = list(sets)

    def kubectl(self, *arguments, **options):
        return kubectl("-n", self.namespace, *arguments, **options)

    def helm(self, command, *arguments, **options):
        return run(helm_program(self.major), command, "demo", *arguments, "-n", self.namespace, **options)

    def install(self, *sets):
        if not there(self.namespace):
            kubectl("create", "namespace", self.namespace)
            kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
            self.kubectl("create", "secret", "generic", "cluster-secret", "--from-literal=cluster-secret=s3cret-of-the-tests")
        self.helm("upgrade", CHART, "--install", "-f", VALUES, *with_sets(*self.sets, *sets), "--wait", "--timeout", "180s")

    def upgrade(self, *sets, chart=CHART, force=False, check=True):
        forced = ["--force-conflicts"] if force and self.major == 4 else []
        return self.helm("upgrade", chart, "--reset-then-reuse-values", *with_sets(*sets), *forced, "--wait", "--timeout", "180s",
                         check=check)

    def uninstall(self):
        self.helm("uninstall", "--wait", "--timeout", "180s")

    def remove(self):
        """All of it, without waiting for what takes time."""
        self.helm("uninstall", check=False)
        kubectl("delete", "namespace", self.namespace, "--wait=false")

    # --- its objects ------------------------------------------------------------------------------------------

    def list(self, kind, selector=""):
        return read(path_of(kind, self.namespace), labelSelector=selector)["items"]

    def get(self, kind, name):
        return read(path_of(kind, self.namespace, name))

    def object(self, kind, component):
        return self.get(kind, f"demo-slipway-{component}")

    def workload(self, component):
        return self.object("statefulsets" if component == "registry" else "deployments", component)

    def pods(self, component=None, **labels):
        """Those that are not about to leave."""
        labels |= {"app.kubernetes.io/component": component} if component else {}
        found = self.list("pods", ",".join(f"{key}={value}" for key, value in labels.items()))
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def ready_pods(self, component):
        return [p for p in self.pods(component) if is_ready(p)]

    def nodes_of(self, component):
        return {p["spec"]["nodeName"] for p in self.ready_pods(component)}

    def uids(self, *components):
        return {p["metadata"]["uid"] for c in components or COMPONENTS for p in self.pods(c)}

    def settled(self, component):
        """Whether as many pods are ready as wanted, and no other is there."""
        wanted = self.workload(component)
        status = wanted["status"]
        return (status.get("observedGeneration") == wanted["metadata"]["generation"]
                and status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == wanted["spec"]["replicas"]
                and len(self.pods(**wanted["spec"]["selector"]["matchLabels"])) == wanted["spec"]["replicas"])

    def wait_settled(self, *components, seconds=120):
        for component in components or COMPONENTS:
            wait_for(lambda c=component: self.settled(c), seconds, f"{component} as it should be")

    def wait_gone(self, component, seconds=60):
        wait_for(lambda: not self.pods(component), seconds, f"no {component}")

    def wait_ended(self, seconds=90):
        """Until no pod is there, not even one that is about to leave."""
        wanted = f"app.kubernetes.io/component in ({','.join(COMPONENTS)})"
        wait_for(lambda: not self.list("pods", wanted), seconds, "the end of all pods")

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

    def wait_api(self, seconds=60):
        """Until the registry answers through it."""
        wait_for(lambda: self.request("GET", "/api/v1/models").status_code == 200, seconds, "an answer of the registry")

    def predicts(self, model="helm-test"):
        return self.request("POST", f"/v1/models/{model}:predict", json={"instances": [[3]]}).status_code == 200

    def metrics(self, component):
        """The series of its pods, added up: {name and labels: value}."""
        found = collections.Counter()
        for pod in self.ready_pods(component):
            text = requests.get(f"http://{pod['status']['podIP']}:9090/metrics", timeout=30).text
            rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
            found.update({name: float(value) for name, _, value in rows})
        return found


def with_sets(*sets):
    return [word for one in sets for word in ("--set", one)]


class Leaving:
    """How the pods of a component end that leave within this context."""

    def __init__(self, release, component):
        self.path = (f"/{path_of('pods', release.namespace)}?watch=true&labelSelector="
                     f"app.kubernetes.io/instance=demo,app.kubernetes.io/component={component}")

    def __enter__(self):
        self.seen = tempfile.TemporaryFile()
        self.process = subprocess.Popen([KUBECTL, "get", "--raw", self.path], stdout=self.seen)
        wait_for(lambda: os.fstat(self.seen.fileno()).st_size, 30, "the watch's begin")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.seen.seek(0)
        events = [json.loads(line)["object"] for line in self.seen.read().split(b"\n")[:-1]]  # the last may have been cut short
        self.last = {pod["metadata"]["uid"]: pod for pod in events}
        # A deletion's time stamp is when the grace period is over, until the pod has ended: then it is set to that time.
        self.due = {pod["metadata"]["uid"]: pod["metadata"]["deletionTimestamp"] for pod in events
                    if pod["metadata"].get("deletionGracePeriodSeconds")}

    def assert_ended_in_time(self, *uids):
        """Each with exit code 0, before its grace period was over."""
        for uid in uids:
            pod = self.last[uid]
            for container in pod["status"]["containerStatuses"]:
                ended = container["state"].get("terminated")
                assert ended and ended["exitCode"] == 0, (pod["metadata"]["name"], container)
                assert ended["finishedAt"] < self.due[uid], (pod["metadata"]["name"], self.due[uid], ended)
