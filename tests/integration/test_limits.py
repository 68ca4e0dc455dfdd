"""Services take their sizes from their control group, and notice when it is resized while they run."""

import os
import re
import subprocess

import pytest

from cgroup import OwnCgroup
from cluster import BIN, measures_memory, wait_for
from idx import four_files, small_job

MIB = 1 << 20


@pytest.fixture
def groups():
    """Two groups."""
    made = [OwnCgroup(), OwnCgroup()]
    try:
        if made[0].missing:
            pytest.skip(made[0].missing)
        yield made
    finally:
        for group in made:
            group.close()


def default_of(group, program, setting):
    said = subprocess.run([BIN / program, "--help"], preexec_fn=group.take, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    return int(re.search(rf"--{setting}\s[^[]*\[(\d+)\]", said.stdout)[1])


@measures_memory
def test_defaults_are_shares_of_the_groups_memory(groups):
    groups[0].set(memory_bytes=512 * MIB)
    assert default_of(groups[0], "slipway-gateway", "max-buffered-bytes") == 256 * MIB
    assert default_of(groups[0], "slipway-inferencer", "max-model-memory-bytes") == 256 * MIB
    assert default_of(groups[0], "slipway-inferencer", "max-queued-bytes") == 64 * MIB


@measures_memory
def test_a_resize_is_noticed_while_they_serve(groups, start):
    cluster = start(env={"SLIPWAY_THREADS": "0"})
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    front, rest = groups
    others = ("registry", "trainer", "inferencer")

    def sees(role, cores, memory):
        values = cluster.metrics(role)
        return (values["slipway_cpu_limit_cores"], values["slipway_memory_limit_bytes"]) == (cores, memory)

    front.set(cores=0.5, memory_bytes=64 * MIB)
    cores = min(2, len(os.sched_getaffinity(0)))  # of a machine with one, the quota of two gives it one
    rest.set(cores=2, memory_bytes=1024 * MIB)
    front.take(cluster.service("gateway")["pid"])
    for role in others:
        rest.take(cluster.service(role)["pid"])
    wait_for(lambda: sees("gateway", 0.5, 64 * MIB), 30, "the gateway seeing its group")
    for role in others:
        wait_for(lambda role=role: sees(role, cores, 1024 * MIB), 30, f"the {role} seeing its group")
    wait_for(lambda: f"resized threads={cores} model_memory_bytes={512 * MIB}" in cluster.logs(), 30, "the inferencer's sizes")

    # More than half of 64 MiB, which is answered before any of it is read, and less than half of 512.
    wait_for(lambda: f"resized max_buffered_bytes={32 * MIB}" in cluster.logs(), 30, "the gateway's sizes")
    large = b'{"instances": [' + b" " * (40 * MIB) + b"]}"
    refused = cluster.post("/v1/models/stripes:predict", data=large)
    assert refused.status_code == 413 and str(32 * MIB) in refused.text, refused.text
    front.set(memory_bytes=512 * MIB)
    wait_for(lambda: f"resized max_buffered_bytes={256 * MIB}" in cluster.logs(), 30, "the gateway's larger sizes")
    assert cluster.post("/v1/models/stripes:predict", data=large).status_code == 400
    assert cluster.predict("stripes", [[[20] * 8] * 8]).status_code == 200
