"""The images as containers on a private network: read-only, without rights, without a shell; the main job through the published port."""

import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest
import requests

from cluster import wait_for
from containers import STRICT, ByHand, Composed, image, inspect, podman, started_at
from idx import four_files, small_job
from image_archive import NAMES, VERSION, images, listed

IMAGE = [[180] * 8] * 2 + [[20] * 8] * 6  # class 0: the upper stripe is lit
PROGRAM = {name: "/usr/bin/slipway-" + name for name in NAMES} | {"cli": "/usr/bin/slipway"}


@pytest.fixture(scope="module")
def services():
    services = ByHand()
    yield services
    services.stop()


@pytest.fixture(scope="module")
def trained(services):
    assert services.put_dataset("stripes", four_files()).status_code == 201
    services.train(small_job())
    return services


@pytest.mark.parametrize("name", NAMES)
def test_it_says_its_version_without_a_shell(name):
    assert VERSION in podman("run", "--rm", "--network=none", *STRICT, image(name), "--version").stdout
    shell = podman("run", "--rm", "--network=none", *STRICT, "--entrypoint=/bin/sh", image(name), "-c", "true", check=False)
    assert shell.returncode != 0, "the shell was to be taken away in these tests"


@pytest.mark.parametrize("name", NAMES)
def test_every_library_is_there_and_every_listed_package_is_one(name):
    # The loader itself lists what it would load, from the image alone.
    loader = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}[os.uname().machine]
    text = podman("run", "--rm", "--network=none", *STRICT, f"--entrypoint={loader}", image(name), "--list", PROGRAM[name]).stdout
    assert "not found" not in text
    libraries = {pathlib.PurePosixPath(path).name for path in re.findall(r"(?:=> )?(/\S+) \(0x", text)}
    packages = images()[name]
    owners = {}
    for path in packages.files:
        if match := re.fullmatch(r"/var/lib/dpkg/info/(.+?)(?::\w+)?\.list", path):
            for owned in packages.read(path).decode().splitlines():
                owners.setdefault(pathlib.PurePosixPath(owned).name, set()).add(match[1])
    used = set().union(*(owners.get(library, set()) for library in libraries))
    # OpenBLAS stands behind an alternative's link; certificates are no library.
    assert listed(name) - used <= {"libopenblas0-openmp", "ca-certificates"}
    assert ("libblas.so.3" in libraries) == ("libopenblas0-openmp" in listed(name))


def test_the_main_job_runs_through_the_published_port(trained):
    answer = trained.predict("stripes", [IMAGE])
    assert answer.status_code == 200, answer.text
    scores = answer.json()["predictions"][0]
    assert scores.index(max(scores)) == 0
    document = trained.get("/api/v1/models/stripes/versions/1").json()
    assert document["version"] == 1


def test_the_command_line_does_the_same_from_its_image(trained, tmp_path):
    for name, data in four_files(seed=5).items():
        (tmp_path / name).write_bytes(data)
    tmp_path.chmod(0o755)
    trained.cli("dataset", "put", "more", *[f"/in/{name}" for name in four_files()], mount=tmp_path)
    assert "stripes" in trained.cli("models")
    assert trained.cli("doctor")


def test_they_run_as_nobody_in_particular_and_cannot_write(trained):
    for role in trained.ROLES:
        pid = inspect(trained.container(role))["State"]["Pid"]
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.M), status
        assert re.search(r"^CapEff:\s+0+$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
        mounts = [line.split() for line in pathlib.Path(f"/proc/{pid}/mounts").read_text().splitlines()]
        (options,) = [fields[3] for fields in mounts if fields[1] == "/"]
        assert options.split(",")[0] == "ro"


def test_an_inferencer_with_one_small_model_is_ready_within_a_second(trained):
    """From the start of its process to the first 200 of /readyz, model fetched and warmed up; the best of five."""
    def measure(number):
        container = f"{trained.network}-inferencer-{number}"
        trained.run("inferencer", container)
        try:
            state = inspect(container)
            address = state["NetworkSettings"]["Networks"][trained.network]["IPAddress"]
            begun = started_at(state["State"]["Pid"])

            def ready():
                try:
                    return requests.get(f"http://{address}:9090/readyz", timeout=5).status_code == 200
                except requests.ConnectionError:
                    return False
            wait_for(ready, 30, "the inferencer being ready")
            taken = time.clock_gettime(time.CLOCK_BOOTTIME) - begun
            assert "version ready model=stripes version=1" in podman("logs", container).stderr
            return taken
        finally:
            podman("rm", "--force", "--volumes", "--time", 10, container)

    times = [measure(number) for number in range(5)]
    print(f"ready after {', '.join(f'{t:.2f}' for t in times)} s")
    assert min(times) < 1.0, times


def test_data_outlives_its_container(trained):
    volume = "slipway-test-data"
    podman("volume", "create", volume)
    try:
        for _ in range(2):
            podman("run", "--detach", "--name", "keeper", "--network", trained.network, *STRICT, f"--volume={volume}:/var/lib/slipway",
                   image("registry"))
            wait_for(lambda: "registry ready" in podman("logs", "keeper").stderr, 30, "the registry being ready")
            podman("stop", "--time", 30, "keeper")
            assert inspect("keeper")["State"]["ExitCode"] == 0
            podman("rm", "keeper")
    finally:
        podman("rm", "--force", "keeper", check=False)
        podman("volume", "rm", "--force", volume)


def test_they_end_at_sigterm_with_exit_code_0(trained):
    assert trained.stop() == dict.fromkeys(trained.ROLES, "0")


@pytest.fixture
def docker_api(monkeypatch):
    """podman's own service of Docker's API, for tools that know no other."""
    socket = pathlib.Path("/run/slipway-podman.sock")
    process = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"])
    try:
        wait_for(socket.exists, 30, "podman's service")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("tool", ["podman-compose", "docker-compose"])
def test_compose_starts_the_four_and_runs_the_main_job(tool, docker_api):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    services = Composed([tool])
    try:
        assert services.put_dataset("stripes", four_files()).status_code == 201
        services.train(small_job())
        scores = services.predict("stripes", [IMAGE]).json()["predictions"][0]
        assert scores.index(max(scores)) == 0
        for role in services.ROLES:
            state = inspect(services.container(role))
            assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "10001:10001"
    finally:
        services.stop()
    assert "slipway_" not in podman("ps", "--all", "--format", "{{.Names}}").stdout


def test_containerd_imports_the_archive(containerd):
    containerd("images", "import", os.environ["SLIPWAY_IMAGES"])
    lines = containerd("images", "list").splitlines()[1:]
    found = {line.split()[0]: line.split()[2] for line in lines}
    assert found == {i.name: i.descriptor["digest"] for i in images().values()}
    assert "complete" in containerd("images", "check")
