"""What holds on while the registry is away: serving, and a clean stop."""

import concurrent.futures
import signal
import time

import requests

from cluster import wait_for
from idx import four_files, small_job

IMAGE = [[20] * 8] * 8


def test_a_stop_with_requests_open_is_clean(start):
    cluster = start("--gateway-arg=--drain-seconds=0.5")
    url = cluster.url + "/api/v1/jobs"
    cluster.kill("registry", signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(requests.get, url, timeout=60) for _ in range(4)]
            wait_for(lambda: cluster.metrics("gateway").get("slipway_gateway_inflight_requests", 0) >= 4, 30,
                     "four open requests")
            gateway = cluster.kill("gateway", signal.SIGTERM)
            statuses = {a.result().status_code for a in asked}
            cluster.wait_restarted("gateway", gateway)
    finally:
        cluster.kill("registry", signal.SIGCONT)
    assert statuses == {503}
    log = (cluster.state / "up.log").read_text()
    ends = [line for line in log.splitlines() if "gateway-0 ended with" in line]
    assert len(ends) == 1 and "exit code 0;" in ends[0], log


def test_predictions_go_on_while_the_registry_is_silent(start):
    cluster = start()
    assert cluster.put_dataset("stripes", four_files()).status_code == 201
    cluster.train(small_job())
    wait_for(lambda: cluster.predict("stripes", [IMAGE]).status_code == 200, 30)
    cluster.kill("registry", signal.SIGSTOP)
    try:
        statuses = []
        end = time.monotonic() + 6  # past the time for which a head is fresh
        while time.monotonic() < end:
            answer = cluster.predict("stripes", [IMAGE], headers={"X-Request-Timeout-Ms": "1000"}, timeout=5)
            statuses.append(answer.status_code)
        assert set(statuses) == {200}, statuses
    finally:
        cluster.kill("registry", signal.SIGCONT)
