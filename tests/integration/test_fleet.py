"""Several gateways and workers: what one gateway is told reaches all, and what fails is made good. One fleet for all."""

import contextlib
import json
import pathlib
import shutil
import signal
import socket
import tempfile
import threading
import time

import pytest

from cluster import SANITIZER, TERMINAL, wait_for
from fleet import Fleet, Load
from idx import four_files, small_job

IMAGE = [[20] * 8] * 8
GATEWAY_1, GATEWAY_2, GATEWAY_3 = "127.0.0.11", "127.0.0.12", "127.0.0.13"
REGISTRY, REGISTRY_MOVED = "127.0.0.21", "127.0.0.22"
LEASE_SECONDS = 2


@pytest.fixture(scope="module")
def fleet():
    """A registry, two gateways, two inferencers and a trainer, with the model `stripes`."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slipway-fleet-"))
    fleet = None
    try:
        fleet = Fleet(folder)
        fleet.set_names({fleet.REGISTRY: [REGISTRY], fleet.GATEWAYS: [GATEWAY_1, GATEWAY_2]})
        start_registry(fleet)
        start_gateway(fleet, "gateway-1", GATEWAY_1)
        start_gateway(fleet, "gateway-2", GATEWAY_2)
        for name in ("inferencer-1", "inferencer-2"):
            fleet.start("inferencer", name)
        fleet.start("trainer", "trainer-1")
        for service in fleet.services.values():
            service.wait_ready()
        assert fleet["gateway-1"].put_dataset("stripes", four_files()).status_code == 201
        fleet["gateway-1"].train(small_job())
        yield fleet
    finally:
        if fleet:
            fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)


def start_registry(fleet, address=REGISTRY):
    return fleet.start("registry", "registry", f"--lease-seconds={LEASE_SECONDS}", address=address)


def start_gateway(fleet, name, address, *arguments):
    return fleet.start("gateway", name, "--drain-grace-ms=300", "--registry-deadline-ms=2000", *arguments, address=address)


def gateways(fleet):
    return [fleet["gateway-1"], fleet["gateway-2"]]


def ask(session, gateway, model="stripes"):
    return session.post(f"{gateway.url}/v1/models/{model}:predict", json={"instances": [IMAGE]}, timeout=40)


def inferencers(gateway):
    return gateway.metric('slipway_gateway_workers{role="inferencer"}')


def predicts(gateway, model="stripes"):
    return gateway.predict(model, [IMAGE]).status_code == 200


def state_of(gateway, model):
    """The index's entry of the model's latest version."""
    index = gateway.post("/v2/repository/index", data="").json()
    return next(entry for entry in reversed(index) if entry["name"] == model)


def long_job(model, **extra):
    """Some seconds of training that checkpoints all the time."""
    job = small_job(model=model, **{"epochs": 40, "checkpoint_seconds": 0.2, **extra})
    job["fit"]["batch_size"] = 4
    return job


def wait_checkpoint(gateway, job):
    for _, kind, event in gateway.events(job):
        assert event["state"] not in TERMINAL, f"too late to disturb it: {event}"
        if kind == "checkpoint":
            return
    raise AssertionError("the events ended before a checkpoint")


# --- any gateway does ---

def test_jobs_data_models_and_events_work_through_any_gateway(fleet):
    one, two = gateways(fleet)
    assert two.put_dataset("more", four_files(seed=2)).status_code == 201
    assert one.get("/api/v1/datasets/more").status_code == 200
    job = one.submit(small_job(model="both", dataset="more"))
    followed = [event["state"] for _, kind, event in two.events(job) if kind == "state"]
    assert followed[-1] == "SUCCEEDED", followed
    assert all(wait_for(lambda g=g: predicts(g, "both"), 10) for g in (one, two))

    # An alias moved through one gateway is followed by the other, and every inferencer has its version in memory.
    one.train(small_job(model="both", dataset="more", seed=8))
    moved = two.request("PUT", "/api/v1/models/both/aliases/old", json={"version": 1})
    assert moved.status_code == 200, moved.text
    wait_for(lambda: one.post("/v1/models/both/labels/old:predict", json={"instances": [IMAGE]}).status_code == 200, 10)
    for gateway in (one, two):
        wait_for(lambda g=gateway: [(e["version"], e["reason"]) for e in g.post("/v2/repository/index").json()
                                    if e["name"] == "both" and e["state"] == "READY"] == [("1", ""), ("2", "")], 20,
                 "both versions being loaded everywhere")


# --- load and unload ---

def test_an_unloaded_model_is_refused_in_every_dialect_and_by_every_gateway(fleet):
    one, two = gateways(fleet)
    # Nothing happens to another model, and to this one's predictions nothing but the refusal.
    with Load((one, two), ask) as load, Load((one, two), lambda s, g: ask(s, g, "both")) as unloaded:
        done = one.post("/v2/repository/models/both/unload", json={"parameters": {"unload_dependents": False}},
                        headers={"X-Slipway-Actor": "ann"})
        assert done.status_code == 200, done.text
        for gateway in (one, two):
            wait_for(lambda g=gateway: not predicts(g, "both"), 10, "the model being refused")
            unknown = "Request for unknown model: 'both'"
            image = {"inputs": [{"name": "input", "shape": [1, 8, 8], "datatype": "FP32", "data": IMAGE}]}
            for path, body, status, says in (
                    ("/v1/models/both:predict", {"instances": [IMAGE]}, 404, "has no available versions"),
                    ("/v2/models/both/infer", image, 404, "has no available versions"),
                    ("/v2/models/both/versions/1/infer", image, 503, "version 1 is not at ready state"),
                    ("/v1/models/both/labels/old:predict", {"instances": [IMAGE]}, 404, "has no available versions"),
                    ("/predict", {"model": "both", "input": IMAGE}, 404, "has no available versions")):
                refused = gateway.post(path, json=body)
                assert (refused.status_code, unknown in refused.text, says in refused.text) == (status, True, True), \
                    (path, refused.status_code, refused.text)
            assert gateway.get("/v2/models/both/ready").status_code != 200
            assert gateway.get("/v1/models/both").json()["model_version_status"][0]["state"] == "END"
            assert state_of(gateway, "both")["state"] == "UNAVAILABLE"
            assert state_of(gateway, "both")["reason"] == "unloaded"
        model = two.get("/api/v1/models/both").json()
        assert (model["served"], model["served_set_by"]) == (False, "ann")
        # What it is made of stays, and may be fetched.
        assert two.get("/api/v1/models/both/versions/2/artifacts/model.pt").status_code == 200
        # Once nobody has used it for a while, no inferencer has it in memory.
        for name in ("inferencer-1", "inferencer-2"):
            wait_for(lambda s=fleet[name]: s.metric("slipway_inferencer_loaded_versions") == 1, 30,
                     "only the other model being loaded")
    assert not load.failures, load.failures[:5]
    assert unloaded.failures
    assert all("404" in f and "has no available versions" in f for f in unloaded.failures), unloaded.failures[:5]


def test_a_job_publishes_a_version_of_an_unloaded_model_which_is_not_served(fleet):
    one, two = gateways(fleet)
    assert one.train(small_job(model="both", dataset="more", seed=9))["version"] == 3
    assert not predicts(two, "both")
    assert state_of(one, "both") == {"name": "both", "version": "3", "state": "UNAVAILABLE", "reason": "unloaded"}


def test_a_load_is_answered_when_every_inferencer_has_the_model_and_reaches_every_gateway(fleet):
    one, two = gateways(fleet)
    done = two.post("/v2/repository/models/both/load", json={})
    assert done.status_code == 200, done.text
    for name in ("inferencer-1", "inferencer-2"):
        assert fleet[name].metric("slipway_inferencer_loaded_versions") == 3, "stripes 1, both 1 and 3"
    wait_for(lambda: predicts(one, "both"), 10)
    assert predicts(two, "both")
    assert two.post("/v2/repository/models/absent/load", json={}).status_code == 404
    assert two.post("/v2/repository/models/both/load", json={"parameters": {"config": "{}"}}).status_code == 501


def test_a_load_and_an_unload_outlive_the_registry(fleet):
    one, two = gateways(fleet)
    assert one.request("PATCH", "/api/v1/models/both", json={"served": False}).status_code == 200
    fleet["registry"].kill()
    start_registry(fleet).wait_ready()
    assert wait_for(lambda: two.get("/api/v1/models/both"), 30).json()["served"] is False
    assert one.request("PATCH", "/api/v1/models/both", json={"served": True}).json()["served"] is True


def test_a_new_inferencer_is_ready_once_the_desired_models_are_warm(fleet):
    third = fleet.start("inferencer", "inferencer-3")
    wait_for(third.ready, 30)
    assert third.metric("slipway_inferencer_loaded_versions") == 3
    with Load(gateways(fleet), ask) as load:
        assert third.terminate() == 0
        load.wait_for_more(20)
    assert not load.failures, load.failures[:5]


# --- what fails, one thing at a time ---

@contextlib.contextmanager
def paused(*services):
    for service in services:
        service.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for service in services:
            service.signal(signal.SIGCONT)


@pytest.mark.parametrize("gone", ["", "gateway-1", "gateway-2"])
def test_any_gateway_that_lives_offers_jobs_to_an_idle_trainer(fleet, gone):
    those = [fleet[name] for name in ("gateway-1", "gateway-2") if name != gone]
    live = those[0]

    def offered():  # whoever hears of a job first offers it; another may find the trainer busy with it
        return sum(gateway.metric("slipway_gateway_jobs_offered_total") for gateway in those)
    with paused(*([fleet[gone]] if gone else [])):
        for _ in range(3):
            before = offered()
            job = live.submit(small_job(model="offered"))
            # A trainer without an offer asks by itself, every five seconds.
            wait_for(lambda j=job: live.job(j)["state"] != "QUEUED", 2, "a trainer having taken it")
            assert live.wait_job(job)["state"] == "SUCCEEDED"
            assert offered() > before
    if gone:
        wait_for(lambda: inferencers(fleet[gone]) == 2, 20, "the workers being known again")


def test_a_gateway_that_is_killed_takes_only_its_own_clients_with_it(fleet):
    one, two = gateways(fleet)
    workers = [fleet["inferencer-1"], fleet["inferencer-2"]]
    with contextlib.ExitStack() as open_ones:
        host, port = two.url.removeprefix("http://").split(":")
        body = json.dumps({"instances": [IMAGE]}).encode()
        with paused(*workers):
            clients = [open_ones.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(4)]
            for client in clients:
                client.sendall(b"POST /v1/models/stripes:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                               % len(body) + body)
            wait_for(lambda: two.metric("slipway_gateway_outstanding_predictions") == 4, 10, "four predictions under way")
            two.kill()
        with Load([one], ask) as load:
            load.wait_for_more(50)
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b"", "nobody answers them"
    assert not load.failures, load.failures[:5]
    again = start_gateway(fleet, "gateway-2", GATEWAY_2).wait_ready(10)
    assert predicts(again)
    # What was begun for it is over, and the room that it took is free again.
    for worker in workers:
        wait_for(lambda w=worker: w.metric("slipway_inferencer_queued_rows") == 0, 10, "nothing left over")
    assert again.metric("slipway_gateway_outstanding_predictions") == 0


def test_a_gateway_that_meets_no_inferencer_is_ready_after_a_while_if_it_may(fleet):
    third = start_gateway(fleet, "gateway-3", GATEWAY_3, "--ready-alone-after-seconds=1.5")
    assert third.health("/readyz").status_code == 503
    third.wait_ready(10)
    assert inferencers(third) == 0 and third.predict("stripes", [IMAGE]).status_code == 503
    third.kill()


def test_a_gateway_that_is_added_serves_within_five_seconds_and_one_that_stops_fails_nobody(fleet):
    third = start_gateway(fleet, "gateway-3", GATEWAY_3)
    assert not third.ready()
    begun = time.monotonic()
    fleet.name(fleet.GATEWAYS, [GATEWAY_1, GATEWAY_2, GATEWAY_3])
    third.wait_ready()
    assert time.monotonic() - begun < 5
    with Load([*gateways(fleet), third], ask, threads=3) as load:
        assert third.terminate() == 0
        fleet.name(fleet.GATEWAYS, [GATEWAY_1, GATEWAY_2])
        load.wait_for_more(20)
    assert not load.failures, load.failures[:5]


def test_an_inferencer_that_is_killed_fails_no_prediction(fleet):
    with Load(gateways(fleet), ask, threads=4) as load:
        fleet["inferencer-1"].kill()
        load.wait_for_more(50)
        fleet.start("inferencer", "inferencer-1").wait_ready()
    assert not load.failures, load.failures[:5]


def test_an_inferencer_that_is_paused_fails_no_prediction_and_is_taken_back(fleet):
    with Load(gateways(fleet), ask, threads=4) as load:
        with paused(fleet["inferencer-1"]):
            for gateway in gateways(fleet):
                wait_for(lambda g=gateway: inferencers(g) == 1, 20, "its loss being noticed")
            load.wait_for_more(20)
        for gateway in gateways(fleet):
            wait_for(lambda g=gateway: inferencers(g) == 2, 20, "it being known again")
        load.wait_for_more(20)
    assert not load.failures, load.failures[:5]


def test_a_trainer_that_is_paused_past_its_lease_writes_nothing_more(fleet):
    one, two = gateways(fleet)
    first = fleet["trainer-1"]
    job = one.submit(long_job("fenced", epochs=60))
    wait_checkpoint(two, job)
    with paused(first):
        fleet.start("trainer", "trainer-2").wait_ready()
        wait_for(lambda: one.job(job)["attempt"] == 2 and one.job(job)["state"] == "RUNNING", 30, "a second attempt")
    wait_for(lambda: "lease lost" in first.log(), 20, "the first one being told")
    done = two.wait_job(job)
    assert (done["state"], done["attempt"], done["version"]) == ("SUCCEEDED", 2, 1), done
    assert len(one.get("/api/v1/models/fenced/versions").json()["items"]) == 1
    events = [(event_id, kind, event) for event_id, kind, event in one.events(job)]
    assert [event_id for event_id, _, _ in events] == list(range(1, len(events) + 1))
    told = [event["message"] for _, kind, event in events if kind == "checkpoint"]
    assert told == [f"checkpoint {n}" for n in range(1, len(told) + 1)], "each number once"
    assert first.alive() and first.ready()
    assert fleet["trainer-2"].terminate() == 0
    assert one.train(small_job(model="after"))["attempt"] == 1, "it works on"


def test_a_trainer_told_to_stop_hands_on_what_it_has_done(fleet):
    one, two = gateways(fleet)
    job = two.submit(long_job("handed", checkpoint_seconds=600, epochs=60))
    next(event for _, kind, event in one.events(job) if kind == "epoch" and event["progress"]["epoch"] == 3)
    assert fleet["trainer-1"].terminate() == 0
    fleet.start("trainer", "trainer-1")
    epochs = [event["progress"]["epoch"] for _, kind, event in two.events(job) if kind == "epoch"]
    assert epochs == sorted(set(epochs)), "no epoch was done twice"
    assert one.job(job)["state"] == "SUCCEEDED"


def test_names_that_cannot_be_looked_up_for_a_while_end_no_connection(fleet):
    for gateway in gateways(fleet):
        wait_for(lambda g=gateway: g.metric('slipway_gateway_workers{role="trainer"}') == 1, 20, "one trainer, others forgotten")
    with Load(gateways(fleet), ask) as load:
        for broken in ([], ["SERVFAIL"]):
            fleet.name(fleet.GATEWAYS, broken)
            # Each worker asks every 2 to 2.5 s: it has met the broken name when this much has passed.
            end = time.monotonic() + 3
            wait_for(lambda: time.monotonic() > end, 10)
            for gateway in gateways(fleet):
                assert inferencers(gateway) == 2
                assert gateway.metric('slipway_gateway_workers{role="trainer"}') == 1
        fleet.name(fleet.GATEWAYS, [GATEWAY_1, GATEWAY_2])
    assert not load.failures, load.failures[:5]


@contextlib.contextmanager
def foreign_listener(address, port):
    """Takes connections and says what no service of ours says."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        dialled = threading.Event()

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                dialled.set()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(b"SSH-2.0-other\r\n" * 8)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield dialled
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_address_taken_by_somebody_else_harms_nobody(fleet):
    one, two = gateways(fleet)
    assert two.terminate() == 0
    with Load([one], ask) as load:
        with foreign_listener(GATEWAY_2, fleet.bus_port) as dialled:
            assert dialled.wait(20), "no worker dialled it"
            load.wait_for_more(20)
        # Another installation's gateway refuses our workers, and they it.
        other = fleet.start("gateway", "other", "--release-id=other", address=GATEWAY_2)
        wait_for(lambda: "worker refused" in other.log(), 20, "a worker being refused")
        load.wait_for_more(20)
        assert not other.ready() and inferencers(other) == 0
        other.kill()
    assert not load.failures, load.failures[:5]
    assert predicts(start_gateway(fleet, "gateway-2", GATEWAY_2).wait_ready())


