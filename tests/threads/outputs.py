"""The output differs, accuracy collapses."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from helpers import error, masked_copy, named_tensors, parameters_of, run
from networks import image

import fxprune
from fxprune.proofs.randomize import randomize
from threads.base import PlainCnn, proved_network, thread

# -- the output differs, accuracy collapses ----------------------------------------------------------------


@thread("NNI#2130 NNI#3010 BatchNorm beta of a removed channel")
def _(folder: Path) -> None:
    """A removed channel adds nothing downstream, although its shift is not zero: a naive mask leaves that."""
    model = randomize(PlainCnn(), 1).double()
    slim = fxprune.prune(model, 0.5, image(2).double(), scope="layer")
    kept = slim.meta["fxprune"].plan.kept
    expected, found = run(masked_copy(model, kept), (image(2).double(),)), run(slim, (image(2).double(),))
    assert error(expected, found) < 1e-9

    naive = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
            gone = sorted(set(range(16)) - set(kept[name][0]))
            named_tensors(naive)[name][gone] = 0
    assert error(run(naive, (image(2).double(),)), found) > 1e-3


@thread("NNI#4402 TP#313 TP#347 removing dead channels changes nothing")
def _(folder: Path) -> None:
    """Half of the channels are dead: pruning takes those, and the output stays to rounding."""
    model = randomize(PlainCnn(), 1).double()
    with torch.no_grad():
        dead = torch.arange(0, 16, 2)
        for name in ("conv1", "bn1", "conv2", "bn2"):
            for parameter in model.get_submodule(name).parameters():
                parameter[dead] = 0
        model.conv3.weight[torch.arange(0, 32, 2)] = 0
        model.conv3.bias[torch.arange(0, 32, 2)] = 0
        for name in ("conv2", "conv3"):
            model.get_submodule(name).weight[:, dead] = 0
        model.fc.weight[:, ::2] = 0
    for scope in ("layer", "global"):
        slim = fxprune.prune(model, 0.5, image(2).double(), scope=scope)
        assert parameters_of(slim) < 0.35 * parameters_of(model)
        assert error(run(model, (image(3).double(),)), run(slim, (image(3).double(),))) < 1e-9


# -- a one-output-channel convolution taken for depthwise --------------------------------------------------


@thread("TP#126 TP#179 NNI#5751 one-output-channel convolution is not depthwise")
def _(folder: Path) -> None:
    slim = proved_network("one-output-channel convolution (not depthwise)", scope="layer")
    assert slim.get_submodule("conv2").weight.shape == (1, 6, 3, 3)
    assert slim.get_submodule("conv2").groups == 1
    assert slim.get_submodule("conv3").weight.shape == (6, 1, 3, 3)
    proved_network("spatial gate of one channel", scope="layer")
