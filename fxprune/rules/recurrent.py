"""Recurrent layers: their inputs can shrink; the hidden state is fixed."""

from __future__ import annotations

from torch import Tensor

from fxprune import nested
from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> None:
    """lstm: [t, n, i], (4 h, i) weights -> [t, n, h]; h is fixed

    Parameters come as ``(w_ih, w_hh[, b_ih, b_hh])`` per layer and direction; w_ih's axis 1 meets the input.
    """
    why = "hidden state of a recurrent layer: each step feeds all of it back into every gate"
    x: Tensor = call["input"] if "input" in call.args else call["data"]
    axes = call.axes(x)
    width = int(x.shape[-1])
    parameters: list[Tensor] = list(call["params"])
    per_cell = 4 if call["has_biases"] else 2
    directions = 2 if call["bidirectional"] else 1
    for position, tensor in enumerate(parameters):
        labels = call.axes(tensor)
        first_layer = position < per_cell * directions and position % per_cell == 0
        if first_layer and int(tensor.shape[1]) == width:
            call.unify(axes[-1], labels[1])
            call.role(labels[1], "consumer")
            call.macs(*axes[:-1], *labels)
            labels = labels[:1]
        elif len(labels) == 2:
            call.macs(*axes[:-1], *labels)
        for axis in labels:
            call.fix(axis, why)
    hidden = call.get("hx")
    for tensor in nested.tensors((hidden,)):
        for axis in call.axes(tensor):
            call.fix(axis, why)
    outputs, cause = call.outputs, call.because(why)
    call.set([*axes[:-1], Axis(int(outputs[0].shape[-1]), None, False, cause)], outputs[0])
    for out in outputs[1:]:
        call.set([Axis(int(s), None, True, cause) for s in out.shape], out)
