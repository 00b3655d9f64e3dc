"""ONNX's own attention operator, written out: outputs, gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from camcore_onnx.gradients.vjp import add_vjp
from camcore_onnx.reading.load import load
from camcore_onnx.running.runtime import make_session
from camcore_onnx.unfold import unfold
from onnx_vjp import SEED, node_model
from torch_vjp import error, noise

from camcore.errors import MethodNotPossible

HEADS, LENGTH, WIDTH = 2, 5, 4


def _inputs(*, joined: bool, mask: bool) -> dict[str, Any]:
    shape = (3, LENGTH, HEADS * WIDTH) if joined else (3, HEADS, LENGTH, WIDTH)
    parts = {name: noise(*shape, seed=seed) for seed, name in enumerate("qkv")}
    return parts | ({"mask": noise(LENGTH, LENGTH, seed=4)} if mask else {})


def _torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float | None) -> torch.Tensor:
    joined = q.ndim == 3
    parts = [x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2) if joined else x for x in (q, k, v)]
    y = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale)
    return y.transpose(1, 2).flatten(2) if joined else y


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_outputs_and_gradients(joined: bool, mask: bool, scale: float | None) -> None:
    inputs = _inputs(joined=joined, mask=mask)
    about: dict[str, Any] = {"q_num_heads": HEADS, "kv_num_heads": HEADS} if joined else {}
    about |= {} if scale is None else {"scale": scale}
    model = node_model("Attention", inputs, wanted=["q", "k", "v"], opset=23, **about)
    loaded, feed = load(model), {name: inputs[name] for name in "qkv"}
    unfold(loaded.model, list(loaded.model.graph), [feed])
    graph = loaded.model.graph
    assert "Attention" not in {node.op_type for node in graph}
    gradients = add_vjp(loaded, graph.outputs[0], list(graph.inputs)[:3], [feed])
    graph.outputs.extend(g.value for g in gradients)
    tensors = [torch.tensor(feed[name]).double().requires_grad_() for name in "qkv"]
    expected = _torch(*tensors, torch.tensor(inputs["mask"]).double() if mask else None, scale)
    seed = noise(*expected.shape, seed=9)
    found = make_session(loaded.model, device="cpu").run(None, {**feed, SEED: seed})
    pulled = torch.autograd.grad(expected, tensors, torch.tensor(seed).double())
    for one, other in zip(found, (expected.detach(), *pulled), strict=True):
        assert error(one, other.numpy()) < 1e-5
    plain = make_session(model.SerializeToString(), device="cpu").run(None, feed)[0]
    assert error(found[0], plain) < 1e-5


@pytest.mark.parametrize(("option", "value"), [("is_causal", 1), ("softcap", 2.0)])
def test_what_text_models_have_is_refused(option: str, value: Any) -> None:
    inputs = _inputs(joined=False, mask=False)
    loaded = load(node_model("Attention", inputs, wanted=["q", "k", "v"], opset=23, **{option: value}))
    with pytest.raises(MethodNotPossible, match=f"Attention 'node' .*: {option} is not supported"):
        unfold(loaded.model, list(loaded.model.graph), [inputs])
