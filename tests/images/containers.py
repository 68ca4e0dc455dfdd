"""podman, and the four services as containers of a private network, with the same questions as `cluster.Cluster`."""

import json
import os
import pathlib
import secrets
import subprocess

import requests

from cluster import Cluster, wait_for
from image_archive import ROOT, VERSION

# Nothing that a container does not need: no right, no writable file but those in its volume, and no shell either.
STRICT = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges",
          *[f"--volume=/dev/null:/usr/bin/{shell}:ro" for shell in ("dash", "bash")]]


def podman(*arguments, check=True, **kwargs):
    done = subprocess.run(["podman", *map(str, arguments)], capture_output=True, text=True, **kwargs)
    assert not check or done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {done.stderr}"
    return done


def image(name):
    return f"docker.io/slipway/{name}:{VERSION}"


def inspect(container):
    return json.loads(podman("container", "inspect", container).stdout)[0]


def started_at(pid):
    """Seconds on the monotonic clock when the process began; good to 10 ms."""
    ticks = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


class Containers(Cluster):
    """The four services, each in a container of its own; the gateway's port is published."""

    ROLES = ("registry", "gateway", "trainer", "inferencer")
    port = 18080

    def __init__(self):
        self.secret = secrets.token_hex(16)
        self.http = requests.Session()
        self.http.trust_env = False
        try:
            self.begin()
            wait_for(self.is_ready, 120, "the containers being ready")
        except BaseException:
            print(self.logs())
            self.stop()
            raise

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self):
        for role in self.ROLES:
            assert inspect(self.container(role))["State"]["Running"], f"{role} ended:\n{self.logs()}"
            try:
                if self.http.get(f"http://{self.address(role)}:9090/readyz", timeout=5).status_code != 200:
                    return False
            except requests.RequestException:
                return False
        return True

    def address(self, role):
        return inspect(self.container(role))["NetworkSettings"]["Networks"][self.network]["IPAddress"]

    def logs(self):
        return "".join(f"--- {role}\n{done.stdout[-4000:]}{done.stderr[-4000:]}\n" for role in self.ROLES
                       for done in [podman("logs", self.container(role), check=False)])


class ByHand(Containers):
    """Started with podman run, as strictly as can be."""

    network = "slipway-test"

    def container(self, role):
        return f"{self.network}-{role}"

    def environment(self, role):
        values = {"SLIPWAY_CLUSTER_SECRET": self.secret}
        if role != "registry":
            values["SLIPWAY_REGISTRY"] = f"{self.container('registry')}:7071"
        if role in ("gateway", "inferencer"):
            values["SLIPWAY_REGISTRY_EVENTS"] = f"{self.container('registry')}:7072"
        if role in ("trainer", "inferencer"):
            values["SLIPWAY_GATEWAYS"] = f"{self.container('gateway')}:7070"
        return [f"--env={name}={value}" for name, value in values.items()]

    def begin(self):
        podman("network", "create", self.network)
        for role in self.ROLES:
            self.run(role, self.container(role), [f"--publish=127.0.0.1:{self.port}:8080"] if role == "gateway" else [])

    def run(self, role, container, options=()):
        podman("run", "--detach", "--name", container, "--network", self.network, *STRICT, *options,
               *self.environment(role), image(role))

    def cli(self, *arguments, mount=None):
        """Runs the command line's image on the services' network; returns what it printed."""
        return podman("run", "--rm", "--network", self.network, *STRICT, f"--env=SLIPWAY_SERVER=http://{self.container('gateway')}:8080",
                      *([f"--volume={mount}:/in:ro"] if mount else []), image("cli"), *arguments).stdout

    def stop(self):
        self.http.close()
        codes = {}
        for role in reversed(self.ROLES):
            podman("stop", "--time", 60, self.container(role), check=False)
            done = podman("container", "inspect", "--format", "{{.State.ExitCode}}", self.container(role), check=False)
            codes[role] = done.stdout.strip()
            podman("rm", "--force", "--volumes", self.container(role), check=False)
        podman("network", "rm", "--force", self.network, check=False)
        return codes


class Composed(Containers):
    """Started from compose.yaml."""

    network = "slipway_default"
    port = 18081

    def __init__(self, tool):
        self.tool = tool
        super().__init__()

    def compose(self, *arguments):
        environment = {**os.environ, "SLIPWAY_CLUSTER_SECRET": self.secret, "SLIPWAY_HTTP_PORT": str(self.port),
                       "SLIPWAY_VERSION": VERSION}
        done = subprocess.run([*self.tool, "--file", ROOT / "compose.yaml", "--project-name", "slipway", *arguments],
                              capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def container(self, role):
        names = podman("ps", "--all", "--format", "{{.Names}}").stdout.split()
        (found,) = [n for n in names if n.replace("-", "_") == f"slipway_{role}_1"] or [f"slipway_{role}_1"]
        return found

    def begin(self):
        self.compose("up", "--detach", "--no-build")

    def stop(self):
        self.http.close()
        self.compose("down", "--volumes")
