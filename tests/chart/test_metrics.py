"""The table of docs/metrics.md is what the sources make; alerts and dashboards ask for nothing else, and alerts fire."""

import json
import re
import subprocess

import pytest
import yaml

from chart import CHART, REPO, render

ROW = re.compile(r"^\| `(slipway_\w+)` \| (counter|gauge|histogram) \| ?([^|]*?) ?\| (.+) \|$", re.M)
TABLE = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in
         ROW.findall((REPO / "docs" / "metrics.md").read_text())}
OURS = {"namespace", "pod"}  # labels that Prometheus adds


def rules(*sets):
    return render("metrics.prometheusRule.enabled=true", *sets)["PrometheusRule", "demo-slipway"]["spec"]


RULES = rules("registry.backup.enabled=true")


def made():
    """Name -> kind of every metric, from the sources."""
    found = {}
    for folder in ("lib", "services"):
        for path in sorted((REPO / folder).rglob("*.cc")):
            text = path.read_text()
            for match in re.finditer(r'"(slipway_\w+)"', text):
                builders = re.findall(r"Build(Counter|Gauge|Histogram)|\b(counter|gauge|histogram)\(",
                                      text[max(0, match.start() - 120):match.start()])
                if builders:
                    found[match[1]] = (builders[-1][0] or builders[-1][1]).lower()
                else:  # a Reading: by its name
                    found[match[1]] = "counter" if match[1].endswith("_total") else "gauge"
    return found


def test_the_table_lists_what_there_is():
    assert {name: kind for name, (kind, _) in TABLE.items()} == made()


def names_of(expression):
    """Metric -> labels that an expression asks of it."""
    found = {}
    for name, selector in re.findall(r"(slipway_\w+)(?:\{([^}]*)\})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]~?", selector))
    return found


def check(expression):
    for name, labels in names_of(expression).items():
        base = name if name in TABLE else re.sub(r"_(bucket|sum|count)$", "", name)
        assert base in TABLE, f"{name} is no metric"
        assert name == base or TABLE[base][0] == "histogram", name
        known = TABLE[base][1] | OURS | ({"le"} if name.endswith("_bucket") else set())
        assert labels <= known, f"{name} has no label {labels - known}"
        grouped = {label for group in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expression) for label in group.split(", ")}
        assert name == base and len(names_of(expression)) > 1 or grouped <= known | {"le"}, (name, grouped)


def test_alerts_ask_for_metrics_that_there_are():
    all_rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len(all_rules) > 8
    for rule in all_rules:
        check(rule["expr"])
        assert {"summary", "description"} == rule["annotations"].keys() and rule["labels"]["severity"]


def test_nobody_is_told_of_missing_backups_where_none_are_wanted():
    assert "backup" not in json.dumps(rules())
    assert "> 864000" in json.dumps(rules("registry.backup.enabled=true", "registry.backup.alertAfterSeconds=864000"))


@pytest.mark.parametrize("path", sorted((CHART / "files" / "dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_dashboards_ask_for_metrics_that_there_are(path):
    dashboard = json.loads(path.read_text())
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "namespace"}
    places = set()
    for panel in dashboard["panels"]:
        place = (panel["gridPos"]["x"], panel["gridPos"]["y"])
        assert place not in places and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        places.add(place)
        for target in panel["targets"]:
            check(target["expr"])


def test_dashboards_together_show_what_every_service_counts():
    shown = " ".join(path.read_text() for path in (CHART / "files" / "dashboards").glob("*.json"))
    for service in ("gateway", "inferencer", "trainer", "registry"):
        assert f"slipway_{service}_" in shown


def test_signals_of_autoscalers_are_metrics():
    for files in ("hpa", "pools"):
        for (kind, _), thing in render(files=(files,)).items():
            if kind == "HorizontalPodAutoscaler":
                for metric in thing["spec"]["metrics"]:
                    name = metric.get("object", metric.get("pods", {})).get("metric", {}).get("name")
                    assert name is None or name in TABLE


def promtool(*arguments, **kwargs):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_are_rules_that_fire_and_fall_silent(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    assert "rules found" in promtool("check", "rules", tmp_path / "rules.yaml")
    tests = yaml.safe_load((REPO / "tests" / "chart" / "alerts.test.yaml").read_text())
    tried = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert tried == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}, "an alert without a test"
    (tmp_path / "alerts.test.yaml").write_text(yaml.safe_dump(tests | {"rule_files": ["rules.yaml"]}))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "alerts.test.yaml", cwd=tmp_path)
