"""The HTML report: its document says what plan and report say, and its page what the document says."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from support.reported import Net
from torch import nn

import fxprune
from fxprune.cli.app import main
from fxprune.errors import InputError, PruneError
from fxprune.planning.repaired import Repaired, SiteRepair
from fxprune.planning.validation import Against, Difference, Estimate, Figures, Validation
from fxprune.reporting.document import document_of
from fxprune.reporting.page import page_of

X = torch.zeros(2, 3, 6, 6)
MINUS = "\N{MINUS SIGN}"
HOSTILE = (
    "</script><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "&lt;b&gt;'",
)


class Page(HTMLParser):
    """Elements of a page with their attributes, the text of tiles, and the document that is embedded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.document: Any = None
        self.policy, self._tile, self._data = "", "", False
        self.tiles: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if "http-equiv" in found:
            self.policy = found["content"] or ""
        self._tile = found.get("data-tile") or ("" if tag == "section" else self._tile)
        self._data = found.get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self._data:
            self.document, self._data = json.loads(data), False
        elif self._tile and data.strip():
            self.tiles.setdefault(self._tile, []).append(data.strip())


@pytest.fixture(scope="module")
def slim() -> Any:
    return fxprune.prune(Net().eval(), 0.5, X, max_ratio=0.75)


@pytest.fixture
def found(slim: Any) -> dict[str, Any]:
    report = slim.meta["fxprune"]
    return document_of(report.plan, report)


def test_figures_are_those_of_plan_and_report(slim: Any, found: dict[str, Any]) -> None:
    report = slim.meta["fxprune"]
    tiles = {tile["name"]: tile for tile in found["tiles"]}
    values = {name: (tile["before"], tile["after"]) for name, tile in tiles.items()}
    assert values["MACs"] == (report.macs_before, report.macs_after)
    assert values["Parameters"] == (report.params_before, report.params_after)
    assert values["Peak memory"] == report.memory == (report.plan and fxprune.analyze(Net(), X).cut().memory, report.memory[1])
    assert values["Channels"] == (20, 10)
    share = report.macs_after / report.macs_before
    assert tiles["MACs"]["share"] == share and tiles["MACs"]["change"] == f"{100 * (1 - share):.1f} % less"
    for group, told in zip(report.plan.groups, found["groups"], strict=True):
        assert (told["id"], told["size"], told["kept"]) == (group.id, group.size, len(group.kept))
        assert sorted(map(tuple, told["members"])) == sorted(group.members)
    assert found["verdict"]["status"] == "proved" and [c["status"] for c in found["certificates"]] == ["ok", "none", "ok"]
    assert found["certificates"][2]["error"] == report.checks.masked_error


def test_page_shows_the_document(found: dict[str, Any]) -> None:
    text = page_of(found)
    page = Page(text)
    assert page.document == found
    for tile in found["tiles"]:
        assert page.tiles[tile["name"]][1:3] == [tile["after_text"], f"from {tile['before_text']}"]
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "data-g" in attributes]
    bars = [attributes for tag, attributes in page.elements if tag == "g" and "data-g" in attributes]
    assert len(rows) == len(bars) == len(found["groups"]) == 3
    assert bars[0]["aria-label"] == f"stem.weight: {found['groups'][0]['kept']} of 8 channels, pruned"
    assert page_of(found) == text


def test_page_needs_no_network(found: dict[str, Any]) -> None:
    text = page_of(found)
    assert re.findall(r"https?://[^\s\"'<]*", text) == ["http://www.w3.org/2000/svg"]  # a name of SVG, which no browser loads
    assert not re.search(r"@import|url\(|<link|<iframe|<img|\bfetch\(|XMLHttpRequest|\bimport\(", text)
    for tag, attributes in Page(text).elements:
        assert "src" not in attributes and "xlink:href" not in attributes
        assert (attributes.get("href") or "#").startswith("#"), tag
    assert Page(text).policy.startswith("default-src 'none'; script-src 'sha256-")


