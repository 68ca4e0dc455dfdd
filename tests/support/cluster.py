"""A whole Slipway on this machine for tests: `slipway up` in a folder of its own, every port a free one."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
import requests

BIN = pathlib.Path(os.environ["SLIPWAY_BIN"])
ROOT = pathlib.Path(__file__).resolve().parents[2]
FASHION = pathlib.Path(os.environ.get("SLIPWAY_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
SANITIZER = os.environ.get("SLIPWAY_SANITIZER")  # the build under test has one: slow, large, and it tells what it found
measures_memory = pytest.mark.skipif(SANITIZER is not None, reason="a sanitizer's shadow memory counts too")
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


def wait_for(condition, seconds=60.0, what="the condition", every=0.02):
    """Asks `condition` again and again until it gives something true; returns that. Fails after `seconds`."""
    end = time.monotonic() + seconds * (5 if SANITIZER else 1)
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come about in {seconds} s"
        time.sleep(every)


def send_signal(pid, number):
    """After SIGSTOP, all of the process stands still: where every core is busy its threads run for a while longer."""
    os.kill(pid, number)
    if number == signal.SIGSTOP:
        wait_for(lambda: set(thread_states(pid)) <= {"T"}, 30, "the process being stopped")


def thread_states(pid):
    for file in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            yield file.read_text().rpartition(")")[2].split()[0]


class Api:
    """A gateway's HTTP API; `url` says where it is, `http` is the session."""

    def request(self, method, path, timeout=60, **kwargs):
        return self.http.request(method, self.url + path, timeout=timeout, **kwargs)

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, path, **kwargs):
        return self.request("POST", path, **kwargs)

    def put_dataset(self, name, files):
        """`files`: paths, or {file name: bytes}."""
        if not isinstance(files, dict):
            files = {pathlib.Path(f).name: pathlib.Path(f).read_bytes() for f in files}
        parts = [("files", (file, data, "application/octet-stream")) for file, data in files.items()]
        return self.request("PUT", f"/api/v1/datasets/{name}", files=parts, timeout=600)

    def submit(self, document):
        answer = self.post("/api/v1/jobs", json=document)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, job):
        return self.get(f"/api/v1/jobs/{job}").json()

    def wait_job(self, job, seconds=600, states=TERMINAL):
        def look():
            with contextlib.suppress(requests.RequestException, TypeError, ValueError):
                answer = self.get(f"/api/v1/jobs/{job}")
                if answer.status_code == 200 and answer.json()["state"] in states:
                    return answer.json()
            return None
        return wait_for(look, seconds, f"{job} reaching one of {states}")

    def events(self, job, after=0, timeout=120):
        """The job's events as they come: (id, kind, document), until the stream ends."""
        with self.get(f"/api/v1/jobs/{job}/events", stream=True, timeout=timeout,
                      headers={"Last-Event-ID": str(after), "Accept": "text/event-stream"}) as answer:
            assert answer.status_code == 200, answer.text
            assert answer.headers["Content-Type"].startswith("text/event-stream"), answer.headers
            fields = {}
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                    fields = {}
                else:
                    fields = {}

    def train(self, document, seconds=600):
        job = self.wait_job(self.submit(document), seconds)
        assert job["state"] == "SUCCEEDED", job
        return job

    def predict(self, model, instances, **kwargs):
        return self.post(f"/v1/models/{model}:predict", json={"instances": instances}, **kwargs)


class Cluster(Api):
    def __init__(self, *arguments, env=None, keep=None):
        self.state = pathlib.Path(keep or tempfile.mkdtemp(prefix="slipway-test-"))
        self.own_state = keep is None
        self.roles = {"registry", "gateway"} | {r for r in ("trainer", "inferencer") if f"--{r}s=0" not in arguments}
        self.log = open(self.state / "up.log", "ab")
        self.http = requests.Session()
        self.http.trust_env = False
        self.process = subprocess.Popen(
            [BIN / "slipway", "up", "--state-dir", self.state, "--http-port", "0", *arguments],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        try:
            wait_for(lambda: self.alive() and self.is_ready(), 60, "the cluster being ready")
        except BaseException:
            print(self.logs())
            self.stop()
            raise

    def alive(self):
        assert self.process.poll() is None, f"slipway up ended with {self.process.returncode}:\n{self.logs()}"
        return True

    def up(self):
        try:
            return json.loads((self.state / "up.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def services(self, role=None):
        up = self.up() or {"services": []}
        return [s for s in up["services"] if role in (None, s["role"])]

    def service(self, role):
        return self.services(role)[0]

    def is_ready(self):
        services = self.services()
        if not self.roles <= {s["role"] for s in services}:
            return False
        for service in services:
            port = service["ports"].get("metrics")
            with contextlib.suppress(requests.RequestException):
                if port and self.http.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    continue
            return False
        return True

    @property
    def url(self):
        return self.up()["http"]

    def metrics(self, role):
        text = self.http.get(f"http://127.0.0.1:{self.service(role)['ports']['metrics']}/metrics", timeout=10).text
        values = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                values[name] = float(value)
        return values

    # --- processes ---

    def kill(self, role, signal_number=signal.SIGKILL):
        """Kills the first of that role; returns its process id."""
        pid = self.service(role)["pid"]
        send_signal(pid, signal_number)
        return pid

    def wait_restarted(self, role, old_pid, seconds=60):
        wait_for(lambda: any(s["pid"] != old_pid and s["pid"] > 0 for s in self.services(role)), seconds,
                 f"{role} being restarted")

    def wait_ready(self, seconds=60):
        wait_for(lambda: self.alive() and self.is_ready(), seconds, "the cluster being ready again")

    def rss_mib(self, role):
        status = pathlib.Path(f"/proc/{self.service(role)['pid']}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def logs(self):
        text = ""
        for path in sorted([*self.state.glob("*.log"), *self.state.glob("logs/*.log")]):
            text += f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-60:]) + "\n"
        return text

    def sanitizer_reports(self):
        """What sanitizers wrote into the logs; a restarted service would hide that it died of it."""
        found = []
        for path in sorted([*self.state.glob("*.log*"), *self.state.glob("logs/*.log*")]):
            lines = path.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                if "Sanitizer" in line and ("ERROR" in line or "WARNING" in line) or ": runtime error: " in line:
                    found.append(f"--- {path.name}\n" + "\n".join(lines[number:number + 60]))
        return "\n".join(found)

    def stop(self):
        """Ends everything; returns the exit code of `slipway up`."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        self.http.close()
        reports = self.sanitizer_reports() if SANITIZER else ""
        if self.own_state:
            shutil.rmtree(self.state, ignore_errors=True)
        assert not reports, reports
        return self.process.returncode


def fashion_files():
    names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
             "t10k-labels-idx1-ubyte.gz")
    return [FASHION / name for name in names]
