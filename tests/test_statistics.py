"""The pass over data: its sums add up, and the model stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.statistics import SOME, all_scores, assert_close, batches, model, scores

import fxprune
from fxprune import criteria
from fxprune.errors import InputError
from fxprune.statistics import Statistics

# -- sums ------------------------------------------------------------------------------------------------------------------


def test_the_split_into_batches_does_not_matter() -> None:
    net, (whole,) = model(), batches((12,))
    parts = [(whole[0][:5], whole[1][:5]), (whole[0][5:6], whole[1][5:6]), (whole[0][6:], whole[1][6:])]
    names = [n for n in SOME if n != "taylor"]  # the gradient of a batch's mean loss is that of the batch
    for a, b in zip(all_scores(net, parts, names), all_scores(net, [whole], names), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-8)


def test_one_pass_for_many_criteria_equals_one_each() -> None:
    net, data = model(), batches()
    assert_close(all_scores(net, data), [all_scores(net, data, [n])[0] for n in SOME])


def test_memory_does_not_grow_with_images() -> None:
    net = model()
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    made = [criteria.resolve(n) for n in SOME]
    statistics = Statistics(net, analysis, made)  # type: ignore[arg-type]
    statistics.update(batches((4,)))
    before = {k: v.shape for k, v in statistics.state_dict().items()}
    statistics.update(batches((6, 6, 6)))
    assert {k: v.shape for k, v in statistics.state_dict().items()} == before
    assert int(statistics.state_dict()["images"]) == 22


def test_a_pass_resumes_from_a_file(tmp_path: Any) -> None:
    net, data = model(), batches((4, 3, 5))
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    one = Statistics(net, analysis, [criteria.resolve(n) for n in SOME], calibration=4)  # type: ignore[misc]
    one.update(data[:1])
    save_file(one.state_dict(), tmp_path / "state.safetensors")
    made = [criteria.resolve(n) for n in SOME]
    two = Statistics(net, analysis, made)  # type: ignore[arg-type]
    two.load_state_dict(load_file(tmp_path / "state.safetensors"))
    two.update(data[1:])
    two.finish()
    assert_close([scores(m, net, analysis) for m in made], all_scores(net, data, calibration=4))


def test_states_of_shares_add_up() -> None:
    net, data = model(), batches((4, 3, 5))
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))

    def fresh() -> tuple[list[Any], Statistics]:
        made = [criteria.resolve(n) for n in SOME]
        return made, Statistics(net, analysis, made, calibration=4)  # type: ignore[arg-type]

    made, first = fresh()
    first.update(data[:1])
    _, second = fresh()
    second.store.ranges = dict(first.store.ranges)
    second.update(data[1:])
    first.merge(second.state_dict())
    first.finish()
    assert_close([scores(m, net, analysis) for m in made], all_scores(net, data, calibration=4))
    _, alone = fresh()
    alone.update(data[1:])
    with pytest.raises(InputError, match="calibrated on different data"):
        first.merge(alone.state_dict())
    other = Statistics(net, analysis, [criteria.resolve("apoz")])  # type: ignore[list-item]
    other.update(data)
    with pytest.raises(InputError, match="other criteria"):
        first.merge(other.state_dict())
    with pytest.raises(InputError, match="damaged"):
        first.load_state_dict({"images": torch.tensor(1), "nonsense": torch.zeros(1)})


# -- the model stays as it is ----------------------------------------------------------------------------------------------


def test_the_model_is_left_alone() -> None:
    net = model().train()
    before = copy.deepcopy(net.state_dict())
    all_scores(net, batches())
    assert net.training and net.norm1.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_evaluation_is_observed_whatever_the_mode() -> None:
    net, data = model(), batches()
    assert_close(all_scores(net.train(), data), all_scores(net.eval(), data))


def test_autocast_changes_scores_a_little() -> None:
    net, data = model(), batches()
    exact, rough = (all_scores(net, data, ["wanda", "taylor"], autocast=a) for a in (None, torch.bfloat16))
    for a, b in zip(exact, rough, strict=True):
        assert torch.allclose(a, b, rtol=0.2, atol=0.05) and not torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores() -> None:
    net, data = model(), batches()
    expected = all_scores(net, data)
    for a, b in zip(all_scores(copy.deepcopy(net).cuda(), data), expected, strict=True):
        assert torch.allclose(a.cpu(), b, rtol=1e-2, atol=1e-3)


# -- several processes -----------------------------------------------------------------------------------------------------


def share(rank: int, world: int, port: int, folder: str, calibration: int | None) -> None:
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    found = all_scores(model(), batches((4, 4, 4, 4))[rank::world], calibration=calibration)
    torch.distributed.destroy_process_group()
    save_file({str(i): s for i, s in enumerate(found)}, f"{folder}/{rank}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [8, None], ids=["ranges of the first images", "ranges of all images"])
def test_two_processes_equal_one(tmp_path: Any, calibration: int | None) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(share, (2, port, str(tmp_path), calibration), nprocs=2)
    torch.manual_seed(0)
    expected = all_scores(model(), batches((4, 4, 4, 4)), calibration=calibration)
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert_close([found[str(i)] for i in range(len(SOME))], expected)
