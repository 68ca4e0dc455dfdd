"""Checks objects as an API server with fieldValidation=Strict does: by Kubernetes' own description of its API and by the
definitions of custom resources. What they do not list is an error."""

import functools
import json

import jsonschema
import yaml

from chart import KUBERNETES, TOOLS, Loader

CRDS = {
    "keda.sh": "github.com-kedacore-keda-v2@v2.21.0/config/crd/bases",
    "gateway.networking.k8s.io": "sigs.k8s.io-gateway-api@v1.4.1/config/crd/standard",
}
ELSEWHERE = {"monitoring.coreos.com"}  # by their Go types: tests/chart/go/manifests


def closed(schema):
    """The schema with no room for unknown keys, and with the API's two shapes of number."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: {name: closed(part) for name, part in value.items()} if key in ("properties", "definitions")
              else value if key in ("enum", "default", "required", "pattern", "description") else closed(value)
              for key, value in schema.items() if key not in ("format", "default", "description")}
    if "properties" in schema and "additionalProperties" not in schema and \
            not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    return result


@functools.cache
def core(version):
    path = TOOLS / f"k8s.io-kubernetes@{version}" / "api" / "openapi-spec" / "swagger.json"
    definitions = closed(json.loads(path.read_text())["definitions"])
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    kinds = {}
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            kinds[kind["group"], kind["version"], kind["kind"]] = name
    return definitions, kinds


@functools.cache
def custom(group):
    schemas = {}
    for path in sorted((TOOLS / CRDS[group]).glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), Loader):
            if not document or document["kind"] != "CustomResourceDefinition":
                continue
            for version in document["spec"]["versions"]:
                schema = closed(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                schemas[version["name"], document["spec"]["names"]["kind"]] = schema
    return schemas


@functools.cache
def validator(kube, group, version, kind):
    if group in CRDS:
        return jsonschema.Draft7Validator(custom(group)[version, kind])
    definitions, kinds = core(KUBERNETES[kube])
    return jsonschema.Draft7Validator(
        {"$ref": f"#/definitions/{kinds[group, version, kind]}", "definitions": definitions})


def errors(thing, kube):
    group, _, version = thing["apiVersion"].rpartition("/")
    if group in ELSEWHERE:
        return []
    found = validator(kube, group, version, thing["kind"]).iter_errors(thing)
    return [f"{thing['kind']} {thing['metadata']['name']}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
            for error in found]
