"""Matrix products against autograd and against differences, both operands, of any number of axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_vjp import agrees_with_differences, by_nodes, node_model
from torch_vjp import DRAWS, MANY_DRAWS, noise, torch_error

from camcore.errors import MethodNotPossible

_SHAPES = [
    ((3, 4), (4, 5)),
    ((2, 3, 4), (4, 5)),
    ((2, 6, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((1, 3, 4), (2, 6, 4, 5)),
    ((4,), (4, 5)),
    ((4,), (2, 4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (4,)),
    ((4,), (4,)),
]


@pytest.mark.parametrize(("a", "b"), _SHAPES)
@pytest.mark.parametrize("opset", [9, 13, 20])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], opset: int) -> None:
    inputs = {"a": noise(*a), "b": noise(*b, seed=1)}
    assert torch_error(torch.matmul, "MatMul", inputs, wanted=("a", "b"), opset=opset) < 1e-5
    assert agrees_with_differences(node_model("MatMul", inputs, opset=opset), inputs) < 1e-5


@pytest.mark.parametrize("which", ["a", "b"])
def test_matmul_with_a_fixed_operand_and_a_free_batch(which: str) -> None:
    inputs = {"a": noise(2, 7, 4), "b": noise(2, 4, 5, seed=1)}
    probe = {"a": noise(3, 7, 4), "b": noise(3, 4, 5)}
    assert torch_error(torch.matmul, "MatMul", inputs, wanted=("a", "b"), probe=probe) < 1e-5
    fixed = inputs | ({"b": noise(4, 5)} if which == "a" else {"a": noise(7, 4)})
    other = torch.tensor(fixed["b" if which == "a" else "a"]).double()
    function = (lambda a: a @ other) if which == "a" else (lambda b: other @ b)
    assert torch_error(function, "MatMul", fixed, wanted=(which,), probe=fixed | {which: probe[which]}) < 1e-5


@given(
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    st.sampled_from(((3, 5), (1, 5), (3, 1), (5,), (1,), (), None)),
    st.sampled_from((9, 11, 13, 20)),
)
@DRAWS
def test_gemm(turned: tuple[bool, bool], factors: tuple[float, float], c: Any, opset: int) -> None:
    if c is None and opset < 11:
        c = ()
    a, b = noise(*((4, 3) if turned[0] else (3, 4))), noise(*((5, 4) if turned[1] else (4, 5)), seed=1)
    inputs = {"a": a, "b": b} | ({} if c is None else {"c": noise(*c, seed=2).reshape(c)})

    def function(a: torch.Tensor, b: torch.Tensor, *c: torch.Tensor) -> torch.Tensor:
        y = factors[0] * (a.T if turned[0] else a) @ (b.T if turned[1] else b)
        return y + factors[1] * c[0] if c else y

    about = {"transA": int(turned[0]), "transB": int(turned[1]), "alpha": factors[0], "beta": factors[1]}
    assert torch_error(function, "Gemm", inputs, wanted=tuple(inputs), opset=opset, **about) < 1e-5


_EQUATIONS = ["ij,jk->ik", "bij,bjk->bik", "bhid,bhjd->bhij", "bi,bj->bij", "ij,j->i", "ij,ij->", "ab,cd->ac", "ij->ji"]


@pytest.mark.parametrize("equation", [*_EQUATIONS, "ij,jk,kl->il", "ij,jk", "i j , j k -> k i"])
def test_einsum(equation: str) -> None:
    lengths = {letter: 2 + n for n, letter in enumerate("abcdhijkl")}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    inputs = {f"x{n}": noise(*(lengths[a] for a in term), seed=n) for n, term in enumerate(terms)}

    def function(*xs: torch.Tensor) -> torch.Tensor:
        return torch.einsum(equation, *xs)

    assert torch_error(function, "Einsum", inputs, wanted=tuple(inputs), equation=equation) < 1e-5


@pytest.mark.parametrize("equation", ["ii->i", "...ij,jk->...ik"])
def test_an_equation_beyond_the_rule_is_refused(equation: str) -> None:
    terms = equation.split("->")[0].split(",")
    inputs = {f"x{n}": noise(*[3] * len(term.replace("...", "b")), seed=n) for n, term in enumerate(terms)}
    with pytest.raises(MethodNotPossible, match="has an ellipsis or takes a diagonal"):
        by_nodes(node_model("Einsum", inputs, equation=equation), inputs)


def test_an_axis_of_length_one_that_is_repeated_is_refused() -> None:
    inputs = {"a": noise(1, 2, 3), "b": noise(4, 3, 5)}
    with pytest.raises(MethodNotPossible, match="axis 'b' of the equation 'bij,bjk->bik' is 1 long for some operands"):
        by_nodes(node_model("Einsum", inputs, equation="bij,bjk->bik"), inputs)


@pytest.mark.slow
@given(st.integers(1, 3), st.integers(1, 3), st.data())
@MANY_DRAWS
def test_any_matmul(left: int, right: int, data: Any) -> None:
    lengths = st.integers(1, 4)
    lead = data.draw(st.lists(lengths, min_size=2, max_size=2))
    m, k, n = (data.draw(lengths) for _ in range(3))
    ones = st.sampled_from((True, False))
    front = [[1 if data.draw(ones) else size for size in lead] for _ in range(2)]
    a = [*front[0][: left - 1], m, k]
    b = [*front[1][: right - 1], k, n]
    if left != right:
        a, b = [*front[0], m, k], [*front[1], k, n]
    inputs = {"a": noise(*a), "b": noise(*b, seed=1)}
    assert torch_error(torch.matmul, "MatMul", inputs, wanted=("a", "b")) < 1e-5
