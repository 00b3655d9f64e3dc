"""Models of which bytes were changed: a model or one of the library's own errors comes out, and nothing else.

ONNX Runtime is left out here: what it does to such files is why `verify` and `export` run it in a process of its own.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import onnx
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.reading.load import load
from camcore_onnx.reading.wire import Unreadable, survey
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_graphs import FORMS, Graph, classifier, onnx_bytes

from camcore.errors import CamError, InputError
from camcore.preprocess import PRESETS

FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(FEW, max_examples=20_000)


@cache
def seed(name: str) -> bytes:
    """Small models with all that a file may have in it: weights of every form, a function, a branch, metadata."""
    if name in FORMS:
        model = classifier(size=(6, 6), form=name)
        model.metadata_props.add(key="camcore.labels", value=json.dumps(list("abcde")))
        model.metadata_props.add(key="camcore.preprocess", value=json.dumps(PRESETS["caffe"].to_json()))
        model.metadata_props.add(key="camcore.cam", value=json.dumps({"name": "cam", "heatmap": [6, 6]}))
        return onnx_bytes(model)
    if name == "real":
        return (Path(os.environ["CAMCORE_DATA"]) / "models" / "winml_mnist.onnx").read_bytes()
    g = Graph()
    body = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["y"])], "body", [], [helper.make_tensor_value_info("y", 1, None)]
    )
    value = g.add("If", g.const(True, dtype=bool), then_branch=body, else_branch=body)
    value = g.add("Own", value, domain="own")
    g.image(["N", 3, 6, 6])
    g.out(g.add("Gemm", value, g.const(g.normal(3, 4))), ["N", 4])
    inner = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    own = helper.make_function("own", "Own", ["x"], ["y"], inner, [helper.make_opsetid("", 17)])
    return onnx_bytes(g.model(functions=[own], domains=["own"]))


SEEDS = [*FORMS, "function"]


def read(data: bytes) -> bool:
    """All that is done with a file before ONNX Runtime sees it; whether it was taken."""
    try:
        backend = OnnxBackend(data, device="cpu")
    except InputError as error:
        assert str(error)  # noqa: PT017
        return False
    try:
        _ = backend.input, backend.labels, backend.preprocess, backend.complaints
        load(onnx_bytes(onnx.load_from_string(data)))
    except CamError as error:
        assert str(error)  # noqa: PT017
    return True


def flipped(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    found = bytearray(data)
    for place, value in changes:
        found[int(place * len(found))] ^= value
    return bytes(found)


def spliced(data: bytes, start: float, length: int, other: bytes) -> bytes:
    at = int(start * len(data))
    return data[:at] + other + data[at + length :]


PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=6)


def check_flips(name: str, changes: list[tuple[float, int]]) -> None:
    read(flipped(seed(name), changes))


def check_splices(name: str, start: float, length: int, other: bytes) -> None:
    read(spliced(seed(name), start, length, other))


def check_copies(name: str, start: float, end: float, to: float) -> None:
    """A part of the file again, somewhere else: fields twice, and graphs in graphs."""
    data = seed(name)
    part = data[int(min(start, end) * len(data)) : int(max(start, end) * len(data))]
    read(spliced(data, to, 0, part))


@FEW
@given(st.sampled_from(SEEDS), CHANGES)
def test_flipped_bytes(name, changes):
    check_flips(name, changes)


@FEW
@given(st.sampled_from(SEEDS), PLACES, st.integers(0, 40), st.binary(max_size=12))
def test_bytes_put_in_and_taken_out(name, start, length, other):
    check_splices(name, start, length, other)


@FEW
@given(st.sampled_from(SEEDS), PLACES, PLACES, PLACES)
def test_parts_copied(name, start, end, to):
    check_copies(name, start, end, to)


@pytest.mark.slow
@MANY
@given(st.sampled_from(SEEDS), CHANGES)
def test_many_flipped_bytes(name, changes):
    check_flips(name, changes)


@pytest.mark.slow
@MANY
@given(st.sampled_from(SEEDS), PLACES, st.integers(0, 40), st.binary(max_size=12))
def test_many_bytes_put_in_and_taken_out(name, start, length, other):
    check_splices(name, start, length, other)


@pytest.mark.slow
@MANY
@given(st.sampled_from(SEEDS), PLACES, PLACES, PLACES)
def test_many_parts_copied(name, start, end, to):
    check_copies(name, start, end, to)


@pytest.mark.parametrize("name", SEEDS)
def test_cut_off(name):
    data = seed(name)
    assert read(data)
    assert not any(read(data[:n]) for n in range(0, len(data) * 6 // 10, max(1, len(data) // 40)))  # in the graph
    for n in range(len(data) * 6 // 10, len(data), 7):
        read(data[:n])


@pytest.mark.skipif("CAMCORE_DATA" not in os.environ, reason="CAMCORE_DATA names no folder of real models")
def test_a_real_file():
    data = seed("real")
    assert read(data)
    for place in range(0, len(data), len(data) // 60):
        read(flipped(data, [(place / len(data), 255)]))
        assert not read(data[: place * 9 // 10])


@FEW
@given(st.sampled_from(SEEDS), CHANGES)
def test_the_count_before_parsing_is_that_of_the_parser(name, changes):
    """What protobuf understands, and has no unknown fields in it, has as many nodes and tensors as were counted."""
    for data in (seed(name), flipped(seed(name), changes)):
        proto = onnx.ModelProto()
        try:
            counts = survey(data, "it")
            proto.ParseFromString(data)
        except (DecodeError, Unreadable, InputError):
            continue
        assert counts["node"] >= len(proto.graph.node) + sum(len(f.node) for f in proto.functions)
        assert counts["tensor"] >= len(proto.graph.initializer)
        assert counts["metadata"] == len(proto.metadata_props)
        assert counts["value"] >= len(proto.graph.input) + len(proto.graph.output) + len(proto.graph.value_info)
