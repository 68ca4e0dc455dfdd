"""The network policies, enforced: who reaches what."""

import json

import pytest

from kube import kubectl, there, wait_for
from load import probe

MESSAGES = [("gateway-zmq", 7070), ("registry", 7071), ("registry", 7072)]


class Client:
    """A pod that has nothing to do with the release."""

    def __init__(self, namespace):
        self.namespace = namespace
        if not there(namespace):
            kubectl("create", "namespace", namespace)
        kubectl("-n", namespace, "delete", "pod", "client", "--ignore-not-found", "--grace-period=0", "--force")
        kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
            "spec": {"containers": [probe()]}}))
        kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/client", "--timeout=60s")

    def run(self, *words):
        return kubectl("-n", self.namespace, "exec", "client", "--", "/probe", *words, check=False).returncode == 0

    def reaches(self, address, port):
        return self.run("connect", f"{address}:{port}")

    def gets_api(self):
        return self.run("get", "http://demo-slipway-gateway.serving/v2/health/ready")

    def remove(self):
        kubectl("-n", self.namespace, "delete", "pod", "client", "--grace-period=0", "--force")


@pytest.fixture(params=["serving", "elsewhere"])
def client(request):
    found = Client(request.param)
    yield found
    found.remove()


def addresses(release):
    """Each port that messages come in by: of the pods themselves, and of the Services."""
    pods = [(p["status"]["podIP"], port) for component, ports in (("gateway", [7070]), ("registry", [7071, 7072]))
            for p in release.ready_pods(component) for port in ports]
    return pods + [(f"demo-slipway-{service}.serving", port) for service, port in MESSAGES]


def test_no_other_pod_reaches_a_port_of_messages(release, client):
    inside = client.namespace == release.namespace
    wait_for(lambda: client.gets_api() == inside, 30, "the policies knowing the pod")
    services = {s["metadata"]["name"] for s in release.list("services")}
    assert {f"demo-slipway-{name}" for name, _ in MESSAGES} <= services, services
    assert [a for a in addresses(release) if client.reaches(*a)] == []
    for component in ("gateway", "inferencer", "trainer", "registry"):
        for pod in release.ready_pods(component):
            assert not client.reaches(pod["status"]["podIP"], 9090), component


def test_the_api_may_be_opened_and_nothing_else_is(release):
    client = Client("elsewhere")
    try:
        assert not client.gets_api()
        release.upgrade("networkPolicy.api.allowExternal=true")
        wait_for(client.gets_api, 60, "the API open")
        assert [a for a in addresses(release) if client.reaches(*a)] == []
    finally:
        release.upgrade("networkPolicy.api.allowExternal=false")
        client.remove()
    # What is in order goes on: the services reach each other.
    assert release.predicts()
