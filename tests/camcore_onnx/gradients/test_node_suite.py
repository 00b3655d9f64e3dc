"""The node tests of ONNX itself: gradient nodes against central differences of its reference evaluator in float64."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.gradients.table import rule_of, rules
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx_vjp import SEED, Arrays, by_differences, by_nodes

from camcore.errors import MethodNotPossible

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
OPSETS = (26, 24, 22, 20, 18)  # tried where ONNX Runtime has no kernel for that of a case
DIRECTIONS, LARGE = 6, 5_000  # one direction where there are more numbers: the reference is slow
LIMITS = {np.float16: 5e-3, np.float32: 1e-4, np.float64: 1e-6}

# Refused even where all that is no float is stored: name of the case -> what the error says.
REFUSED = {
    r"batchnorm_.*training_mode": "it is in training mode, where images share statistics",
    r"constant_pad(_negative)?(_axes)?": "the number that it pads with depends on the layer",
    r"convtranspose_output_shape": "its result is longer than its windows reach",
    r"dynamicquantizelinear.*": "the scores depend on its scale alone",
    r"einsum_batch_diagonal": "has an ellipsis or takes a diagonal",
    r"resize_.*_nearest_not_(larger|smaller)": "it keeps the aspect ratio",
    r"scatter_with(out)?_axis": "the gradient of its updates needs opset 11",
    r"scatter_elements_with_reduction_(mul|max|min)": "expected 'none' or 'add'",
    r"scatternd_(multiply|max|min).*": "expected 'none' or 'add'",
    r"training_dropout.*": "it is in training mode and draws at random",
}

# Zeros and ties, where there is no derivative: these are moved to their right.
CORNERS = (
    r"(acosh|elu|leakyrelu|selu|thresholdedrelu)_example|pow|maxpool_3d_dilations(_use_ref_impl)?"
    r"|reduce_min_default_axes_keepdims_example|l[12]normalization_.*"
)

# Here the reference and ONNX Runtime differ, or the reference does not run in float64: differences of ONNX Runtime.
BY_RUNTIME = r"resize_downsample_scales_.*align_corners|maxunpool_export_with_output_shape|mvn"

STEPS = {"Gelu": 3e-3, "GroupNormalization": 1e-3}  # of these the reference computes a part in float32


@dataclass(frozen=True, eq=False)
class Case:
    """One node, and its inputs."""

    name: str
    model: onnx.ModelProto
    feed: Arrays
    wanted: list[str] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    @property
    def op(self) -> str:
        return str(self.model.graph.node[0].op_type)


@cache
def cases() -> dict[str, list[Case]]:
    """By operator: those that have floats on both sides, a rule, and a kernel in ONNX Runtime."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them divide by zero on purpose
        from onnx.backend.test.case.node import collect_testcases

        found = list(collect_testcases(None))
    by_op: dict[str, list[Case]] = {}
    for case in filter(None, map(_read, found)):
        by_op.setdefault(case.op, []).append(case)
    return by_op


def _read(test: Any) -> Case | None:
    graph = test.model.graph
    node = graph.node[0]
    rule = rule_of(node.domain, node.op_type)
    if (
        len(graph.node) != 1
        or rule is None
        or not test.data_sets
        or not all(i.type.HasField("tensor_type") for i in graph.input)
    ):
        return None
    name = test.name.removeprefix("test_")
    feed = {i.name: _finite(a) for i, a in zip(graph.input, test.data_sets[0][0], strict=True)}
    passing = {name for i, name in enumerate(node.input) if rule.passes(i)}
    wanted = [i.name for i in graph.input if _is_float(i) and i.name in passing]
    outputs = [i for i, o in enumerate(graph.output) if _is_float(o)]
    if re.fullmatch(CORNERS, name):
        feed |= {n: _moved(feed[n]) for n in wanted}
    return Case(name, test.model, feed, wanted, outputs) if wanted and outputs else None


def _finite(given: Any) -> NDArray[Any]:
    """Some cases hold numbers that are not finite, where there are no differences."""
    array = onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.asarray(given)
    return np.nan_to_num(array, nan=0.5, posinf=1.0, neginf=-1.0) if array.dtype.kind == "f" else array


def _moved(array: NDArray[Any]) -> NDArray[Any]:
    return (array + np.random.default_rng(5).uniform(0.01, 0.1, array.shape)).astype(array.dtype)


