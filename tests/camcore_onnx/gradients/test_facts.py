"""What is learned of a graph by running it: which lengths are free, which integers are the same for all images."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from camcore_onnx.gradients.facts import Facts, probes, see
from camcore_onnx.ports import image_input
from camcore_onnx.reading.load import Loaded, load
from onnx_graphs import Graph, classifier, finish

from camcore import InputError


def facts(model: Any, example: tuple[int, ...] | None = None) -> tuple[Loaded, dict[str, ir.Value], Facts]:
    loaded = load(model)
    values = {v.name or "": v for node in loaded.model.graph for v in node.outputs}
    return loaded, values, see(loaded, values.values(), probes(loaded, image_input(loaded), example))


def sizes(model: Any, example: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
    loaded = load(model)
    return [feed["image"].shape for feed in probes(loaded, image_input(loaded), example)]


class TestProbes:
    def test_what_is_free_differs(self) -> None:
        first, second = sizes(classifier())
        assert first == (2, 3, 224, 224)
        assert (second[0], second[1]) == (3, 3)
        assert all((a - b) % 2 for a, b in zip(first[2:], second[2:], strict=True))
        assert second[2] != second[3]

    def test_what_is_fixed_stays(self) -> None:
        assert sizes(classifier(size=(8, 9))) == [(2, 3, 8, 9), (3, 3, 8, 9)]
        assert {shape[0] for shape in sizes(classifier(batch=4))} == {4}
        assert [shape[3] for shape in sizes(classifier(size=("H", 9)))] == [9, 9]

    def test_an_example_is_the_first(self) -> None:
        assert sizes(classifier(), (31, 17))[0] == (2, 3, 31, 17)

    def test_multiples_of_32_where_others_are_not_taken(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 4), to="early")
        small = g.add("MaxPool", early, kernel_shape=[32, 32], strides=[32, 32])
        large = g.add("Resize", small, "", g.const([1, 1, 32, 32], dtype=np.float32), mode="nearest")
        first, second = sizes(finish(g, g.add("Add", early, large), 4))
        assert first == (2, 3, 224, 224)
        assert second == (3, 3, 256, 288)

    def test_one_size_where_no_other_is_taken(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 4), to="early")
        flat = g.add("Flatten", early)
        g.out(g.add("Gemm", flat, g.const(g.normal(4 * 32 * 32, 5)), to="scores"), ["N", 5])
        assert sizes(g.model()) == [(2, 3, 32, 32), (3, 3, 32, 32)]
        with pytest.raises(InputError, match=r"the model runs on no image of 9x9: .*\. Give the size it takes"):
            sizes(g.model(), (9, 9))


class TestSee:
    def test_lengths(self) -> None:
        _, values, found = facts(classifier())
        assert found.shape(values["features"]) == (None, 6, None, None)
        assert found.shape(values["scores"]) == (None, 5)
        assert found.dtype(values["scores"]) == ir.DataType.FLOAT

    def test_integers_that_are_the_same_for_all_images(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 4), to="early")
        shape = g.add("Shape", early)
        g.add("Gather", shape, g.ints(1), axis=0, to="channels")
        g.add("Gather", shape, g.ints(2), axis=0, to="rows")
        g.add("Mod", "rows", g.ints(32), to="rest")
        _, values, found = facts(finish(g, early, 4))
        np.testing.assert_array_equal(found.number(values["channels"]), [4])
        assert found.number(values["rows"]) is None
        assert found.number(values["rest"]) is None  # though it is zero for all usual sizes

    def test_what_the_numbers_of_an_image_decide_is_none_though_probes_agree(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 4), to="early")
        g.add("ArgMax", g.reduce("ReduceSum", early, [0, 2, 3]), axis=0, to="best")
        _, values, found = facts(finish(g, early, 4))
        assert found.number(values["best"]) is None
        assert found.dtype(values["best"]) == ir.DataType.INT64
