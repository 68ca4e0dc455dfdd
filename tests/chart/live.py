"""As much of an API server as `helm template --dry-run=server` and `lookup` ask for: what there is, and one StatefulSet."""

import contextlib
import http.server
import json
import re
import threading


def _plural(kind):
    return re.sub("y$", "ie", kind.lower()) + "s"


def _documents(objects, statefulset):
    """What the server answers, by path."""
    lists, groups = {}, {}
    for version, kind in sorted({(thing["apiVersion"], thing["kind"]) for thing in objects.values()}):
        found = lists.setdefault(version, {"kind": "APIResourceList", "groupVersion": version, "resources": []})
        found["resources"].append({"name": _plural(kind), "singularName": kind.lower(), "namespaced": True, "kind": kind,
                                   "verbs": ["get", "list"]})
        if "/" in version:
            served = {"groupVersion": version, "version": version.partition("/")[2]}
            name = version.partition("/")[0]
            groups[name] = {"name": name, "versions": [served], "preferredVersion": served}
    return {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(groups.values())},
        **{("/apis/" if "/" in version else "/api/") + version: found for version, found in lists.items()},
        "/apis/apps/v1/namespaces/ml/statefulsets/" + statefulset["metadata"]["name"]: statefulset,
    }


@contextlib.contextmanager
def server(objects, statefulset, folder):
    """The path of a kubeconfig for a server that knows the kinds of these objects and has this StatefulSet."""
    documents = _documents(objects, statefulset)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = documents.get(self.path.partition("?")[0])
            body = json.dumps(found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        config = folder / "kubeconfig"
        config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{running.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
        yield config
        running.shutdown()
