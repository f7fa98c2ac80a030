"""Models by name, checkpoints, and inferred inputs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from fxprune.errors import InputError
from fxprune.inputs.models import infer_example_inputs, load_model, read_state_dict

NETS = """
from dataclasses import dataclass
from torch import nn
import neighbour

@dataclass
class Options:
    width: int = neighbour.WIDTH

def small():
    return nn.Sequential(nn.Conv2d(3, Options().width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

class Tiny(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

ready = nn.Linear(3, 2)
number = 3

def list_of_layers():
    return [nn.Linear(1, 1)]

def broken():
    raise KeyError("width")
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    yield file
    sys.modules.pop("neighbour", None)


def on_meta(build, *args, **kwargs):
    with torch.device("meta"):
        return build(*args, **kwargs)


# -- models by name ------------------------------------------------------------------------------------------


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
        ("keras:resnet50", "not of the form timm:NAME, torchvision:NAME or file.py:factory"),
        ("nowhere.py:small", "there is no file"),
        ("nets.py", "names no factory"),
        ("", "not of the form"),
    ],
)
def test_unknown_model(spec, said):
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert said in str(caught.value)


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


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
    ],
    ids=["plain", "state_dict", "model", "DataParallel"],
)
def test_checkpoint_of_torch_save(nets, tmp_path, wrap):
    source = load_model(f"{nets}:Tiny")
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    found = load_model(f"{nets}:Tiny", tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), found.parameters(), strict=True))


def test_checkpoint_without_counts_of_batches(tmp_path):
    """As PyTorch wrote them before 0.4.1."""
    (tmp_path / "norm.py").write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.BatchNorm2d(3))\n")
    state = {
        "0.weight": torch.rand(3),
        "0.bias": torch.rand(3),
        "0.running_mean": torch.rand(3),
        "0.running_var": torch.rand(3),
    }
    save_file(state, tmp_path / "old.safetensors")
    loaded = load_model(f"{tmp_path / 'norm.py'}:net", tmp_path / "old.safetensors").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert loaded["0.num_batches_tracked"] == 0


def test_checkpoint_in_safetensors(nets, tmp_path):
    source = load_model(f"{nets}:Tiny")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    found = load_model(f"{nets}:Tiny", str(tmp_path / "w.safetensors"))
    assert torch.equal(source.weight, found.weight)


def test_segmentation_weights_with_an_auxiliary_classifier(tmp_path):
    build = torchvision.models.segmentation.fcn_resnet50
    published = on_meta(build, weights=None, weights_backbone=None, aux_loss=True)
    torch.save({k: torch.zeros(()).expand(v.shape) for k, v in published.state_dict().items()}, tmp_path / "w.pt")
    found = load_model("torchvision:fcn_resnet50", tmp_path / "w.pt")
    assert found.aux_classifier is not None


