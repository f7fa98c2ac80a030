"""Contexts that forward enters are in the code of the recorded graph and in the file that is generated from it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.codegen.source import source_of
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize
from tests.kinds import Case, contexts, grad_modes, sampled

SAVED = [
    pytest.param(case, id=f"{kind}-{case.name}")
    for kind, module in (("contexts", contexts), ("grad_modes", grad_modes))
    for case in module.CASES
    if not case.refused
]


class Mixed(nn.Module):
    """Contexts of all sorts, one in another, and one by the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    @torch.no_grad()
    def gate(self, h: Tensor) -> Tensor:
        return h.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.no_grad():
            scale = self.c(h).mean(-1, keepdim=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                low = self.c(h)
        with torch.set_grad_enabled(self.training):
            h = self.c(h) + 1
        return self.b(h * self.gate(h) + scale + low.float())  # type: ignore[no-any-return]


def _body(code: str) -> list[str]:
    start = code.index("def forward")
    lines = [line.partition(";")[0].rstrip() for line in code[start:].splitlines()[1:]]
    return lines[: next((i for i, line in enumerate(lines) if line.strip().startswith("return")), len(lines)) + 1]


def test_code_of_the_graph_holds_the_blocks() -> None:
    recorded = fxprune.trace(Mixed(), torch.zeros(2, 8))
    assert _body(recorded.code) == [
        "    a = self.a(x)",
        "    with torch.no_grad():",
        "        c = self.c(a)",
        "        mean = c.mean(-1, keepdim = True)",
        "    with torch.no_grad():",
        '        with torch.autocast("cpu", dtype=torch.bfloat16):',
        "            c_1 = self.c(a)",
        "    with torch.set_grad_enabled(self.training):",
        "        c_2 = self.c(a)",
        "        add = c_2 + 1",
        "    with torch.no_grad():",
        "        sigmoid = add.sigmoid()",
        "    mul = add * sigmoid",
        "    add_1 = mul + mean",
        "    float_1 = c_1.float()",
        "    add_2 = add_1 + float_1",
        "    b = self.b(add_2)",
        "    return b",
    ]
    assert "with torch.no_grad():" in recorded.print_readable(print_output=False)


def test_generated_source_holds_the_blocks() -> None:
    source = source_of(fxprune.prune(Mixed(), 0.5, torch.zeros(2, 8)))
    assert [line[8:] for line in _body(source)] == [
        "x = self.a(x)",
        "with torch.no_grad():",
        "    y = self.c(x)",
        "    y = y.mean(-1, keepdim=True)",
        '    with torch.autocast("cpu", dtype=torch.bfloat16):',
        "        z = self.c(x)",
        "with torch.set_grad_enabled(self.training):",
        "    x = self.c(x)",
        "    x = x + 1",
        "with torch.no_grad():",
        "    u = x.sigmoid()",
        "x = x * u",
        "x = x + y",
        "z = z.float()",
        "x = x + z",
        "return self.b(x)",
    ]


def _step(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> tuple[Tensor, dict[str, Tensor]]:
    model.train(training)
    model.zero_grad()
    torch.manual_seed(3)
    output = model(*inputs)
    if output.requires_grad:
        output.float().pow(2).sum().backward()
    return output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", sampled(SAVED))
def test_a_loaded_file_gives_equal_outputs_and_gradients(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = case.inputs(case.batches[0])
    slim = fxprune.prune(randomize(case.make()), 0.5, inputs)
    loaded = fxprune.load(fxprune.save(slim, tmp_path / "slim"))
    for training in (False, True):
        expected, gradients = _step(copy.deepcopy(slim), inputs, training)
        found, found_gradients = _step(copy.deepcopy(loaded), inputs, training)
        assert found.dtype is expected.dtype
        assert found.requires_grad is expected.requires_grad
        assert relative_error(found, expected) < 1e-6
        assert set(gradients) == set(found_gradients)
        for name, gradient in gradients.items():
            assert relative_error(found_gradients[name], gradient) < 1e-5


def test_a_caller_without_gradients_gets_those_of_enable_grad() -> None:
    case = next(c for c in contexts.CASES if c.name == "enable_grad")
    recorded = fxprune.trace(case.make(), torch.zeros(2, 8))
    with torch.no_grad():
        assert "with torch.enable_grad():" in recorded.code
        assert not recorded(torch.zeros(2, 8)).requires_grad


def test_a_device_as_a_context_is_in_the_code() -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.device("cpu"):
                return self.b(self.a(x) + torch.ones(x.shape[0], 1))  # type: ignore[no-any-return]

    model = Made()
    recorded = fxprune.trace(model, torch.zeros(2, 8))
    assert 'with torch.device("cpu"):' in recorded.code
    torch.testing.assert_close(recorded(torch.ones(3, 8)), model(torch.ones(3, 8)))


def test_recording_leaves_the_callers_state_alone() -> None:
    model = Mixed()
    fxprune.trace(model, torch.zeros(2, 8))
    assert torch.is_grad_enabled()
    with torch.no_grad():
        fxprune.trace(model, torch.zeros(2, 8))
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_a_default_dtype_left_behind_is_refused() -> None:
    class Leaves(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            torch.set_default_dtype(torch.float64)
            return super().forward(x)

    try:
        with pytest.raises(fxprune.TraceError, match=r"set_default_dtype.* still in force for its caller"):
            fxprune.trace(Leaves(), torch.zeros(2, 8))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_pickled_graph_keeps_its_contexts() -> None:
    recorded = fxprune.trace(Mixed(), torch.zeros(2, 8))
    assert pickle.loads(pickle.dumps(recorded)).code == recorded.code


def test_under_autocast_of_the_caller_a_path_for_it_is_refused() -> None:
    case = next(c for c in contexts.CASES if "autocast that changes the path" in c.name)
    recorded = fxprune.trace(case.make(), torch.zeros(2, 8))
    recorded(torch.zeros(2, 8))
    with torch.autocast("cpu"), pytest.raises(AssertionError, match="traced for callers outside"):
        recorded(torch.zeros(2, 8))
