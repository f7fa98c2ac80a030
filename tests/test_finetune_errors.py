"""Fine-tuning refuses what is wrong in one sentence, before any work."""

from __future__ import annotations

import sys

import pytest
import torch
from support.finetuning import Net, data
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import fxprune
from fxprune.recovery.finetune.data import batches_of
from fxprune.recovery.finetune.options import FinetuneOptions

pytest.importorskip("accelerate", reason="needs the extra `train`")

QUICK = {"batch_size": 6, "epochs": 2, "device": "cpu", "progress": False}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"lr": 0}, "lr must be a number above 0, not 0"),
        ({"lr": float("nan")}, "lr must be a number above 0, not nan"),
        ({"lr": float("inf")}, "lr must be a number above 0, not inf"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"momentum": 1}, "momentum must be a number from 0 and below 1, not 1"),
        ({"momentum": 0}, "nesterov needs a momentum"),
        ({"label_smoothing": -0.1}, "label_smoothing must be a number from 0 and below 1"),
        ({"mix_prob": 1.1}, "mix_prob must be a number from 0 to 1, not 1.1"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"clip_norm": 0}, "clip_norm must be a number above 0, or None"),
        ({"optimizer": "adam"}, r"optimizer must be 'sgd' or 'adamw', not 'adam' \(did you mean 'adamw'\?\)"),
        ({"schedule": "step"}, "schedule='step' and milestones"),
        ({"milestones": (1,)}, "schedule='step' and milestones"),
        ({"milestones": (3, 2), "schedule": "step"}, "milestones must rise"),
        ({"milestones": 3, "schedule": "step"}, "milestones must be a list"),
        ({"lr_min": 1.0}, "lr_min must be at most lr"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"flip": "yes"}, "flip must be True or False"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number of at least 1"),
        ({"precision": "fp8"}, "precision must be"),
    ],
)
def test_options_are_checked(given: dict, sentence: str) -> None:
    with pytest.raises(fxprune.InputError, match=sentence):
        FinetuneOptions(**given)


def test_ends_of_ranges_are_taken() -> None:
    FinetuneOptions(label_smoothing=0, mix_prob=1, distill_weight=0, ema=0, weight_decay=0, gamma=1, lr_min=0.01, lr=0.01)
    import numpy as np

    options = FinetuneOptions(epochs=np.int64(3), lr=np.float32(0.5), schedule="step", milestones=[np.int32(1)])
    assert options.to_json()["epochs"] == 3 and options.milestones == (1,)


def ones_of(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield ones_of(2, 6, 6), 0


LABELS = torch.zeros(6, dtype=torch.long)
CASES = {
    "an unknown option": (Net(), data(), {"epoch": 3}, r"no option 'epoch' \(did you mean 'epochs'\?\)"),
    "options of another kind": (Net(), data(), {"options": {"epochs": 3}}, "options must be a FinetuneOptions"),
    "no model": ("net", data(), {}, "model must be an nn.Module"),
    "no teacher": (Net(), data(), {"teacher": "net"}, "teacher must be an nn.Module"),
    "no function": (Net(), data(), {"loss": 3}, "loss must be a function"),
    "out is a number": (Net(), data(), {"out": 3}, "out must be text"),
    "resume without out": (Net(), data(), {"resume": True}, "give out"),
    "half precision": (Net().half(), data(), {}, "half precision"),
    "NaN": (nn.Sequential(nn.Linear(2, 2)), data(), {}, "NaN"),
    "nothing to train": (Net().requires_grad_(False), data(), {}, "no parameter of the model may be trained"),
    "on the meta device": (Net().to("meta"), data(), {}, "meta device"),
    "fp16 on a CPU": (Net(), data(), {"precision": "fp16"}, "needs a GPU"),
    "no loader": (Net(), 3, {}, "loader must be a Dataset, or an iterable"),
    "a mapping": (Net(), {"x": 1}, {}, "loader must be a Dataset, or an iterable"),
    "an iterator": (Net(), iter([data().tensors]), {}, "can be read once only"),
    "no batches": (Net(), [], {}, "holds no batches"),
    "an empty Dataset": (Net(), TensorDataset(ones_of(0, 2, 6, 6)), {}, "holds no images"),
    "single images": (Net(), Endless(), {}, "wrap it in a torch.utils.data.DataLoader"),
    "no length": (Net(), DataLoader(Endless(), batch_size=2), {}, "give steps_per_epoch"),
    "batches of text": (Net(), ["ab", "cd"], {}, "a batch must be"),
    "no labels": (Net(), [(ones_of(6, 2, 6, 6),)], {}, "hold no labels"),
    "labels of text": (Net(), [(ones_of(6, 2, 6, 6), ["a"] * 6)], {}, "labels must be class numbers"),
    "too few labels": (Net(), [(ones_of(6, 2, 6, 6), LABELS[:3])], {}, r"labels of shape \(3,\) do not fit"),
    "a class too many": (Net(), [(ones_of(6, 2, 6, 6), LABELS + 3)], {}, "a label is 3, but the model knows 3 classes"),
    "images that do not fit": (Net(), [(ones_of(6, 5, 6, 6), LABELS)], {}, "the model fails on the first batch: RuntimeError"),
    "another teacher": (Net(), data(), {"teacher": nn.Sequential(nn.Flatten(), nn.Linear(72, 4))}, "the teacher must give"),
    "a failing teacher": (Net(), data(), {"teacher": nn.Linear(3, 3)}, "the teacher fails on the first batch"),
    "no logits": (nn.Sequential(Net(), nn.LSTM(3, 3)), data(), {}, "must give a tensor of logits"),
    "no images to move": (nn.Linear(3, 3), [(ones_of(6, 3), LABELS)], {"flip": True}, "need float images"),
    "a loss that is none": (Net(), data(), {"loss": lambda o, y: 3}, "one number, the mean over the batch, not a int"),
    "numbers that are none": (Net(), data(), {"evaluate": lambda m: 3}, "evaluate must give numbers by name"),
    "samples that differ": (
        Net(),
        torch.utils.data.ConcatDataset([data(), TensorDataset(ones_of(9, 2, 5, 5), torch.zeros(9).long())]),
        {},
        "do not go together",
    ),
}
with torch.no_grad():
    CASES["NaN"][0][0].weight.fill_(float("nan"))


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said(name: str) -> None:
    model, loader, given, sentence = CASES[name]
    with pytest.raises(fxprune.InputError, match=sentence) as caught:
        fxprune.finetune(model, loader, **{**QUICK, **given})
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path) -> None:
    """And the checkpoint stays the last good one."""
    good = fxprune.finetune(Net(), data(), out=tmp_path, callback=lambda told: told["step"] == 2, **QUICK)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def loss(output, labels):
        return output.sum() * float("nan")

    torch.manual_seed(0)
    with pytest.raises(fxprune.PruneError, match="no number any more at step 3"):
        fxprune.finetune(Net(), data(), out=tmp_path, resume=True, loss=loss, **QUICK)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before and good is not None