def test_names_are_text_and_nothing_else(slim: Any) -> None:
    """Whatever a module is called, the page has the same elements and attributes."""

    report = slim.meta["fxprune"]
    for text in (*HOSTILE, "\ud800 half", "\u2028\u202e\0"):
        groups = [
            replace(g, id=text + g.id, reason=text, members=[(text + n, a, r) for n, a, r in g.members])
            for g in report.plan.groups
        ]
        plan = replace(
            report.plan,
            model=text,
            groups=groups,
            whole={text: text},
            fingerprint=text,
            options={text: text, "criterion": text},
        )
        report_of = replace(report, plan=plan, notes=[text], counters={text: {text: 1}}, seconds={text: 1.0})
        report_of.repair = Repaired([SiteRepair(text, "layer", 0.5, 0.1, text)], (8, 2), 0.5, 0.1, left={text: text})
        page = Page(page_of(document_of(plan, report_of)))
        names = [tag for tag, _ in page.elements]
        assert names.count("script") == 2 and "img" not in names and "b" not in names[: names.index("main")]
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert page.document["model"] == text and page.document["groups"][0]["reason"] in (text, "")


def test_model_with_hostile_names(tmp_path: Path) -> None:
    """From the model to the file."""
    names = [HOSTILE[0], HOSTILE[2], HOSTILE[3]]  # a quote is refused when the model is recorded
    net = nn.Sequential()
    for name, layer in zip(names, (nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), strict=True):
        net.add_module(name, layer)
    page = Page(fxprune.report(fxprune.plan(net, 0.5, torch.zeros(1, 3)), tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.document["groups"][0]["id"] == f"{names[0]}.weight"
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_what_stayed_is_told_by_reason(slim: Any) -> None:
    plan = fxprune.plan(Net(), {"inner": 0.5}, X, ignore=["stem"])
    told = {(entry["status"], entry["reason"]): entry["names"] for entry in document_of(plan)["whole"]}
    assert told[("frozen", "part of the model's output")] == ["head.weight"]
    assert [names for (status, _), names in told.items() if status == "protected"] == [["stem.weight"]]
    assert ("outside", "part of the model's output") in told
    assert document_of(plan)["verdict"]["status"] == "planned" and not document_of(plan)["certificates"]


def test_budgets_say_which_binds() -> None:
    plan = fxprune.plan(Net(), example_inputs=X, macs=0.5, params=0.9)
    rows = {row["name"]: row for row in document_of(plan)["budgets"]["rows"]}
    assert plan.account is not None
    for budget, row in zip(plan.account.budgets, rows.values(), strict=True):
        assert (row["before"], row["target"], row["after"]) == (budget.before, budget.target, budget.after)
        assert row["binds"] == (budget.after >= 0.99 * budget.target)
    assert not rows["Parameters"]["binds"]


def test_limits_name_the_groups_that_gave_all() -> None:
    plan = fxprune.plan(Net(), 0.7, X, max_ratio=0.75)
    least = [g.id for g in plan.groups if g.status == "free" and len(g.kept) == g.size // 4]
    assert least and document_of(plan)["limits"]["names"] == least


def test_failed_and_missing_proofs_are_told(slim: Any) -> None:
    report = slim.meta["fxprune"]
    failed = replace(report, checks=replace(report.checks, masked_error=1.0))
    told = document_of(report.plan, failed)
    assert told["verdict"]["status"] == "failed" and told["certificates"][2]["status"] == "failed"
    assert document_of(report.plan, replace(report, checks=None))["verdict"]["status"] == "unproved"


def test_weights_that_changed_later_are_told(slim: Any) -> None:
    report = slim.meta["fxprune"]
    sites = [SiteRepair("a", "layer", 0.1, 0.001), SiteRepair("b", "norm", float("nan"), None, "why")]
    later = replace(report, repair=Repaired(sites, (8, 2), 0.5, 0.1), finetuning={"epochs": [{"epoch": 1, "loss": 0.25}]})
    told = document_of(report.plan, later)
    assert told["verdict"]["text"].endswith("its weights were repaired and trained.")
    assert told["repair"]["sites"][0]["y"] == [1.0, 0.0] and told["repair"]["sites"][1]["before"] is None
    assert told["training"] == {"columns": ["epoch", "loss"], "rows": [["1", "0.25"]]}
    kept = replace(report, repair=Repaired([], (8, 2), 0.5, 0.6, kept="it was no gain"))
    assert document_of(report.plan, kept)["verdict"] == document_of(report.plan, report)["verdict"]


def test_accuracy_is_that_of_the_validation(slim: Any, tmp_path: Path) -> None:
    against = Against(top1=Difference(-0.02, -0.03, -0.01))
    both = [Figures("dense", 10, 10, top1=Estimate(0.9)), Figures("slim", 5, 5, top1=Estimate(0.88), against=against)]
    seen = Validation("Net", both[0], (both[1],), 1000, True, 0.95, 15, 1, "cpu")
    page = Page(fxprune.report(slim, tmp_path / "r.html", validation=seen).read_text(encoding="utf-8"))
    assert page.tiles["Accuracy"][1:4] == ["88.0 %", "from 90.0 %", f"{MINUS}2.00 points"]
    assert f"{MINUS}3.00 to {MINUS}1.00" in page.tiles["Accuracy"][4]
    with pytest.raises(InputError, match="of one slim model"):
        fxprune.report(slim, tmp_path / "r.html", validation=replace(seen, slim=(both[1], both[1])))


def test_bad_requests_are_one_sentence(slim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for what in (Net(), None, "plan.json", {}):
        with pytest.raises(InputError, match="a report is of what prune"):
            fxprune.report(what, tmp_path / "r.html")
    for path in (tmp_path / "r.pdf", tmp_path, 3, "r\0.html"):
        with pytest.raises(InputError):
            fxprune.report(slim, path)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(PruneError, match=r'pip install "fxprune\[report\]"'):
        fxprune.report(slim, tmp_path / "r.html")
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))\n"
    )

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["prune", f"{tmp_path / 'nets.py'}:net", "--input-size", "3", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_command_writes_a_report(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "there" / "report.html"
    code, out, _ = run("--ratio", 0.5, "--report", file, "--json")
    assert code == 0 and json.loads(out)["written"] == [str(file)]
    page = Page(file.read_text(encoding="utf-8"))
    assert page.document["state"] == "pruned"
    told = {tile["name"]: [tile["before"], tile["after"]] for tile in page.document["tiles"]}
    assert [told["MACs"], told["Parameters"], told["Peak memory"]] == [
        json.loads(out)[key] for key in ("macs", "params", "memory")
    ]
    code, out, _ = run("--ratio", 0.5, "--plan-only", "--report", file)
    assert code == 0 and f"wrote {file}" in out and Page(file.read_text(encoding="utf-8")).document["state"] == "planned"


def test_applied_plans_have_a_report(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, file = fxprune.plan(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), 0.5, torch.zeros(1, 3)), tmp_path / "r.html"
    (tmp_path / "plan.json").write_text(plan.to_json())
    with pytest.raises(SystemExit) as stopped:
        main(["apply", f"{tmp_path / 'nets.py'}:net", str(tmp_path / "plan.json"), "--report", str(file)])
    assert not stopped.value.code and f"wrote {file}" in capsys.readouterr().out
    assert Page(file.read_text(encoding="utf-8")).document["verdict"]["status"] == "proved"


def test_command_says_what_is_missing_before_it_works(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.cli.prune.build", lambda *_: pytest.fail("work had begun"))
    code, _, err = run("--ratio", 0.5, "--report", tmp_path / "report.pdf")
    assert code == 2 and "a report is an HTML file" in err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, err = run("--ratio", 0.5, "--report", tmp_path / "report.html")
    assert code == 1 and "jinja2" in err
