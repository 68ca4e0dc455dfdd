"""Renders the chart as its users do, with a real Helm."""

import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

import yaml

REPO = pathlib.Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "slipway"
VALUES = pathlib.Path(__file__).with_name("values")
TOOLS = pathlib.Path(os.environ["SLIPWAY_CHART_TOOLS"])
HELMS = (4, 3)
KUBERNETES = {"1.30.0": "v1.30.14", "1.34.4": "v1.34.4"}  # the chart's oldest and a new one, and whose fields to check by
NEWEST = list(KUBERNETES)[-1]
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Helm shall see no settings of the person who runs this.
_home = tempfile.TemporaryDirectory()
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": _home.name, "LANG": "C.UTF-8"}


class Refused(Exception):
    """Helm did not render; the text is what it said."""


def helm(major, *arguments, check=True, **kwargs):
    done = subprocess.run([TOOLS / f"helm{major}", *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env={**ENVIRONMENT, **kwargs.pop("env", {})}, **kwargs)
    if check and done.returncode != 0:
        raise Refused(done.stderr)
    return done


@functools.cache
def _render(major, kube, arguments, chart):
    done = helm(major, "template", "demo", chart, "--namespace", "ml", "--kube-version", kube, *arguments)
    return done.stdout


def arguments_of(sets=(), files=(), apis=()):
    return (*(word for name in ("base", *files) for word in ("--values", str(VALUES / f"{name}.yaml"))),
            *(word for pair in sets for word in ("--set", pair)), *(word for api in apis for word in ("--api-versions", api)))


def text(*sets, files=(), apis=(), kube=NEWEST, major=4, chart=CHART):
    return _render(major, kube, arguments_of(sets, files, apis), chart)


def render(*sets, **kwargs):
    """The objects, by kind and name."""
    objects = {}
    for document in yaml.load_all(text(*sets, **kwargs), Loader):
        if document:
            key = document["kind"], document["metadata"]["name"]
            assert key not in objects, f"twice: {key}"
            objects[key] = document
    return objects


@functools.cache
def _chart_with_visible_notes():
    """Helm shows notes of an installation only, and Helm 3 wants a cluster even to try one: here they are an object."""
    folder = pathlib.Path(_home.name) / "slipway"
    shutil.copytree(CHART, folder)
    shutil.copy(CHART / "templates" / "NOTES.txt", folder / "files" / "notes")
    (folder / "templates" / "notes.yaml").write_text(
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {text: {{ tpl (.Files.Get "files/notes") . | toJson }}}\n')
    return folder


def notes(*sets, **kwargs):
    return render(*sets, chart=_chart_with_visible_notes(), **kwargs)["ConfigMap", "notes"]["data"]["text"]


def pod_template(workload):
    spec = workload["spec"]
    return (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]


def pods(objects):
    """Every pod spec with the object that makes it."""
    for thing in objects.values():
        if thing["kind"] == "Pod":
            yield thing, thing["metadata"], thing["spec"]
        elif thing["kind"] in ("Deployment", "StatefulSet", "CronJob"):
            yield thing, pod_template(thing)["metadata"], pod_template(thing)["spec"]


def changes(before, after):
    """Keys of the objects that differ, came or went."""
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