def runnable(case: Case) -> Case | None:
    """Stamped with the newest opset for which ONNX Runtime runs it."""
    own = next(o.version for o in case.model.opset_import if not o.domain)
    for opset in (own, *(v for v in OPSETS if v < own)):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        model.ir_version = min(model.ir_version, 11)
        for entry in model.opset_import:
            entry.version = entry.version if entry.domain else opset
        try:
            make_session(model.SerializeToString(), device="cpu").run(None, case.feed)
        except Exception:  # ONNX Runtime's exceptions share no base class
            continue
        return replace(case, model=model)
    return None


def fixed(case: Case) -> Case:
    """The same, but what no gradient passes is stored."""
    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    graph = copy.graph
    stored = [i for i in graph.input if i.name not in case.wanted]
    graph.initializer.extend(onnx.numpy_helper.from_array(case.feed[i.name], i.name) for i in stored)
    for info in stored:
        graph.input.remove(info)
    return replace(case, model=copy, feed={n: case.feed[n] for n in case.wanted})


def _is_float(info: onnx.ValueInfoProto) -> bool:
    return info.type.tensor_type.elem_type in FLOATS


def largest_error(case: Case, output: int) -> float:
    """Of the gradient along random directions, where the numbers that are summed are one in size."""
    outputs, gradients = by_nodes(case.model, case.feed, wanted=case.wanted, output=output)
    for name, gradient in gradients.items():
        assert gradient.shape == case.feed[name].shape
    if not any(g.size for g in gradients.values()):
        return 0.0
    step = STEPS.get(case.op, 1e-5)
    feed = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in case.feed.items()}
    generator, worst = np.random.default_rng(3), 0.0
    for _ in range(DIRECTIONS if sum(g.size for g in gradients.values()) < LARGE else 1):
        direction = {n: generator.standard_normal(case.feed[n].shape) for n in gradients}
        if re.fullmatch(BY_RUNTIME, case.name):
            expected = by_runtime(case, outputs[SEED], direction, output)
        else:
            expected = by_differences(case.model, feed, outputs[SEED], direction, output=output, step=step)
        terms = [gradients[n].astype(np.float64) * direction[n] for n in gradients]
        scale = max(sum(float(np.abs(t).sum()) for t in terms), abs(expected), 1e-6)
        error = abs(sum(float(t.sum()) for t in terms) - expected) / scale
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def by_runtime(case: Case, seed: NDArray[Any], direction: Arrays, output: int, step: float = 0.02) -> float:
    """Central differences of ONNX Runtime in float32, extrapolated to a step of zero."""
    session = make_session(case.model.SerializeToString(), device="cpu")

    def slope(step: float) -> float:
        ends = []
        for sign in (1, -1):
            moved = {n: (case.feed[n] + sign * step * d).astype(case.feed[n].dtype) for n, d in direction.items()}
            ends.append(float((seed * session.run(None, case.feed | moved)[output].astype(np.float64)).sum()))
        return (ends[0] - ends[1]) / (2 * step)

    return (4 * slope(step) - slope(2 * step)) / 3


def check(case: Case) -> Iterator[str]:
    """What is wrong with the gradients of a case, from all of its inputs and with those that are no floats stored."""
    expected = next((text for pattern, text in REFUSED.items() if re.fullmatch(pattern, case.name)), None)
    forms = [fixed(case)] if set(case.feed) == set(case.wanted) else [case, fixed(case)]
    for form in forms:
        for output in case.outputs:
            try:
                error = largest_error(form, output)
            except MethodNotPossible as refusal:
                if form is not case and (expected is None or expected not in str(refusal)):
                    yield f"{case.name}, output {output}: {refusal}"
                continue
            if expected is not None:
                yield f"{case.name}, output {output}: not refused; take it off the list"
            if error > LIMITS[case.feed[case.wanted[0]].dtype.type]:
                yield f"{case.name}, output {output}: the error is {error:.1e}"


@pytest.mark.parametrize("op", sorted({entry.op for entry in rules() if not entry.domain}))
def test_gradient_nodes_agree_with_differences(op: str) -> None:
    found = [case for case in map(runnable, cases().get(op, ())) if case is not None]
    wrong = [line for case in found for line in check(case)]
    assert not wrong, "\n".join(wrong)


def test_there_are_cases() -> None:
    assert sum(map(len, cases().values())) >= 300
