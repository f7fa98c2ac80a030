"""The pass over data: what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.statistics import all_scores, assert_close, batches, model

from fxprune.errors import InputError


def test_tensors_pairs_and_mappings_are_batches() -> None:
    net, (first, *_) = model(), batches()
    expected = all_scores(net, [first], ["apoz"])[0]
    for batch in (first[0], [first[0]], list(first), {"x": first[0]}, {"x": first[0], "label": first[1]}):
        assert torch.equal(all_scores(net, [batch], ["apoz"])[0], expected)
    for batch in ({"x": first[0], "target": first[1]}, first):
        assert all_scores(net, [batch], ["aura_mi"])[0].shape == expected.shape


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "no batches"),
        ([{"y": torch.zeros(1)}], "has no 'x'"),
        ([(torch.zeros(1, 3, 8, 8), 1, 2)], "holds 3 inputs"),
        (["image"], "must be a tensor"),
        ([torch.zeros(0, 3, 8, 8)], "no images"),
        ([torch.zeros(1, 3, 8, 8)], "needs labels"),
        ([(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3))], "one class number"),
        ([(torch.zeros(1, 3, 8, 8), torch.tensor([-1]))], "one class number"),
    ],
)
def test_wrong_data_are_refused(data: list[Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        all_scores(model(), data, ["aura_mi"])


def test_a_criterion_that_reads_no_statistics_is_refused() -> None:
    with pytest.raises(InputError, match="score with it directly"):
        all_scores(model(), batches(), ["l1"])


def test_generators_and_loaders() -> None:
    net, data = model(), batches((4, 4, 4))

    def stream() -> Iterator[Any]:
        yield from data

    expected = all_scores(net, data)
    assert_close(all_scores(net, stream(), calibration=10), all_scores(net, data, calibration=10))
    dataset = torch.utils.data.TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))
    assert_close(all_scores(net, torch.utils.data.DataLoader(dataset, 4)), expected)
    assert_close(all_scores(net, data, batches=2), all_scores(net, data[:2]))
    assert_close(all_scores(net, data, progress=True), expected)


def test_labels_beyond_the_classes_are_folded() -> None:
    net, data = model(), batches()
    folded = [(x, y + 3) for x, y in data]
    assert torch.equal(all_scores(net, folded, ["aura_mi"])[0], all_scores(net, data, ["aura_mi"])[0])


# -- ranges of histograms ------------------------------------------------------------------------------------------------------

IN_BINS = ["gap_entropy", "aura_entropy", "aura_mi", "hist_mi", "aura_mi_layer"]


@pytest.mark.parametrize("name", IN_BINS)
def test_ranges_are_those_of_all_images_where_data_can_be_read_again(name: str) -> None:
    """Whatever their order: the brightest images come after the first 64."""
    net, data = model(), [(x * scale, y) for scale, (x, y) in zip((1, 9), batches((70, 6)), strict=True)]
    assert torch.allclose(*(all_scores(net, d, [name])[0] for d in (data, data[::-1])), rtol=1e-6)
    narrow = all_scores(net, data, [name], calibration=64)[0]
    assert not torch.allclose(narrow, all_scores(net, data, [name])[0], rtol=1e-3)
    assert torch.equal(all_scores(net, iter(data), [name])[0], narrow)


def test_ranges_are_those_of_the_batches_that_are_used() -> None:
    net, data = model(), batches((5, 4, 9))
    assert torch.equal(*(all_scores(net, d, ["gap_entropy"], batches=2)[0] for d in (data, data[:2])))


def test_data_that_only_look_as_if_they_could_be_read_again_are_refused() -> None:
    class Once:
        def __init__(self) -> None:
            self.source = iter(batches((5, 4)))

        def __iter__(self) -> Iterator[Any]:
            return self.source

    assert all_scores(model(), Once(), ["apoz"])[0].shape  # needs no ranges
    with pytest.raises(InputError, match=r"once only: pass iter\(data\)"):
        all_scores(model(), Once(), ["gap_entropy"])
    assert all_scores(model(), iter(Once()), ["gap_entropy"])[0].shape


def test_missing_labels_are_said_before_the_data_were_read() -> None:
    seen = []

    class Unlabelled:
        def __iter__(self) -> Iterator[Any]:
            for x, _ in batches((4, 4, 4)):
                seen.append(x)
                yield x

    with pytest.raises(InputError, match="needs labels"):
        all_scores(model(), Unlabelled(), ["hist_mi"])
    assert len(seen) == 1
