"""Matrix products: contracted axes unify, batch axes unify and are marked as heads, free axes carry through."""

from __future__ import annotations

from torch import Tensor

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule
from fxprune.rules.elementwise import broadcast


@rule("linear")
def linear(call: Call) -> None:
    """linear: [..., i], [o, i], [o] -> [..., o]"""
    x, weight = call.axes(call["input"]), call.axes(call["weight"])
    call.unify(x[-1], weight[-1])
    call.role(weight[-1], "consumer")
    out: tuple[Axis, ...] = ()
    if len(weight) == 2:
        out = (weight[0],)
        call.role(weight[0], "producer")
    if call.get("bias") is not None and out:
        call.unify(out[0], call.axes(call["bias"])[-1])
    call.macs(*x[:-1], *out, weight[-1])
    call.set([*x[:-1], *out])


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(call: Call) -> None:
    """matmul: [h, a, i], [h, i, b] -> [h, a, b]; h are heads"""
    tensors = [v for v in call.args.values() if isinstance(v, Tensor)]
    call.set(product(call, tensors[0], tensors[1]))


@rule("addmm", "baddbmm", "addbmm", "addmv")
def add_matmul(call: Call) -> None:
    """addmm: [a, b], [a, i], [i, b] -> [a, b]"""
    tensors = [v for k, v in call.args.items() if isinstance(v, Tensor) and k != "self"]
    out = product(call, tensors[0], tensors[1])
    if call.name.startswith("addbmm"):
        call.fix(out[0])
        out = out[1:]
    call.set(broadcast(call, [tuple(out), call.axes(call["self"])], tuple(call.out.shape)))


def product(call: Call, a: Tensor, b: Tensor) -> list[Axis]:
    """Axes of ``a @ b`` with the broadcasting of `torch.matmul`."""
    left, right = list(call.axes(a)), list(call.axes(b))
    inner = call.unify(left[-1], right[-2 if len(right) > 1 else -1])
    call.role(right[-2 if len(right) > 1 else -1], "consumer")
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else []
    for axis in columns:
        call.role(axis, "producer")
    batch_shape = tuple(call.out.shape[: call.out.dim() - len(rows) - len(columns)])
    if call.name.startswith("addbmm"):
        batch_shape = (left[0].size,)
    batch = broadcast(call, [tuple(left[:-2]), tuple(right[:-2])], batch_shape)
    if len(left) > 2 and len(right) > 2:
        for axis in batch:
            call.store.mark_batched(axis)
    call.macs(*batch, *rows, *columns, inner)
    return [*batch, *rows, *columns]


@rule("einsum")
def einsum(call: Call) -> None:
    """einsum: [a, i], [i, b] -> [a, b] by letters; a letter of several operands that stays is a batch axis"""
    terms, output = _letters(call["equation"], [t.dim() for t in call["tensors"]], call.out.dim())
    found: dict[str, Axis] = {}
    counts: dict[str, int] = {}
    for term, tensor in zip(terms, call["tensors"], strict=True):
        for letter, axis in zip(term, call.axes(tensor), strict=True):
            counts[letter] = counts.get(letter, 0) + 1
            previous = found.get(letter)
            if previous is None or (previous.size == 1 and axis.size > 1):
                found[letter] = axis
            elif axis.size == previous.size:
                found[letter] = call.unify(previous, axis)
    for letter, axis in found.items():
        if counts[letter] > 1 and letter in output:
            call.store.mark_batched(axis)
    _einsum_roles(call, terms, output)
    _einsum_macs(call, terms, output, found)
    call.set([found[letter] for letter in output])


def _letters(equation: str, dims: list[int], out_dim: int) -> tuple[list[list[str]], list[str]]:
    """Letters of each operand and of the output; an ellipsis becomes letters "0", "1", ... counted from the right."""
    equation = equation.replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms: list[list[str]] = []
    widest = 0
    for text, dim in zip(inputs.split(","), dims, strict=True):
        named = len(text.replace("...", ""))
        widest = max(widest, dim - named)
        terms.append(_expand(text, dim - named))
    if not arrow:
        flat = inputs.replace(",", "").replace("...", "")
        output = "..." * (widest > 0) + "".join(sorted(c for c in set(flat) if flat.count(c) == 1))
    return terms, _expand(output, out_dim - len(output.replace("...", "")))


def _expand(text: str, hidden: int) -> list[str]:
    before, dots, after = text.partition("...")
    return [*before, *(str(i) for i in reversed(range(hidden if dots else 0))), *after]


def _einsum_roles(call: Call, terms: list[list[str]], output: list[str]) -> None:
    for term, tensor in zip(terms[1:], call["tensors"][1:], strict=True):
        for letter, axis in zip(term, call.axes(tensor), strict=True):
            call.role(axis, "producer" if letter in output else "consumer")


def _einsum_macs(call: Call, terms: list[list[str]], output: list[str], found: dict[str, Axis]) -> None:
    """Operands are contracted from left to right; a letter is summed at its last use."""
    current = terms[0]
    for position, term in enumerate(terms[1:], start=1):
        letters = list(dict.fromkeys([*current, *term]))
        call.macs(*[found[letter] for letter in letters])
        later = {c for t in terms[position + 1 :] for c in t} | set(output)
        current = [c for c in letters if c in later]


@rule("scaled_dot_product_attention", "_scaled_dot_product_attention_math")
def attention(call: Call) -> None:
    """scaled_dot_product_attention: [h, q, d], [h, k, d], [h, k, e] -> [h, q, e]; a softmax runs over k

    A causal mask fixes q and k.
    """
    query, key, value = (call.axes(call[name]) for name in ("query", "key", "value"))
    inner = call.unify(query[-1], key[-1])
    source = call.unify(key[-2], value[-2])
    batch: list[Axis] = []
    for q, k, v in zip(query[:-2], key[:-2], value[:-2], strict=True):
        axis = call.unify(k, v)
        if q.size == k.size:
            axis = call.unify(q, axis)
        elif k.size == 1:
            axis = q
        else:  # grouped-query attention: each key head serves a row of query heads
            call.store.product(q, k, call.store.fresh(q.size // k.size), call.cause)
            axis = q
        call.store.mark_batched(axis)
        call.store.mark_batched(k)
        batch.append(axis)
    if call.get("is_causal"):
        why = "a causal mask depends on the order of entries"
        query, source = (*query[:-2], call.fix(query[-2], why), query[-1]), call.fix(source, why)
    if call.get("attn_mask") is not None:
        scores = [*batch, query[-2], source]
        scores = broadcast(call, [tuple(scores), call.axes(call["attn_mask"])], tuple(a.size for a in scores))
    call.statistics(source)
    call.macs(*batch, query[-2], source, inner)
    call.macs(*batch, query[-2], source, value[-1])
    call.set([*batch, query[-2], value[-1]])
