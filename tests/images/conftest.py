"""What the tests of the images share; tests/images/run starts them."""

import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

from cluster import wait_for  # noqa: E402


@pytest.fixture
def containerd(tmp_path):
    """A containerd with nothing in it; gives a function that runs `ctr`."""
    socket = "/run/slipway-containerd.sock"  # a folder of these tests; a socket's path must be short
    (tmp_path / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(["containerd", "--config", tmp_path / "config.toml", "--root", tmp_path / "root",
                                    "--state", tmp_path / "state", "--address", socket], stdout=log, stderr=log)

        def ctr(*arguments, check=True):
            done = subprocess.run(["ctr", "--address", socket, "--namespace", "k8s.io", *arguments], capture_output=True, text=True)
            assert not check or done.returncode == 0, done.stderr
            return done.stdout if check else done.returncode == 0
        try:
            wait_for(lambda: ctr("version", check=False), 30, "containerd answering")
            yield ctr
        finally:
            process.terminate()
            process.wait(30)
