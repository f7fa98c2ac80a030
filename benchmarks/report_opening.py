"""How soon does a report of 1,000 groups open, beside a page whose charts a library draws?

    python benchmarks/report_opening.py [--rounds 5]

Three pages, each one file: the report, all of it; and three of its charts alone (widths of all groups, a histogram, a line) by
Plotly, and by Vega through Altair (where these are installed; Vega's script comes with vl-convert-python). Chromium opens
them in turns, by selenium; a page is open when all of its charts are drawn and a frame was painted since.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import fxprune
from fxprune.planning.plan import GroupPlan, Plan

FLAGS = (
    "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync "
    "disable-dev-shm-usage"
).split()
HEAD = "<!doctype html><meta charset=utf-8><title>charts</title><script>let left = 3</script>"


def thousand() -> Plan:
    """A made-up plan of 330 residual blocks in 10 stages: 1,000 groups, with scores; half of the channels go."""
    numbers = torch.Generator().manual_seed(0)
    groups: list[GroupPlan] = []

    def group(name: str, size: int, members: list[tuple[str, int, str]]) -> None:
        scores = torch.rand(size, generator=numbers).tolist()
        kept = [c for c in range(size) if scores[c] > 0.5] or [0]
        groups.append(GroupPlan(name, size, "free", "", True, members, kept, scores))

    for stage in range(10):
        stream, blocks = f"stage{stage}.stem.weight", [f"stage{stage}.block{block}.conv" for block in range(33)]
        ends = [(f"{name}4.weight", 0, "producer") for name in blocks] + [(f"{name}1.weight", 1, "consumer") for name in blocks]
        group(stream, 512, [(stream, 0, "producer"), *ends])
        for name in blocks:
            for number in (1, 2, 3):
                own = [(f"{name}{number}.weight", 0, "producer"), (f"{name}{number}.bias", 0, "affine")]
                group(f"{name}{number}.weight", 128, [*own, (f"{name}{number + 1}.weight", 1, "consumer")])
    assert len(groups) == 1000
    options = {"ratio": 0.5, "criterion": "l2", "scope": "global", "normalization": "max"}
    return Plan("Thousand", "0" * 16, options, groups, {}, (10**10, 4 * 10**9), (10**8, 4 * 10**7))


def by_plotly(plan: Plan) -> str:
    import plotly
    from plotly import graph_objects as go

    names, (bins, line) = [g.id for g in plan.groups], _small()
    widths = [go.Bar(x=names, y=[g.size for g in plan.groups]), go.Bar(x=names, y=[len(g.kept) for g in plan.groups])]
    figures = [go.Figure(widths), go.Figure([go.Bar(y=bins)]), go.Figure([go.Scatter(y=line)])]
    charts = "".join(figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures)
    return f"{HEAD}<script>{plotly.offline.get_plotlyjs()}</script>{charts}<script>left = 0</script>"


def by_vega(plan: Plan) -> str:
    import altair as alt
    import vl_convert

    bins, line = _small()
    rows = [{"group": g.id, "when": w, "n": n} for g in plan.groups for w, n in (("before", g.size), ("after", len(g.kept)))]
    charts = [
        alt.Chart(alt.Data(values=rows)).mark_bar().encode(x=alt.X("group:N", sort=None, axis=None), y="n:Q", color="when:N"),
        alt.Chart(alt.Data(values=[{"x": x, "y": y} for x, y in enumerate(bins)])).mark_bar().encode(x="x:O", y="y:Q"),
        alt.Chart(alt.Data(values=[{"x": x, "y": y} for x, y in enumerate(line)])).mark_line().encode(x="x:Q", y="y:Q"),
    ]
    parts = [f"<script type=module>{vl_convert.javascript_bundle()};window.vegaEmbed = vegaEmbed</script>"]
    for number, chart in enumerate(charts):
        call = f"vegaEmbed('#c{number}', {json.dumps(chart.to_dict())}, {{renderer: 'svg'}}).then(() => left--)"
        parts.append(f"<div id=c{number}></div><script type=module>{call}</script>")
    return HEAD + "".join(parts)


def _small() -> tuple[list[float], list[float]]:
    numbers = torch.Generator().manual_seed(1)
    return torch.rand(48, generator=numbers).tolist(), torch.rand(300, generator=numbers).tolist()


def opened(browser: Any, file: Path) -> float:
    """Seconds until all is drawn and painted."""
    start = time.perf_counter()
    browser.get(file.as_uri())
    browser.execute_async_script(
        "const said = arguments[0], drawn = () => typeof left === 'undefined' || left === 0;"
        "const wait = () => requestAnimationFrame(drawn() ? () => said() : wait); wait()"
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    plan = thousand()
    others: dict[str, tuple[str, Callable[[Plan], str]]] = {"Plotly": ("plotly", by_plotly), "Vega": ("vl_convert", by_vega)}
    with tempfile.TemporaryDirectory() as folder:
        files = {"the report": fxprune.report(plan, Path(folder) / "report.html")}
        for name, (package, make) in others.items():
            if find_spec(package) is None:
                print(f"{name} is left out: {package} is not installed")
                continue
            files[name] = Path(folder) / f"{name}.html"
            files[name].write_text(make(plan), encoding="utf-8")
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        browser.set_script_timeout(60)
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, file in files.items():
                seconds[name].append(opened(browser, file))
        browser.quit()
        print("| Charts by | File | Opens in | The first time |\n|---|---|---|---|")
        for name, (first, *rest) in seconds.items():
            size = f"{files[name].stat().st_size / 1e6:.1f} MB"
            print(f"| {name} | {size} | {statistics.median(rest):.2f} s ({min(rest):.2f} to {max(rest):.2f}) | {first:.2f} s |")


if __name__ == "__main__":
    main()