def test_a_file_in_the_way_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(fxprune.InputError, match="is a file"):
        fxprune.finetune(Net(), data(), out=tmp_path / "file", **QUICK)
    with pytest.raises(fxprune.PruneError, match="cannot write"):
        fxprune.finetune(Net(), data(), out=tmp_path / "file" / "below", **QUICK)


def test_batches_that_end_early_are_read_as_far_as_they_go() -> None:
    class Short(list):
        def __len__(self) -> int:
            return 5

    batches = Short([data(6).tensors] * 3)
    found = fxprune.finetune(Net(), batches, **QUICK).meta["finetuning"]
    assert [e["images"] for e in found["epochs"]] == [18, 18] and found["steps_per_epoch"] == 5
    with pytest.raises(fxprune.PruneError, match="no batches in epoch 0"):
        fxprune.finetune(Net(), Short(), **QUICK)
    endless = fxprune.finetune(Net(), DataLoader(Endless(), batch_size=2), **{**QUICK, "epochs": 1, "steps_per_epoch": 3})
    assert endless.meta["finetuning"]["steps"] == 3 and "iterable" in endless.meta["finetuning"]["promise"]


def test_a_loader_that_is_shared_already_is_refused_by_several_processes() -> None:
    shared = DataLoader(data(), batch_size=4, sampler=DistributedSampler(data(), num_replicas=2, rank=0))
    with pytest.raises(fxprune.InputError, match="shared among processes already"):
        batches_of(shared, FinetuneOptions(), 0, 2)
    with pytest.raises(fxprune.InputError, match="too few for 4 processes"):
        batches_of(data(), FinetuneOptions(batch_size=6), 0, 4)
    batches = batches_of([tuple(t[:3] for t in data().tensors)], FinetuneOptions(), 0, 2)
    with pytest.raises(fxprune.InputError, match="a batch of 3 images is too small for 2 processes"):
        next(batches.epoch(0, 0))


def test_accelerate_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(fxprune.PruneError, match=r'pip install "fxprune\[train\]"'):
        fxprune.finetune(Net(), data(), **QUICK)


def test_a_model_that_cannot_train_is_refused() -> None:
    class Evaluated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.one(x)
            if self.training and float(x.sum()) > 0:
                return self.two(x)
            return self.two(x.relu())

    slim = fxprune.prune(Evaluated().eval(), 0.3, torch.zeros(2, 8))
    assert "training" in slim.meta["fxprune"].refused
    with pytest.raises(fxprune.InputError, match="recorded in evaluation alone"):
        fxprune.finetune(slim, TensorDataset(torch.zeros(12, 8), torch.zeros(12).long()), **QUICK)
