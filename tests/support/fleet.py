"""Services that tests start one by one: several gateways and workers on addresses of their own, found by name.

Names end in ".test" and come from a file, as `names.c` looks them up, so that a test can move, hide and break them.
All gateways have one port, as the pods behind a headless Service have.
"""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import threading
import time

import requests

from cluster import BIN, SANITIZER, Api, send_signal, wait_for

NAMES_LIBRARY = pathlib.Path(BIN).parent / "lib" / "libslipway_names.so"


def free_port(addresses):
    """A port that is free on all of these addresses."""
    for _ in range(100):
        with contextlib.ExitStack() as held:
            port = 0
            try:
                for address in addresses:
                    one = held.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
                    one.bind((address, port))
                    port = one.getsockname()[1]
            except OSError:
                continue
            return port
    raise AssertionError("no port is free on all addresses")


class Service(Api):
    """One service's process, its ports and its log; of a gateway the API too."""

    def __init__(self, folder, role, name, address, arguments, env):
        self.role, self.name, self.address = role, name, address
        self.log_path = folder / f"{name}.log"
        announced = folder / f"{name}.json"
        announced.unlink(missing_ok=True)
        self.http = requests.Session()
        self.http.trust_env = False
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [BIN / f"slipway-{role}", f"--announce={announced}", f"--listen-address={address}", *arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        try:
            self.ports = wait_for(lambda: self.alive() and announced.exists() and json.loads(announced.read_text()),
                                  30, f"{name} saying where it listens")
        except BaseException:
            self.end()
            raise

    @property
    def host(self):
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def url(self):
        return f"http://{self.host}:{self.ports['http']}"

    def alive(self):
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.log()}"
        return True

    def health(self, path):
        """GET on the port for /readyz and /metrics; None when nobody answers."""
        with contextlib.suppress(requests.RequestException):
            return self.http.get(f"http://{self.host}:{self.ports['metrics']}{path}", timeout=5)
        return None

    def ready(self):
        answer = self.health("/readyz")
        return answer is not None and answer.status_code == 200

    def wait_ready(self, seconds=30):
        wait_for(lambda: self.alive() and self.ready(), seconds, f"{self.name} being ready")
        return self

    def metric(self, name):
        for line in self.health("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"{self.name} has no metric {name}")

    def log(self):
        return self.log_path.read_text(errors="replace")

    def signal(self, number):
        if self.process.poll() is None:  # else its id may be somebody else's
            send_signal(self.process.pid, number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds=30):
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(seconds * (5 if SANITIZER else 1))

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        self.http.close()


class Fleet:
    REGISTRY = "registry.test"
    GATEWAYS = "gateways.test"

    def __init__(self, folder):
        self.folder = folder
        self.services = {}
        self.names_file = folder / "names"
        self.addresses = {}  # name -> addresses
        self.registry_port, self.events_port = (free_port(["::1", "127.0.0.21", "127.0.0.22"]) for _ in range(2))
        self.bus_port = free_port(["::1", *(f"127.0.0.{n}" for n in range(11, 16))])
        self.env = {**os.environ, "SLIPWAY_CLUSTER_SECRET": secrets.token_hex(16),
                    "SLIPWAY_RELEASE_ID": "fleet", "LD_PRELOAD": str(NAMES_LIBRARY),
                    "SLIPWAY_NAMES": str(self.names_file)}
        assert NAMES_LIBRARY.exists(), NAMES_LIBRARY
        self.set_names({})

    def set_names(self, names):
        self.addresses = names
        aside = self.folder / "names.new"
        aside.write_text("".join(f"{name} {address}\n" for name, all_of_it in names.items() for address in all_of_it))
        aside.rename(self.names_file)

    def name(self, name, addresses):
        self.set_names({**self.addresses, name: list(addresses)})

    def start(self, role, name, *arguments, address="127.0.0.1"):
        if role == "registry":
            arguments = (f"--data-dir={self.folder / 'registry'}", f"--bus-port={self.registry_port}",
                         f"--events-port={self.events_port}", *arguments)
        else:
            arguments = (f"--registry={self.REGISTRY}:{self.registry_port}", *arguments)
            if role != "trainer":
                arguments = (f"--registry-events={self.REGISTRY}:{self.events_port}", *arguments)
        if role == "gateway":
            arguments = ("--http-port=0", f"--bus-port={self.bus_port}", *arguments)
        elif role != "registry":
            arguments = (f"--gateways={self.GATEWAYS}:{self.bus_port}",
                         f"--{'work' if role == 'trainer' else 'cache'}-dir={self.folder / name}", *arguments)
        if name in self.services:
            self.services[name].end()
        self.services[name] = Service(self.folder, role, name, address, ("--metrics-port=0", *arguments), self.env)
        return self.services[name]

    def __getitem__(self, name):
        return self.services[name]

    def logs(self):
        return "".join(f"--- {name}\n" + "\n".join(service.log().splitlines()[-60:]) + "\n"
                       for name, service in self.services.items())

    def stop(self):
        for service in self.services.values():
            service.end()


class Load:
    """Predictions one after the other from several threads, each at the next of `gateways`, until the `with` ends.

    A client as a load balancer makes it: it leaves a gateway that says `Connection: close` for another one.
    """

    def __init__(self, gateways, ask, threads=2):
        self.gateways, self.ask = list(gateways), ask
        self.answers, self.failures, self.slowest_seconds = 0, [], 0.0
        self._leaving, self._lock, self._stop = set(), threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def _run(self, turn):
        session = requests.Session()
        session.trust_env = False
        while not self._stop.is_set():
            turn += 1
            with self._lock:
                open_ones = [g for g in self.gateways if g not in self._leaving]
            gateway = open_ones[turn % len(open_ones)]
            begun = time.monotonic()
            try:
                answer = self.ask(session, gateway)
                if answer.headers.get("Connection") == "close":
                    with self._lock:
                        self._leaving.add(gateway)
                failed = None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
            except requests.RequestException as error:
                failed = repr(error)
            with self._lock:
                self.answers += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
                if failed:
                    self.failures.append(f"{gateway.name}: {failed}")
        session.close()

    def wait_for_more(self, answers, seconds=30):
        """Until so many more have come."""
        wanted = self.answers + answers
        wait_for(lambda: self.answers >= wanted, seconds, f"{answers} more answers")

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.wait_for_more(10)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