def test_a_registry_that_is_gone_for_a_while_stops_neither_predictions_nor_a_job(fleet):
    """Nor does a name server that is slow to say where it is."""
    one, two = gateways(fleet)
    job = one.submit(long_job("patient", checkpoint_seconds=0.5, epochs=400))
    wait_checkpoint(two, job)
    with Load((one, two), ask) as load:
        fleet.name(fleet.REGISTRY, ["SLOW"])
        assert fleet["registry"].terminate() == 0
        assert one.post("/api/v1/jobs", json=small_job()).status_code == 503
        # Past the time for which a gateway takes a model's head for fresh, and more than two look-ups.
        end = time.monotonic() + 6
        wait_for(lambda: time.monotonic() > end, 10)
        assert one.ready() and two.ready()
        fleet.name(fleet.REGISTRY, [REGISTRY])
        start_registry(fleet).wait_ready()
        load.wait_for_more(20)
    assert not load.failures, load.failures[:5]
    assert SANITIZER or load.slowest_seconds < 1, "a look-up takes two seconds"
    assert two.wait_job(job)["state"] == "SUCCEEDED"


def test_a_registry_that_is_back_at_another_address_is_found_by_all(fleet):
    one, two = gateways(fleet)
    with Load((one, two), ask) as load:
        assert fleet["registry"].terminate() == 0
        start_registry(fleet, REGISTRY_MOVED).wait_ready()
        fleet.name(fleet.REGISTRY, [REGISTRY_MOVED])
        wait_for(lambda: two.post("/api/v1/jobs", json=small_job(model="moved")).status_code == 202, 30,
                 "a gateway calling it")
        # The trainer's calls, the gateways' and inferencers' events and calls.
        wait_for(lambda: one.get("/api/v1/models/moved").status_code == 200, 30, "the trainer publishing")
        for gateway in (one, two):
            wait_for(lambda g=gateway: state_of(g, "moved").get("reason") == "", 20, "all inferencers having it")
    assert not load.failures, load.failures[:5]


def test_every_service_ends_with_zero(fleet):
    with Load([fleet["gateway-1"]], ask) as load:
        assert fleet["inferencer-2"].terminate() == 0
        assert fleet["registry"].terminate() == 0
        load.wait_for_more(20)
    assert not load.failures, load.failures[:5]
    assert fleet["trainer-1"].terminate() == 0
    assert [g.terminate() for g in gateways(fleet)] == [0, 0]
    assert fleet["inferencer-1"].terminate() == 0


def test_the_main_job_works_where_there_is_only_ipv6(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.set_names({fleet.REGISTRY: ["::1"], fleet.GATEWAYS: ["::1"]})
    try:
        for role in ("registry", "gateway", "inferencer", "trainer"):
            fleet.start(role, role, address="::1")
        for service in fleet.services.values():
            service.wait_ready()
        gateway = fleet["gateway"]
        assert gateway.put_dataset("stripes", four_files()).status_code == 201
        gateway.train(small_job())
        wait_for(lambda: predicts(gateway), 20, "predictions by the new version")
        assert all(service.terminate() == 0 for service in fleet.services.values())
    finally:
        fleet.stop()
