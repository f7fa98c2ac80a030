"""The accuracy in a ``--report``: on images of ``--data`` that the slim model was not made from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_repair_command import NET, run

import fxprune
from fxprune.inputs.data import load_data
from fxprune.inputs.samples import Batches, Loader, Samples

torch.set_num_threads(1)
COUNT = 120


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A model, and images whose labels are what the model says of all but every fifth."""
    pytest.importorskip("jinja2")
    Path(tmp_path, "nets.py").write_text(NET)
    images = np.random.default_rng(0).normal(size=(COUNT, 3, 6, 6)).astype("f")
    with torch.no_grad():
        labels = dense()(torch.from_numpy(images)).argmax(1).numpy()
    labels[::5] = (labels[::5] + 1) % 4
    np.savez(tmp_path / "images.npz", inputs=images, labels=labels)
    return f"{tmp_path}/nets.py:net", f"{tmp_path}/images.npz"


def dense() -> Any:
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    return namespace["net"]().eval()


def tile(file: Path) -> dict[str, Any] | None:
    text = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', file.read_text(), re.DOTALL)
    assert text is not None
    return next((t for t in json.loads(text[1])["tiles"] if t["name"] in ("Accuracy", "Same answer")), None)


def expected(data: str, slim: Any, skip: int) -> tuple[float, float]:
    """Accuracy of both on the images after the first that are drawn."""
    loader = load_data(data, dense(), skip=skip)
    right = [torch.cat([(m(x).argmax(1) == y).float() for x, y in loader]).mean().item() for m in (dense(), slim)]
    return right[0], right[1]


@pytest.mark.slow
@torch.no_grad()
def test_pruned_and_repaired(files: tuple[str, str], capsys: Any, tmp_path: Path) -> None:
    net, data = files
    out, file = tmp_path / "slim", tmp_path / "report.html"
    given = [
        "prune",
        net,
        "--ratio",
        0.5,
        "--input-size",
        "3x6x6",
        "--no-verify",
        "--data",
        data,
        "--report",
        file,
        "--out",
        out,
    ]
    code, _, _ = run(capsys, *given, "--repair", 80)
    found = tile(file)
    assert code == 0 and found is not None and "top-1 on 40 images" in found["note"]
    assert (found["before"], found["after"]) == pytest.approx(expected(data, fxprune.load(out), 80))
    code, _, _ = run(capsys, *given)  # of l2, which looks at no image
    assert code == 0 and (found := tile(file)) is not None and f"on {COUNT} images" in found["note"]
    for options, said in (
        (("--repair", COUNT), f"which are no more than {COUNT}"),
        (("--criterion", "apoz"), "--batches N leaves others"),
    ):
        code, _, err = run(capsys, *given, *options)
        assert code == 0 and said in " ".join(err.split()) and tile(file) is None
    code, _, _ = run(capsys, *given, "--criterion", "apoz", "--batches", 1)
    assert code == 0 and (found := tile(file)) is not None and f"on {COUNT - 64} images" in found["note"]


@torch.no_grad()
def test_repaired_and_applied(files: tuple[str, str], capsys: Any, tmp_path: Path) -> None:
    net, data = files
    out, file, fixed = tmp_path / "slim", tmp_path / "report.html", tmp_path / "fixed"
    run(capsys, "prune", net, "--ratio", 0.5, "--input-size", "3x6x6", "--no-verify", "--out", out)
    given = ["repair", net, "--slim", out, "--data", data, "--input-size", "3x6x6", "--images", 80, "--out", fixed]
    code, text, _ = run(capsys, *given, "--report", file, "--json")
    found, document = (
        tile(file),
        json.loads(file.read_text().split('type="application/json"')[1].split(">", 1)[1].split("</script>")[0]),
    )
    assert code == 0 and found is not None and document["verdict"]["status"] == "proved" and json.loads(text)["checks"]
    assert (found["before"], found["after"]) == pytest.approx(expected(data, fxprune.load(fixed), 80))
    code, text, _ = run(capsys, *given[:-1], tmp_path / "again", "--no-verify", "--json")
    assert code == 0 and json.loads(text)["checks"] is None
    code, _, _ = run(capsys, "apply", net, out, "--data", data, "--report", file)
    assert code == 0 and (found := tile(file)) is not None and f"on {COUNT} images" in found["note"]
    code, _, err = run(capsys, "apply", net, out, "--data", data)
    assert code == 2 and "name its file with --report" in err


def test_what_cannot_be_measured_is_said_and_the_report_is_there(files: tuple[str, str], capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    np.savez(tmp_path / "wrong.npz", inputs=np.zeros((9, 3, 6, 6), "f"), labels=np.full(9, 17))
    given = ["prune", files[0], "--ratio", 0.5, "--input-size", "3x6x6", "--no-verify", "--report", file]
    code, _, err = run(capsys, *given, "--data", tmp_path / "wrong.npz")
    assert code == 0 and "the report has no accuracy: " in err and tile(file) is None
    np.savez(tmp_path / "bare.npz", inputs=np.ones((9, 3, 6, 6), "f"))
    code, _, _ = run(capsys, *given, "--data", tmp_path / "bare.npz")
    assert code == 0 and (found := tile(file)) is not None and found["name"] == "Same answer"


def test_what_is_skipped_is_what_a_limit_takes() -> None:
    samples = Samples(lambda numbers: torch.tensor(numbers), None, 10, "ten numbers")
    taken, left = (torch.cat([x for (x,) in Loader(samples, 4, **kind)]).tolist() for kind in ({"limit": 6}, {"skip": 6}))
    assert sorted(taken + left) == [*range(10)] and len(left) == 4
    assert torch.cat([x for (x,) in Loader(samples, 4, limit=3, skip=6)]).tolist() == left[:3]
    batches = [torch.full((4,), float(number)) for number in range(5)]
    first, rest, some = (
        [b[0].item() for b in Batches(lambda: batches, limit, skip=skip)] for limit, skip in ((6, 0), (None, 6), (4, 6))
    )
    assert (first, rest, some) == ([0, 1], [2, 3, 4], [2])
