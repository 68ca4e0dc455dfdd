"""values.yaml, its schema, its README and what the services really take say the same."""

import json
import re
import subprocess

import pytest
import yaml

import readme
from chart import CHART, REPO, VALUES, Refused, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
# Settings of the services that the chart makes from other values, or that must be as they are.
OWN = {"gateway": {"http-port", "bus-port", "registry", "registry-events", "drain-seconds", "drain-grace-ms"},
       "inferencer": {"gateways", "registry", "registry-events", "cache-dir", "instances", "threads", "drain-seconds"},
       "trainer": {"gateways", "registry", "work-dir", "threads", "checkpoint-seconds", "drain-seconds"},
       "registry": {"data-dir", "backup-dir", "bus-port", "events-port", "drain-seconds"}}
COMMON = {"listen-address", "metrics-port", "announce", "release-id", "cluster-secret"}


def test_the_readme_is_current():
    assert (CHART / "README.md").read_text() == readme.text(), "run ./dev chart --readme"


def leaves(value, path=""):
    if isinstance(value, dict) and value and not re.search(r"(resources|SecurityContext|Probe|fallback|retention)$", path):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}" if path else key)]
    return [path]


def test_every_value_is_described():
    described = {path: comment for path, _, comment in readme.leaves()}
    assert list(described) == leaves(DEFAULTS)
    assert [path for path, comment in described.items() if not comment] == []


def resolve(schema):
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def unlisted(value, schema, path=""):
    """Keys of the values that the schema lacks, and the reverse."""
    schema = resolve(schema)
    if "properties" not in schema or not isinstance(value, dict):
        return []
    wrong = [f"{path}.{key}" for key in value if key not in schema["properties"]]
    if path != "" and value:  # `enabled` of the root is for charts around this one
        wrong += [f"{path}.{key} of the schema" for key in schema["properties"] if key not in value]
    for key, inner in value.items():
        wrong += unlisted(inner, schema["properties"].get(key, {}), f"{path}.{key}")
    return wrong


def test_the_schema_lists_every_value_and_no_other():
    wrong = [entry for entry in unlisted(DEFAULTS, SCHEMA)
             if not re.search(r"(requests|limits|claims|behavior)( of the schema)?$", entry)]
    assert wrong == []


def closed(schema, path="root"):
    schema = resolve(schema)
    if "properties" in schema:
        assert path.startswith("root.global") or schema.get("additionalProperties") is False, path
        for key, inner in schema["properties"].items():
            closed(inner, f"{path}.{key}")


def test_the_schema_leaves_room_for_no_typo():
    closed(SCHEMA)


def options(service):
    """The settings of a service, from its source."""
    found = set()
    for source in (f"services/{service}/main.cc", "lib/base/service.cc"):
        found |= set(re.findall(r'\.add\(\s*"([a-z-]+)"', (REPO / source).read_text()))
    return found


@pytest.mark.parametrize("service", OWN)
def test_config_takes_every_setting_of_its_service(service):
    taken = set(resolve(SCHEMA["properties"][service])["properties"]["config"]["properties"])
    assert options(service) >= OWN[service] | COMMON, "a setting that the chart makes has gone"
    assert taken == options(service) - OWN[service] - COMMON


@pytest.mark.parametrize("service", OWN)
def test_config_refuses_what_the_chart_makes_in_words_of_its_own(service):
    schemas = [resolve(SCHEMA["properties"][service])]
    if service == "inferencer":
        schemas.append(SCHEMA["definitions"]["pool"])
    for schema in schemas:
        pattern, = schema["properties"]["config"]["patternProperties"]
        assert {name for name in options(service) if re.search(pattern, name)} == OWN[service] | COMMON


def test_the_chart_refuses_every_setting_that_it_makes():
    where = {name: service for service in OWN for name in OWN[service] | COMMON}
    for name, service in where.items():
        with pytest.raises(Refused, match=f"{service}.config.{name} is made by the chart"):
            render(f"{service}.config.{name}=1")


def test_what_the_chart_writes_are_settings_of_the_service():
    for (kind, name), thing in render("registry.backup.enabled=true").items():
        if kind == "ConfigMap" and "config.toml" in thing["data"]:
            keys = {line.partition(" = ")[0] for line in thing["data"]["config.toml"].splitlines()}
            assert keys <= options(name.removeprefix("demo-slipway-")), name


def test_the_application_is_this_release():
    release = re.search(r"project\(slipway VERSION ([\d.]+)", (REPO / "CMakeLists.txt").read_text())[1]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == release


def test_yaml_is_tidy():
    rules = "{extends: default, rules: {line-length: {max: 175}, braces: {max-spaces-inside: 0}, document-start: disable, " \
            "comments: {min-spaces-from-content: 1}, indentation: {indent-sequences: whatever}, truthy: {check-keys: false}}}"
    files = [CHART / "Chart.yaml", CHART / "values.yaml", *(CHART / "files").glob("*.yaml"), *VALUES.glob("*.yaml")]
    done = subprocess.run(["yamllint", "--strict", "-d", rules, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