class Hostile:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"weight": Hostile(tmp_path / "written by the attacker")}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="pickled code is refused"):
        read_state_dict(tmp_path / "w.pt")
    assert [f.name for f in tmp_path.iterdir()] == ["w.pt"]


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pt", b""),
        ("w.pt", b"not a checkpoint"),
        ("w.pt", saved({"weight": torch.zeros(100)})[:-200]),
        ("w.pt", saved([torch.zeros(1)])),
        ("w.pt", saved({"weight": 3})),
        ("w.pt", saved({1: torch.zeros(1)})),
        ("w.safetensors", b""),
        ("w.safetensors", b"\xff" * 64),
        ("w.safetensors", saved({"weight": torch.zeros(1)})),
    ],
    ids=["empty", "text", "cut", "list", "number", "key", "empty st", "noise st", "pickle st"],
)
def test_damaged_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_state_dict(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_checkpoint():
    with pytest.raises(InputError, match="there is no checkpoint file"):
        load_model("timm:test_resnet", "nowhere.pt")


def test_checkpoint_of_another_model_names_the_first_keys(nets, tmp_path):
    state = {"weight": torch.zeros(5, 3), **{f"extra{i}": torch.zeros(1) for i in range(5)}}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        load_model(f"{nets}:Tiny", tmp_path / "w.pt")
    told = str(caught.value)
    assert "1 missing: bias" in told
    assert "5 not in the model: extra0, extra1, extra2, ..." in told
    assert "1 of another shape: weight is (5, 3), the model's is (2, 3)" in told


# -- example inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("resnet18", {}, (2, 3, 224, 224)),
        ("resnet18", {"in_chans": 5}, (2, 5, 224, 224)),
        ("test_resnet", {}, (2, 3, 160, 160)),
        ("vit_tiny_patch16_224", {"img_size": 96}, (2, 3, 96, 96)),
        ("vit_tiny_patch16_224", {"img_size": (64, 128), "in_chans": 1}, (2, 1, 64, 128)),
        ("swin_tiny_patch4_window7_224", {"img_size": 448}, (2, 3, 448, 448)),
        ("inception_v4", {}, (2, 3, 299, 299)),
        ("resnet18", {"features_only": True, "in_chans": 4}, (2, 4, 224, 224)),
        ("vit_tiny_patch16_224", {"features_only": True, "img_size": 64}, (2, 3, 64, 64)),
        ("hiera_tiny_224", {"img_size": 192}, (2, 3, 192, 192)),  # names its grid of tokens alone
        ("volo_d1_224", {"img_size": (224, 448), "num_classes": 0}, (2, 3, 224, 448)),  # has a table of positions alone
        ("levit_128s", {"img_size": 288, "features_only": True}, (2, 3, 288, 288)),  # names the grids of its stages
        # On the meta device it would take any size: its tables of relative positions are indexed.
        ("mvitv2_tiny", {"img_size": 160}, (2, 3, 160, 160)),
        ("tresnet_m", {"in_chans": 4}, (2, 4, 224, 224)),  # its first convolution sees 16 times as many
    ],
)
def test_inputs_of_timm(name, options, shape):
    model = on_meta(timm.create_model, name, **options)
    (found,) = infer_example_inputs(model)
    assert tuple(found.shape) == shape and found.is_meta
    with torch.no_grad():
        model.eval()(found)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("squeezenet1_1", [(2, 3, 224, 224)]),
        ("inception_v3", [(2, 3, 299, 299)]),
        ("vit_b_16", [(2, 3, 224, 224)]),
        ("lraspp_mobilenet_v3_large", [(2, 3, 224, 224)]),
        ("r3d_18", [(2, 3, 16, 112, 112)]),
        ("mvit_v2_s", [(2, 3, 16, 224, 224)]),
        ("swin3d_t", [(2, 3, 16, 224, 224)]),
        ("s3d", [(2, 3, 16, 224, 224)]),
        ("raft_small", [(2, 3, 128, 128)] * 2),
    ],
)
def test_inputs_of_torchvision(name, shapes):
    model = on_meta(load_model, f"torchvision:{name}")
    found = infer_example_inputs(model)
    assert [tuple(x.shape) for x in found] == shapes
    with torch.no_grad():
        model.eval()(*found)


def test_inputs_of_a_vision_transformer_of_another_size():
    model = on_meta(torchvision.models.vit_b_32, weights=None, image_size=64)
    assert infer_example_inputs(model)[0].shape == (2, 3, 64, 64)


def test_inputs_have_the_dtype_of_the_model():
    model = on_meta(torchvision.models.squeezenet1_1, weights=None)
    assert infer_example_inputs(model.to(torch.bfloat16))[0].dtype is torch.bfloat16


def test_inputs_of_a_detector():
    model = load_model("torchvision:ssdlite320_mobilenet_v3_large").eval()
    (found,) = infer_example_inputs(model)
    assert tuple(found.shape) == (2, 3, 320, 320)
    with torch.no_grad():
        assert len(model(torch.rand(found.shape))) == 2


def test_inputs_that_cannot_be_inferred():
    assert infer_example_inputs(nn.Linear(3, 2)) is None
