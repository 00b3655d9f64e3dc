"""Attention in one operator, as ONNX Runtime's optimiser for transformers leaves it in vision models."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from camcore_onnx.unfold.site import Site, form


@form("Attention")
def self_attention(site: Site) -> None:
    """``softmax(q k' / sqrt(d) + bias) v`` of ``q, k, v = x W + b``, head by head."""
    site.refuse_inputs((3, "a mask"), (4, "a past state"), (6, "the length of a past state"))
    _refuse_text(site)
    weights = site.need(1)
    columns = site.shape(weights)[-1]
    sizes = [int(n) for n in site.attribute("qkv_hidden_sizes", [])] or [int(columns or 0) // 3] * 3
    if sum(sizes) != columns or min(sizes) < 1:
        site.refuse(f"its weights have {columns} columns; expected {sum(sizes)} for q, k and v")
    mixed = site.op("MatMul", site.need(0), weights)
    bias = site.get(2)
    mixed = mixed if bias is None else site.op("Add", mixed, bias)
    q, k, v = _split(site, mixed, sizes)
    _attend(site, _heads(site, q), _heads(site, k, turned=True), _heads(site, v), sizes[0], site.get(5))


@form("MultiHeadAttention")
def multi_head_attention(site: Site) -> None:
    """``softmax(q k' / sqrt(d) + bias) v`` of ``q, k, v`` plus biases, head by head."""
    site.refuse_inputs((4, "a mask"), (6, "a past state"), (7, "a past state"), (8, "the length of a past state"))
    _refuse_text(site)
    if site.get(1) is None or site.get(2) is None:
        site.refuse("q, k and v are packed into one tensor; expected three")
    q, k, v = (site.need(i) for i in range(3))
    ranks = [len(site.shape(x)) for x in (q, k, v)]
    if ranks not in ([3, 3, 3], [3, 4, 4]):
        site.refuse(f"its inputs have {ranks} axes; expected 3 each, or 3, 4 and 4")
    width = site.shape(q)[-1]
    if width is None:
        site.refuse("the width of its queries is not fixed")
    if site.get(3) is not None:
        if ranks[1] == 4:
            site.refuse("it adds a bias to keys that are split into heads, which is not supported")
        q, k, v = _biased(site, [q, k, v], width)
    split = ranks[1] == 4
    keys = site.op("Transpose", k, perm=[0, 1, 3, 2]) if split else _heads(site, k, turned=True)
    _attend(site, _heads(site, q), keys, v if split else _heads(site, v), width, site.get(5))


@form("Attention", domain="")
def standard_attention(site: Site) -> None:
    """ONNX's own, of opset 23: ``softmax(scale q k' + mask) v`` of split heads (N, h, L, D), or (N, L, h D)."""
    site.refuse_inputs((4, "a past key"), (5, "a past value"), (6, "the length of keys without padding"))
    site.refuse_outputs()
    for name in ("is_causal", "softcap"):
        if site.attribute(name, 0):
            site.refuse(f"{name} is not supported")
    q, k, v = (site.need(i) for i in range(3))
    mask, joined = site.get(3), len(site.shape(q)) == 3
    if mask is not None and not site.dtype(mask).is_floating_point():
        site.refuse("its mask is not of floats, which is not supported")
    pairs = (("q_num_heads", q), ("kv_num_heads", k))
    heads, others = (int(site.attribute(name, 0) if joined else site.shape(x)[1] or 0) for name, x in pairs)
    if heads != others:
        site.refuse(f"it has {heads} heads of queries and {others} of keys, which is not supported")
    width = site.shape(q)[-1]
    if width is None or not heads:
        site.refuse("the number or the width of its heads is not fixed")
    q, k, v = (_split_heads(site, x, heads) if joined else x for x in (q, k, v))
    scale = float(site.attribute("scale", 0.0)) or 1 / math.sqrt(width // heads if joined else width)
    mixed = _mixed(site, q, site.op("Transpose", k, perm=[0, 1, 3, 2]), v, scale, mask)
    if joined:
        turned = site.op("Transpose", site.op("MatMul", *mixed), perm=[0, 2, 1, 3])
        site.become("Reshape", turned, np.array([0, 0, -1], np.int64))
    else:
        site.become("MatMul", *mixed)


def _split_heads(site: Site, x: ir.Value, heads: int) -> ir.Value:
    parts = site.op("Reshape", x, np.array([0, 0, heads, -1], np.int64))
    return site.op("Transpose", parts, perm=[0, 2, 1, 3])


def _refuse_text(site: Site) -> None:
    """What only models of text have."""
    site.refuse_outputs()
    for name in ("unidirectional", "do_rotary"):
        if site.attribute(name, 0):
            site.refuse(f"{name} is not supported")


def _biased(site: Site, parts: list[ir.Value], width: int) -> list[ir.Value]:
    bias = site.stored(site.get(3), "bias")
    ends = [0, width, 2 * width, bias.size]
    return [site.op("Add", part, bias[a:b]) for part, (a, b) in zip(parts, pairwise(ends), strict=True)]


def _split(site: Site, x: ir.Value, sizes: list[int]) -> list[ir.Value]:
    if site.opset < 13:
        return site.ops("Split", len(sizes), x, axis=2, split=sizes)
    return site.ops("Split", len(sizes), x, np.array(sizes, np.int64), axis=2)


def _heads(site: Site, x: ir.Value, *, turned: bool = False) -> ir.Value:
    """(N, L, heads * D) as (N, heads, L, D), or as (N, heads, D, L)."""
    parts = site.op("Reshape", x, np.array([0, 0, site.attribute("num_heads"), -1], np.int64))
    return site.op("Transpose", parts, perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3])


def _attend(site: Site, q: ir.Value, k: ir.Value, v: ir.Value, width: int, bias: ir.Value | None) -> None:
    scale = float(site.attribute("scale", 0.0)) or 1 / math.sqrt(width // site.attribute("num_heads"))
    joined = site.op("Transpose", site.op("MatMul", *_mixed(site, q, k, v, scale, bias)), perm=[0, 2, 1, 3])
    site.become("Reshape", joined, np.array([0, 0, -1], np.int64))


def _mixed(
    site: Site, q: ir.Value, k: ir.Value, v: ir.Value, scale: float, bias: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    """The operands of the last product of attention, of keys (N, h, D, L)."""
    scores = site.op("Mul", site.op("MatMul", q, k), site.number(scale, site.need(0)))
    scores = scores if bias is None else site.op("Add", scores, bias)
    return site.op("Softmax", scores, axis=3), v
