"""Models by name."""

from __future__ import annotations

import sys

import pytest
import timm
import torchvision
from support.zoo import on_meta
from torch import nn

from fxprune.errors import InputError
from fxprune.inputs.models import load_model


def test_timm_name():
    model = load_model("timm:test_resnet")
    assert type(model) is type(timm.create_model("test_resnet"))


def test_timm_name_with_a_tag():
    assert load_model("timm:test_resnet.r160_in1k").num_classes == 1000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("squeezenet1_1", torchvision.models.SqueezeNet),
        ("lraspp_mobilenet_v3_large", torchvision.models.segmentation.LRASPP),
        ("r3d_18", torchvision.models.video.VideoResNet),
        ("raft_small", torchvision.models.optical_flow.RAFT),
        ("ssdlite320_mobilenet_v3_large", torchvision.models.detection.ssd.SSD),
    ],
)
def test_torchvision_name(name, kind):
    """Every kind of model is built, and nothing is downloaded (there is no network in `on_meta` either)."""
    assert isinstance(on_meta(load_model, f"torchvision:{name}"), kind)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_warning_about_initialisation_is_not_the_users(name):
    on_meta(load_model, f"torchvision:{name}")  # warnings are errors in this suite


@pytest.mark.parametrize("factory", ["small", "Tiny", "ready"])
def test_factory_in_a_file(nets, factory):
    before = list(sys.path)
    assert isinstance(load_model(f"{nets}:{factory}"), nn.Module)
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:resnet5", "timm has no model 'resnet5' (did you mean 'resnet50'?)"),
        ("timm:resnet50.no_such_tag", "timm cannot build 'resnet50.no_such_tag'"),
        ("timm:hf-hub:timm/resnet50", "timm has no model"),
        ("torchvision:resnet_18", "torchvision has no model 'resnet_18' (did you mean 'resnet18'?)"),
        ("resnet18", "did you mean 'timm:resnet18'?"),
        ("tim:resnet50", "No module named 'tim' (did you mean 'timm'?)"),
        ("a b:resnet50", "not of the form timm:NAME, torchvision:NAME, file.py:factory or module:factory"),
        ("nowhere.py:small", "there is no file"),
        ("nets.py", "names no factory"),
        ("", "not of the form"),
    ],
)
def test_unknown_model(spec, said):
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert said in str(caught.value)


@pytest.mark.parametrize("factory", ["small", "Tiny", "ready"])
def test_factory_in_a_module(nets, factory, monkeypatch):
    """Found in the present folder, as in the path of Python."""
    before = list(sys.path)
    monkeypatch.chdir(nets.parent)
    monkeypatch.delitem(sys.modules, nets.stem, raising=False)
    assert isinstance(load_model(f"{nets.stem}:{factory}"), nn.Module)
    assert sys.path == before
    with pytest.raises(InputError, match=f"module '{nets.stem}' has no 'smal'"):
        load_model(f"{nets.stem}:smal")


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("smal", "has no 'smal' (did you mean 'small'?)"),
        ("list_of_layers", "gave a list, not an nn.Module"),
        ("number", "number() failed: TypeError"),
        ("broken", "broken() failed: KeyError: 'width'"),
    ],
)
def test_bad_factory(nets, factory, said):
    with pytest.raises(InputError) as caught:
        load_model(f"{nets}:{factory}")
    assert said in str(caught.value)


def test_file_that_cannot_be_run(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(InputError, match="cannot be run: ModuleNotFoundError"):
        load_model(f"{tmp_path / 'bad.py'}:net")
