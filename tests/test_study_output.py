"""Studies as text, JSON and pictures."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from support.study import X, plain, plain_study

import fxprune
from fxprune.errors import InputError, PruneError
from fxprune.studies import Study, plots


def test_json_round_trip():
    text = plain_study().to_json()
    again = Study.from_json(text)
    assert again == plain_study()
    assert again.to_json() == text
    assert json.loads(text)["format"] == "fxprune-study"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "not a study"),
        ('{"format": "fxprune-study", "version": 9}', "version 9"),
        ('{"format": "fxprune-study", "version": 1}', "damaged"),
    ],
)
def test_damaged_json(text, message):
    with pytest.raises(InputError, match=message):
        Study.from_json(text)


def test_text_tells_every_pair_and_layer():
    text = str(plain_study())
    for words in ("l1, l2", "fpgm, fermat", "Similarity", "Applicability", "conv3", "Gaussian 3 of 3"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


def test_unknown_criterion_of_a_study():
    with pytest.raises(InputError, match="did you mean 'fpgm'"):
        plain_study().of("fpgn")
    with pytest.raises(InputError, match="two criteria"):
        plain_study().pair("l1", "l1")


def test_pictures_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    drawn = plots.figures(plain_study())
    assert list(drawn) == ["similarity", "layers", "scores"]
    written = plots.save({"similarity": drawn.pop("similarity")}, tmp_path)
    written += plots.save(drawn, tmp_path, ["svg"])
    assert [p.name for p in written] == ["similarity.png", "similarity.svg", "layers.svg", "scores.svg"]
    for path in written:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in start
    again = plots.figures(Study.from_json(plain_study().to_json()))
    read = plots.save({"similarity": again["similarity"]}, tmp_path / "again")
    assert [p.read_bytes() for p in read] == [p.read_bytes() for p in written[:2]]


def test_pictures_of_one_criterion_and_of_equal_scores(tmp_path):
    pytest.importorskip("matplotlib")
    study = fxprune.study(plain(), [lambda group, tensors: torch.zeros(64)], X, weights=False)
    assert [p.name for p in plots.save(plots.figures(study), tmp_path, ["png"])] == ["scores.png"]
    plots.layers(fxprune.study(plain(), ["l1", lambda group, tensors: torch.zeros(64)], X, weights=False))
    with pytest.raises(InputError, match="formats"):
        plots.save({}, tmp_path, ["gif"])


def test_pictures_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PruneError, match=r"fxprune\[plot\]"):
        plots.figures(plain_study())
