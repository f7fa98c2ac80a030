"""What `validate` refuses, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_validate import CLASSES, Hits, Says, run, said

from fxprune.errors import InputError

# -- what it refuses -----------------------------------------------------------------------------------------------------


def endless_failure() -> Iterator[Any]:
    yield said(8)
    raise OSError("disk gone")


def failing(*_: Any) -> None:
    raise ValueError("no such thing")


X, Y = torch.randn(4, 2 * CLASSES), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((3, Says(0), [(X, Y)]), {}, "model must be an nn.Module"),
        ((Says(0), {}, [(X, Y)]), {}, "slim holds no model"),
        ((Says(0), {"dense": Says(0)}, [(X, Y)]), {}, "names other than 'dense'"),
        ((Says(0), [Says(0), 3], [(X, Y)]), {}, "model must be an nn.Module"),
        ((Says(0), Says(0), "digits"), {}, "load_data"),
        ((Says(0), Says(0), None), {}, "iterable of batches"),
        ((Says(0), Says(0), []), {}, "holds no batches"),
        ((Says(0), Says(0), [3]), {}, "a batch must be"),
        ((Says(0), Says(0), [(X[:0], Y[:0])]), {}, "no images"),
        ((Says(0), Says(0), [(X, Y), X]), {}, "some batches have labels, others not"),
        ((Says(0), Says(0), [(X, Y + 5)]), {}, "a label is 8, but the model tells 7 classes apart"),
        ((Says(0), Says(0), [(X, Y - 1)]), {}, "a label is -1"),
        ((Says(0), Says(0), [(X, Y / 2)]), {}, "one class number an image"),
        ((Says(0), Says(0), [(X, Y[:3])]), {}, "one class number an image"),
        ((Says(0), Says(0), [X]), {"metric": failing}, "no labels, which failing needs"),
        ((Says(0), Says(0), [X]), {"loss": failing}, "no labels, which the loss needs"),
        ((Says(0), Says(0), [(X, Y)]), {"metric": failing}, "metric 'failing' failed: ValueError: no such thing"),
        ((Says(0), Says(0), [(X, Y)]), {"metric": lambda o, y: o}, r"gave \(4, 7\) numbers for 4 images"),
        ((Says(0), Says(0), [(X, Y)]), {"metric": Hits}, "a class: give an object"),
        ((Says(0), Says(0), [(X, Y)]), {"metric": 3}, "metric 'int' is 3"),
        ((Says(0), Says(0), [(X, Y)]), {"loss": 3}, "loss must be a function"),
        ((Says(0), Says(0), [(X, Y)]), {"bins": 0}, "bins must be"),
        ((Says(0), Says(0), [(X, Y)]), {"bins": math.nan}, "bins must be"),
        ((Says(0), Says(0), [(X, Y)]), {"batches": 1.5}, "batches must be"),
        ((Says(0), Says(0), [(X, Y)]), {"confidence": 1}, "confidence must be"),
        ((Says(0), Says(0), [(X, Y)]), {"latency": "yes"}, "latency must be"),
        ((Says(0), Says(0), [(X[:, :3], Y)]), {}, "the dense model failed on a batch of 4 images: RuntimeError"),
        ((Says(0), Says(0).to("meta"), [(X, Y)]), {}, "on the meta device"),
        ((Says(0), Says(0), endless_failure()), {}, "data failed after 1 batches: OSError: disk gone"),
    ],
)
def test_what_is_refused(arguments: tuple[Any, ...], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        run(*arguments, **options)


def test_an_unknown_name() -> None:
    with pytest.raises(InputError, match=r"did you mean 'slim'"):
        run(Says(0), Says(0), [(X, Y)]).of("slm")
