"""The table of derivatives: what is in it, and how it is added to."""

from __future__ import annotations

import onnx
import pytest
from camcore_onnx.gradients.table import FLAT, RULES, Rule, register, rule_of, rules

from camcore.errors import InputError

# What the table promises, by family.
PROMISED = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"),
    *("Add", "Sub", "Mul", "Div", "Neg", "Pow", "Sqrt", "Exp", "Log", "Erf", "Abs", "Reciprocal", "Sum", "Mean", "Max"),
    *("Min", "Clip", "Where", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid"),
    *("HardSwish", "Swish", "Mish", "Tanh", "Softplus", "Softmax", "LogSoftmax"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"),
    *("LRN", "LpNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"),
    *(
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "Expand",
        "Tile",
    ),
    *("GatherElements", "GatherND", "ScatterND", "ScatterElements", "Pad", "Resize", "DepthToSpace", "SpaceToDepth"),
    *("Cast", "Identity", "Dropout", "Mod", "QuantizeLinear", "DequantizeLinear"),
]


@pytest.mark.parametrize("op", PROMISED)
def test_what_is_promised(op: str) -> None:
    assert rule_of("", op) is not None
    assert rule_of("ai.onnx", op) is rule_of("", op)


def test_rules_are_of_operators_that_exist_and_say_what_they_approximate() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    entries = list(rules())
    assert {entry.op for entry in entries if not entry.domain} <= known
    assert known >= FLAT
    assert not FLAT & {entry.op for entry in entries if not entry.domain}
    inexact = {entry.op for entry in entries if entry.approximate}
    assert (
        {"QuantizeLinear", "DequantizeLinear"}
        <= inexact
        <= {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
    )


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(InputError, match="the operator 'Relu' of domain '' has a gradient already"):
        register(Rule("Relu", lambda at, g, i: g))
    with pytest.raises(InputError, match="the operator 'Shape' of domain '' has a gradient already"):
        register(Rule("Shape", lambda at, g, i: g))
    assert rule_of("com.example", "Relu") is None
    assert ("", "Shape") not in RULES
