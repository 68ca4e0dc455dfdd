"""Predictions at a steady rate while something happens, and what may be said of them afterwards."""

import contextlib
import json
import statistics
import time

from kube import answer_of, path_of, wait_for


def probe(*arguments, requests=None):
    """A container of the probe (deploy/cluster/probe), as the Pod Security standard `restricted` wants it."""
    return {"name": "probe", "image": "localhost/probe:1", "imagePullPolicy": "Never", "args": list(arguments),
            "resources": {"requests": requests or {}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
                                "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}}


class Load:
    """Predictions from a pod of a node, half of them over connections that stay, within this context."""

    def __init__(self, release, rate=200, timeout="10s", keep_alive=True, node="node1", most_seconds=1200):
        self.release = release
        self.rate = rate
        body = json.dumps({"instances": [[3.0]]})
        url = "http://demo-slipway-gateway/v1/models/helm-test:predict"
        self.pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"},
            "spec": {
                "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
                "tolerations": [{"operator": "Exists"}],
                "containers": [probe("load", f"-rate={rate}", f"-timeout={timeout}", f"-keep-alive={str(keep_alive).lower()}",
                                     f"-body={body}", url, str(most_seconds), requests={"cpu": "200m"})]}}

    def __enter__(self):
        self.release.kubectl("apply", "-f", "-", text=json.dumps(self.pod))
        wait_for(self.seconds, 90, "the load's begin")
        return self

    def __exit__(self, *_):
        self.release.kubectl("delete", "pod", "load", "--grace-period=0", "--force", check=False)

    def seconds(self, most=1000):
        """What became of the requests that began in each of the last seconds, once all of them have ended."""
        answer = answer_of(path_of("pods", self.release.namespace, "load") + "/log", tailLines=most)
        if answer.status_code != 200:
            return []
        lines = [json.loads(line) for line in answer.text.splitlines() if line.startswith("{")]
        assert all("at" in line for line in lines), "the load has ended by itself"
        return lines

    def wait_second(self, at):
        """Until all that was asked in this second has ended."""
        wait_for(lambda: any(s["at"] >= at for s in self.seconds(1)), 60 + max(0, at - time.time()), "the seconds of load after it")

    @contextlib.contextmanager
    def watched(self):
        """What happens within this context is seen by the load."""
        seen = Seen(self)
        yield seen
        end = int(time.time())
        self.wait_second(end)
        seen.seconds = [s for s in self.seconds() if seen.begin <= s["at"] <= end]


class Seen:
    BEFORE = 3    # seconds of load before whatever is to be seen
    WITHIN = 5    # seconds after which all is as it was
    AFTER = 4     # seconds in which that is looked at

    def __init__(self, load):
        self.load = load
        self.reactions = []
        self.begin = int(time.time()) - 2
        self.go_on(max(0, self.BEFORE - 2))
        self.before = statistics.median(s["p99"] for s in self.load.seconds() if s["at"] >= self.begin)

    def go_on(self, seconds):
        """Until there was load for so many seconds more."""
        self.load.wait_second(int(time.time()) + seconds)

    def reacted(self):
        """Says that the cluster has done by now what it does, and goes on for long enough to see what comes of it."""
        self.reactions.append(time.time())
        self.go_on(self.WITHIN + self.AFTER)

    def bad(self):
        return sum(s["bad"] for s in self.seconds)

    def errors(self, since=0):
        """What was said, and how often, in which seconds."""
        return {s["at"] - self.begin: s["errors"] for s in self.seconds if s["bad"] and s["at"] >= since}

    def assert_nothing_failed(self):
        assert self.bad() == 0, self.errors()
        assert sum(s["good"] for s in self.seconds) > 100, self.seconds

    def assert_recovered(self):
        """Some seconds after each reaction of the cluster, requests take as long as before; one second may be an exception."""
        limit = max(3 * self.before, 100)
        assert self.reactions
        for at in self.reactions:
            later = [s for s in self.seconds if at + self.WITHIN <= s["at"] <= at + self.WITHIN + self.AFTER]
            slow = [(s["at"] - int(at), s["p99"]) for s in later if s["p99"] >= limit]
            assert len(later) >= self.AFTER - 1 and len(slow) <= 1, (
                f"p99 before: {self.before} ms, (seconds after, ms): {slow} of {len(later)}")
