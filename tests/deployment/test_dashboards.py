"""etc/grafana/: dashboards that Grafana can load, and that belong together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.grafana import DASHBOARDS, ROOT, asks, load, metric_names, panels

PROVISIONING = ROOT / "etc/grafana/provisioning"
BOARDS = [load(path) for path in DASHBOARDS]
UIDS = {board["uid"] for board in BOARDS}
#: The last version of this schema, https://grafana.com/docs/grafana: what comes after it is another format.
SCHEMA_VERSION = 42
#: Panels that Grafana of today has of its own; "graph", "singlestat" and "table-old" are gone from it.
KINDS = {"timeseries", "stat", "gauge", "bargauge", "table", "state-timeline"}
UNITS = {"short", "none", "percentunit", "s", "bytes", "decbytes", "deckbytes", "reqps"}
VARIABLES = {"job": "j", "node": "n", "instance": "i", "family": "page_faults", "__rate_interval": "1m"}

each_board = pytest.mark.parametrize("board", BOARDS, ids=[path.stem for path in DASHBOARDS])


def test_the_three() -> None:
    """The fleet, one node, and the orchestrator itself, under names that links can rely on."""
    assert {"orchestrator-fleet", "orchestrator-node", "orchestrator-self"} == UIDS


@each_board
def test_of_today(board: dict[str, Any]) -> None:
    """The schema is the present one, without panels that are deprecated, and no id of some other Grafana in it."""
    assert board["schemaVersion"] == SCHEMA_VERSION
    assert "id" not in board
    assert {panel["type"] for panel in panels(board)} <= KINDS


@each_board
def test_the_data_source_is_a_variable(board: dict[str, Any]) -> None:
    """Whatever the data source is called, or wherever it is, the dashboard can be pointed at it."""
    sources = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert sources["datasource"]["query"] == "prometheus"
    expected = {"type": "prometheus", "uid": "${datasource}"}
    users = [*panels(board), *(target for panel in panels(board) for target in panel["targets"])]
    users += [variable for variable in sources.values() if variable["type"] == "query"] + board["annotations"]["list"]
    assert [user for user in users if user["datasource"] != expected] == []


@each_board
def test_panels_can_be_read(board: dict[str, Any]) -> None:
    """Each has a title, a unit, and a description for whoever does not know the metric; each series has a legend."""
    for panel in panels(board):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


@each_board
def test_panels_do_not_overlap(board: dict[str, Any]) -> None:
    """They lie within the 24 columns, each cell of the grid is taken once, and ids are unique."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@each_board
def test_variables_are_defined(board: dict[str, Any]) -> None:
    """No query has a variable that the dashboard does not define, but for those that Grafana itself does."""
    known = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
    assert asks(board, **{name: VARIABLES.get(name, "") for name in known})


@each_board
def test_links_lead_to_dashboards_that_exist(board: dict[str, Any]) -> None:
    """All three are linked by their tag; a click on a node opens the node's."""
    assert board["tags"] == ["orchestratord"]
    assert [(link["type"], link["tags"]) for link in board["links"]] == [("dashboards", ["orchestratord"])]
    assert set(re.findall(r'"/d/([\w-]+)', (ROOT / f"etc/grafana/dashboards/{_stem(board)}.json").read_text())) <= UIDS
    if board["uid"] == "orchestrator-fleet":
        urls = [link["url"] for panel in panels(board) for link in panel["fieldConfig"]["defaults"].get("links", ())]
        assert urls
        assert all(url.startswith("/d/orchestrator-node?") and "&var-node=" in url for url in urls)


def test_provisioning() -> None:
    """The files are of the form that Grafana reads; the dashboards' folder is the one in the instructions."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources/orchestratord.yml").read_text())["datasources"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/orchestratord.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] in (ROOT / "docs/OPERATIONS.md").read_text()


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ('sum by (job, code) (rate(a_total{route=~"/x|y(z)", code!="b"}[$__rate_interval])) > 0', {"a_total"}),
        (
            "a offset 15m unless on (job) b and ignoring (node_id) group_left () c:d:sum > bool 1e3",
            {"a", "b", "c:d:sum"},
        ),
        ("time() - min(a) or vector(0) / (b > 0.5)", {"a", "b"}),
    ],
)
def test_names_are_told_from_the_rest_of_promql(expr: str, names: set[str]) -> None:
    """What the integration test looks for in a real Prometheus are the metrics of an expression, all and only."""
    assert metric_names(expr) == names


def _stem(board: dict[str, Any]) -> str:
    return Path(DASHBOARDS[BOARDS.index(board)]).stem
