"""The commands of docs/kubernetes.md: Helm has each and renders what it sets, every object that kubectl is told of is one of
the chart's. What they do in a cluster is tried where there is one."""

import re
import shlex

import pytest

from chart import CHART, HELMS, NEWEST, REPO, Refused, helm, render

TEXT = (REPO / "docs" / "kubernetes.md").read_text()
CLI = "\n".join(path.read_text() for path in (REPO / "cli").glob("*.cc"))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
SECRET = ["--set", "auth.existingSecret=slipway-cluster"]  # what the installation set, and the upgrades keep


def test_there_are_commands():
    assert len([c for c in COMMANDS if c.startswith("helm")]) > 10 and len([c for c in COMMANDS if c.startswith("kubectl")]) > 5
    assert all(c.startswith(("helm ", "kubectl ", "slipway ")) for c in COMMANDS)


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("helm install", "helm upgrade"))])
def test_helm_takes_it(command, major):
    words = shlex.split(command)
    assert words[1] == "install" or "--reset-then-reuse-values" in words
    words = [word for word in words[2:] if word != "--reset-then-reuse-values"]
    if major == 3:
        words = [word for word in words if word != "--force-conflicts"]  # it has no such flag and needs none
    assert words[:4] == ["demo", "charts/slipway", "-n", "ml"]
    helm(major, "template", "demo", CHART, *words[2:], *SECRET, "--kube-version", NEWEST)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("kubectl")])
def test_kubectl_names_what_the_chart_makes(command):
    objects = render("registry.backup.enabled=true", "registry.restore.enabled=true", "registry.restore.from=20260131T120000Z")
    kinds = {"deployment": "Deployment", "statefulset": "StatefulSet", "service": "Service", "cronjob": "CronJob"}
    for kind, name in re.findall(r"\b(deployment|statefulset|service|cronjob)[ /](demo[\w-]+)", command):
        assert (kinds[kind], name) in objects
    for claim in re.findall(r"\bpvc ([\w-]+)", command):
        volume, _, pod = claim.partition("-")
        if ("PersistentVolumeClaim", claim) not in objects:
            workload = objects["StatefulSet", pod.removesuffix("-0")]["spec"]
            assert volume in [template["metadata"]["name"] for template in workload["volumeClaimTemplates"]]
    for pod, container in re.findall(r"\b(?:logs|exec)(?: -i)? (demo[\w-]+)-0 -c (\w+)", command):
        spec = objects["StatefulSet", pod]["spec"]["template"]["spec"]
        assert container in [c["name"] for c in spec["containers"] + spec["initContainers"]]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("slipway")])
def test_slipway_has_the_command(command):
    words = shlex.split(command.partition("#")[0])
    assert words[1:3] == ["--server", "http://localhost:8080"]
    names = [word for word in words[3:] if re.fullmatch("[a-z]+", word)]
    assert names and all(f'add_subcommand("{name}"' in CLI for name in names)


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("helm")])
def test_helm_has_the_command_and_its_flags(command, major):
    words = shlex.split(command)[1:]
    if major == 3:
        words = [word for word in words if word != "--force-conflicts"]  # it has no such flag and needs none
    assert words[1] == "demo" and words[words.index("-n") + 1] == "ml"
    usage = re.search(r"^Usage:\n +helm (\w+)", helm(major, *words, "--help").stdout, re.M)  # flags are read before it helps
    assert usage[1] == words[0]


@pytest.mark.parametrize("major", HELMS)
def test_the_check_of_flags_finds_what_it_should(major):
    for words in (["test", "demo", "--log"], ["rollback", "demo", "--keep"], ["uninstall", "demo", "-x"], ["unistall", "demo"]):
        with pytest.raises(Refused, match="unknown"):
            helm(major, *words, "--help")


def test_every_row_of_the_table_has_its_values():
    for key in re.findall(r"^\| `([a-zA-Z.]+)=", TEXT, re.M):
        from test_values import DEFAULTS
        value = DEFAULTS
        for part in key.split("."):
            if part:
                value = value[part]
