"""Metrics are told, documented and used under the same names: by services, dashboard, alert rules and the page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import kakuremichi_gateway.metrics
import kakuremichi_keyring.metrics
import kakuremichi_portal.metrics
import kakuremichi_registry.metrics
from kakuremichi.node import metrics as node
from kakuremichi.runtime.metrics import Family, exposition

ROOT = Path(__file__).resolve().parents[3]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/kakuremichi.json"

FAMILIES: dict[str, Family] = {
    family.name: family
    for families in (
        kakuremichi_portal.metrics.FAMILIES,
        kakuremichi_registry.metrics.FAMILIES,
        kakuremichi_keyring.metrics.FAMILIES,
        kakuremichi_gateway.metrics.FAMILIES,
        node.FAMILIES,
    )
    for family in families
}
OF_THE_PROCESS = set(re.findall(r"^# TYPE (\w+)", exposition(()).decode(), re.MULTILINE))
FUNCTIONS = {"sum", "max", "by", "rate", "increase", "histogram_quantile", "le"}
NO_METRICS = re.compile(r"\{[^}]*\}|\bby\s*\([^)]*\)|\[[^\]]*\]|\"[^\"]*\"")


def suffixed(family: Family) -> set[str]:
    if family.kind != "histogram":
        return {family.name}
    return {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}


TOLD = OF_THE_PROCESS | {name for family in FAMILIES.values() for name in suffixed(family)}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b[a-z_][a-z0-9_:]+\b", NO_METRICS.sub(" ", expression))) - FUNCTIONS


def labels_in(expression: str) -> set[str]:
    matched = re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    grouped = [name.strip() for group in re.findall(r"\bby\s*\(([^)]*)\)", expression) for name in group.split(",")]
    return {*matched, *grouped}


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda text: text.replace(" ", "-")[:60])
def test_alerts_and_dashboard_use_metrics_and_labels_that_are_told(where: str, expression: str) -> None:
    used = metrics_in(expression)
    assert used, f"{where}: names no metric"
    assert used <= TOLD, f"{where}: {sorted(used - TOLD)} are told by nobody"
    known = {"instance", "job", "le"}
    for family in FAMILIES.values():
        if suffixed(family) & used:
            known |= set(family.labels)
    assert labels_in(expression) <= known, f"{where}: {sorted(labels_in(expression) - known)} are no labels of these"


def test_the_page_lists_every_metric_as_it_is_told_and_no_other() -> None:
    text = (ROOT / "docs/observability.md").read_text()
    rows = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    }
    assert rows == {name: (family.kind, family.labels) for name, family in FAMILIES.items()}


def test_names_follow_prometheus_rules_and_labels_name_no_visitor() -> None:
    for family in FAMILIES.values():
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert not {"visitor", "address", "source", "client", "host", "path"} & set(family.labels), family.name


def test_panels_do_not_share_an_id_and_alerts_say_what_to_do() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
            assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
