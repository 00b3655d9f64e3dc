"""Models as untrusted data: whatever comes, the answer is a model or an InputError that says what came."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.reading import limits
from camcore_onnx.reading import load as load_module
from camcore_onnx.reading.load import load, serialize
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper
from onnx_graphs import Graph, classifier, images, onnx_bytes, run_plainly

import camcore
from camcore.errors import CamError, InputError


def with_external_weights(folder: Path, location: str = "weights.bin") -> Path:
    """A classifier in a folder, its weights in a file beside it."""
    path = folder / "model.onnx"
    options = {"save_as_external_data": True, "size_threshold": 0, "location": location}
    onnx.save(classifier(form="initializer"), path, **options)
    return path


def point_to(path: Path, *locations: str) -> None:
    """Rewrite where the first weight of a model lies."""
    model = onnx.load(path, load_external_data=False)
    entries = model.graph.initializer[0].external_data
    while any(e.key == "location" for e in entries):
        del entries[next(i for i, e in enumerate(entries) if e.key == "location")]
    for location in locations:
        entry = entries.add()
        entry.key, entry.value = "location", location
    path.write_bytes(onnx_bytes(model))


class TestSources:
    @pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "proto", "ir"])
    def test_every_kind_gives_the_same_scores(self, tmp_path, kind):
        model = classifier()
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_bytes(model))
        data = onnx_bytes(model)
        sources = {"path": path, "str": str(path), "bytes": data, "bytearray": bytearray(data), "proto": model}
        source = sources.get(kind) or ir.from_proto(model)
        scores = camcore.explainer(source, device="cpu")(images(2, 3, 8, 8)).scores
        np.testing.assert_array_equal(scores, run_plainly(model, images(2, 3, 8, 8))[0])

    def test_what_is_known_of_a_file(self, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_bytes(classifier()))
        loaded = load(path)
        assert (loaded.name, loaded.path, loaded.folder) == (str(path), path.resolve(), None)
        assert loaded.size == path.stat().st_size

    def test_a_model_given_is_not_changed(self):
        model = classifier()
        before = onnx_bytes(model)
        given = ir.from_proto(model)
        camcore.explainer(model, device="cpu")(images(1, 3, 8, 8))
        camcore.explainer(given, device="cpu")(images(1, 3, 8, 8))
        assert onnx_bytes(model) == before
        assert [v.name for v in given.graph.outputs] == ["scores"]


class TestWhatIsNoModel:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "the file is empty (0 bytes); expected an .onnx file"),
            (b"hello, I am no model\n", "it is a text file beginning 'hello, I am no model"),
            (b"version https://git-lfs.github.com/spec/v1\n", "it is a text file beginning 'version https://git-lfs"),
            (b"PK\x03\x04" + bytes(60), "it is a zip archive (a PyTorch checkpoint?); export it to ONNX first"),
            (b"\x89HDF\r\n\x1a\n" + bytes(60), "it is an HDF5 file (Keras?); export it to ONNX first"),
            (bytes(range(256)), "its 256 bytes cannot be parsed; copy or export it again"),
            (b"\x08\x08", "its 2 bytes cannot be parsed; copy or export it again"),
        ],
    )
    def test_content(self, tmp_path, content, text):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(text)) as caught:
            load(path)
        assert str(path) in str(caught.value)

    def test_bytes_have_no_path(self):
        with pytest.raises(InputError, match=r"^the bytes given: not an ONNX model, or cut off: it is a text file"):
            load(b"hello")

    def test_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere.onnx: no such file; expected an .onnx file"):
            load(tmp_path / "nowhere.onnx")

    def test_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"is a folder; expected an .onnx file"):
            load(tmp_path)

    def test_file_that_may_not_be_read(self, tmp_path, monkeypatch):
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_bytes(classifier()))

        def refuse(self: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(InputError, match=r"model.onnx: cannot be read: Permission denied"):
            load(path)


class TestInputs:
    def test_no_image(self):
        g = Graph()
        row = g.image(["N", 12], "row")
        g.out(g.add("Relu", row), ["N", 12])
        text = "no image input: expected floats (N, C, *S), the model takes 'row' float [N, 12]"
        with pytest.raises(InputError, match=re.escape(text)):
            OnnxBackend(g.model())

    def test_two_inputs(self):
        g = Graph()
        sides = [g.image(["N", 3, 8, 8], name) for name in ("left", "right")]
        g.out(g.add("Flatten", g.add("GlobalAveragePool", g.add("Add", *sides))), ["N", 3])
        with pytest.raises(InputError, match=r"2 inputs \('left' float \[N, 3, 8, 8\], 'right' .*fix the others first"):
            OnnxBackend(g.model())

    def test_initialisers_that_are_inputs_do_not_count(self):
        model = classifier(form="input")
        assert len(model.graph.input) == 5
        assert OnnxBackend(model).input.name == "image"

    def test_missing_output(self):
        with pytest.raises(InputError, match="no output 'probs'; it has 'scores'"):
            _ = OnnxBackend(classifier(), output="probs").found

    @pytest.mark.parametrize("stored", [False, True])
    def test_image_or_weight_that_is_returned_as_it_came(self, stored):
        g = Graph()
        image = g.image(["N", 3, 1, 1])
        value = g.const(g.normal(1, 3)) if stored else image
        g.add("Relu", image)
        g.out(value, ["N", 3] if stored else ["N", 3, 1, 1])
        with pytest.raises(InputError, match=f"the model gives {value!r} as it came or was stored"):
            OnnxBackend(g.model(), device="cpu").scores(images(1, 3, 1, 1))


class TestDamage:
    """Only InputError on the way in, and only the library's own errors behind it."""

    def explain(self, data: bytes) -> bool:
        """Whether it can be loaded; any exception but the library's own passes through and fails the test."""
        try:
            load(data)
        except InputError:
            return False
        with suppress(CamError):
            explained = camcore.explainer(data, device="cpu", threads=1)
            _ = explained.backend.layers()
            explained(images(1, 3, 6, 6))
        return True

    def test_cut_off(self):
        data = onnx_bytes(classifier())
        whole = [self.explain(data[:n]) for n in range(0, len(data), max(1, len(data) // 100))]
        assert not any(whole[:90])
        assert self.explain(data)

    def test_flipped_bits(self):
        data = onnx_bytes(classifier(size=(6, 6)))
        random = np.random.default_rng(0)
        for _ in range(250):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), random.integers(1, 4)):
                damaged[place] ^= 1 << random.integers(0, 8)
            self.explain(bytes(damaged))

    def test_bytes_replaced_where_the_structure_is(self):
        model = classifier(size=(6, 6))
        data = onnx_bytes(model)
        places = [m.start() for m in re.finditer(rb"[a-z]{3}", data)]
        random = np.random.default_rng(1)
        for place in random.choice(places, 150):
            damaged = bytearray(data)
            damaged[place - int(random.integers(0, 3))] = random.integers(0, 256)
            self.explain(bytes(damaged))

    @pytest.mark.parametrize("field", ["op_type", "name", "domain", "input", "output", "attribute"])
    def test_one_field_of_a_node_emptied(self, field):
        for index in range(5):
            model = classifier(size=(6, 6))
            model.graph.node[index].ClearField(field)
            self.explain(onnx_bytes(model))

    def test_attributes_of_the_wrong_kind(self):
        for index in range(5):
            for attribute in range(len(classifier().graph.node[index].attribute)):
                model = classifier(size=(6, 6))
                held = model.graph.node[index].attribute[attribute]
                wrong = helper.make_attribute(held.name, "text")
                held.CopyFrom(wrong)
                self.explain(onnx_bytes(model))

    @pytest.mark.parametrize("field", ["name", "op_type", "domain"])
    def test_names_that_are_no_text(self, field):
        model = classifier()
        setattr(model.graph.node[1], field, "QQQQ")
        data = onnx_bytes(model).replace(b"QQQQ", b"QQ\xff\xfe")
        with pytest.raises(InputError, match=r"the graph is damaged: the name .* is not UTF-8"):
            load(data)

    def test_a_tensor_that_nothing_makes(self):
        model = classifier()
        model.graph.node[1].input[0] = "nowhere"
        with pytest.raises(InputError, match="the graph is damaged: Relu reads 'nowhere', which nothing makes"):
            load(model)

    def test_weights_of_the_wrong_shape(self):
        for index in range(4):
            for dims in ([], [1], [2, 2], [0], [-1], [10**9]):
                model = classifier(size=(6, 6))
                model.graph.initializer[index].dims[:] = dims
                self.explain(onnx_bytes(model))

    def test_a_graph_that_bites_its_tail(self):
        g = Graph()
        image = g.image(["N", 3, 8, 8])
        g.add("Add", image, "back", to="forth")
        g.add("Identity", "forth", to="back")
        g.out("back", ["N", 3])
        with pytest.raises(InputError, match=r"the graph is damaged: .*cycle"):
            load(g.model())

    def test_a_weight_that_bites_its_tail(self):
        g = Graph()
        image = g.image(["N", 3, 8, 8])
        g.add("Add", "back", g.const(g.normal(3, 4)), to="forth")
        g.add("Identity", "forth", to="back")
        g.out(g.add("MatMul", g.add("Flatten", g.add("GlobalAveragePool", image)), "back"), ["N", 4])
        with pytest.raises(InputError, match=r"the graph is damaged: .*cycle"):
            load(g.model())

    def test_nodes_in_any_order(self):
        model = classifier()
        expected = run_plainly(model, images(2, 3, 8, 8))[0]
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(reversed(nodes))
        out = camcore.explainer(model, device="cpu")(images(2, 3, 8, 8))
        np.testing.assert_array_equal(out.scores, expected)
        assert out.layer == "features"

    def test_weight_too_large_to_be_made(self):
        g = Graph()
        image = g.image(["N", 3, 8, 8])
        huge = g.add("ConstantOfShape", g.ints(3, 1 << 45), name="huge")
        g.out(g.add("MatMul", g.add("Flatten", g.add("GlobalAveragePool", image)), huge), ["N", 1 << 45])
        with pytest.raises(CamError):
            OnnxBackend(g.model(), device="cpu").tap().need_head()


class TestOperators:
    def test_custom_operator(self):
        g = Graph()
        g.out(g.add("Mystery", g.image(["N", 3, 8, 8]), domain="evil.corp"), ["N", 3])
        text = (
            "uses the custom operator evil.corp::Mystery; custom operators are refused. Export the model with standard"
        )
        with pytest.raises(InputError, match=re.escape(text)):
            load(g.model(domains=["evil.corp"]))

    def test_custom_operator_inside_a_function(self):
        inner = helper.make_node("Mystery", ["x"], ["y"], domain="evil.corp")
        model = calling(helper.make_function("own", "Own", ["x"], ["y"], [inner], opsets(own=False, evil=True)))
        with pytest.raises(InputError, match=r"custom operator evil\.corp::Mystery; custom operators are refused"):
            load(model)

    def test_custom_operator_inside_a_branch(self):
        inner = helper.make_node("Mystery", ["image"], ["y"], domain="evil.corp")
        body = helper.make_graph([inner], "body", [], [helper.make_tensor_value_info("y", 1, None)])
        g = Graph()
        g.image(["N", 3, 8, 8])
        g.out(g.add("If", g.const(np.array(True), dtype=bool), then_branch=body, else_branch=body), ["N", 3])
        with pytest.raises(InputError, match=r"custom operator evil\.corp::Mystery; custom operators are refused"):
            load(g.model(domains=["evil.corp"]))

    def test_functions_of_the_model_are_written_out(self):
        inner = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
        model = calling(helper.make_function("own", "Own", ["x"], ["y"], inner, opsets(own=False)))
        loaded = load(model)
        assert [n.op_type for n in loaded.model.graph] == ["Relu", "GlobalAveragePool", "Flatten", "Gemm"]
        out = camcore.explainer(model, device="cpu")(images(2, 3, 8, 8))
        np.testing.assert_allclose(out.scores, run_plainly(model, images(2, 3, 8, 8))[0], rtol=1e-6)

    def test_function_that_calls_itself(self):
        inner = helper.make_node("Own", ["x"], ["y"], domain="own")
        model = calling(helper.make_function("own", "Own", ["x"], ["y"], [inner], opsets()))
        with pytest.raises(InputError, match="the graph is damaged"):
            load(model)

    def test_functions_that_multiply(self):
        """Ten levels of ten calls each: some kilobytes that would unfold to ten thousand million nodes."""
        functions = [
            helper.make_function("own", "F0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets())
        ]
        for level in range(1, 11):
            names = ["x", *[f"t{i}" for i in range(9)], "y"]
            calls = [helper.make_node(f"F{level - 1}", [a], [b], domain="own") for a, b in pairwise(names)]
            functions.append(helper.make_function("own", f"F{level}", ["x"], ["y"], calls, opsets()))
        g = Graph()
        g.out(g.add("F10", g.image(["N", 3, 8, 8]), domain="own"), ["N", 3])
        with pytest.raises(InputError, match="nodes once its functions are written out; the limit is 200000"):
            load(g.model(functions=functions, domains=["own"]))

    def test_too_many_nodes(self, monkeypatch):
        monkeypatch.setattr(limits, "MAX_NODES", 4)
        with pytest.raises(InputError, match="model in memory: 5 nodes; the limit is 4"):
            load(classifier())
        with pytest.raises(InputError, match="the bytes given: more than 4 nodes; the limit is 4"):
            load(onnx_bytes(classifier()))

    def test_more_than_protobuf_can_hold(self):
        class Proto:
            def SerializeToString(self) -> bytes:
                raise EncodeError("Failed to serialize proto")

        loaded = load(classifier())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(load_module.ir, "to_proto", lambda model: Proto())
            with pytest.raises(InputError, match="larger than 2 GiB; keep its weights in an external file"):
                serialize(loaded.model)


def opsets(*, own: bool = True, evil: bool = False) -> list[Any]:
    wanted = ["", *(["own"] if own else []), *(["evil.corp"] if evil else [])]
    return [helper.make_opsetid(d, 17 if not d else 1) for d in wanted]


def calling(function: Any) -> Any:
    """image -> Relu -> own.Own -> Gemm."""
    g = Graph()
    value = g.add("Own", g.add("Relu", g.image(["N", 3, 8, 8])), domain="own")
    g.out(g.add("Gemm", value, g.const(g.normal(3, 4))), ["N", 4])
    return g.model(functions=[function], domains=["own", "evil.corp"])


class TestExternalData:
    def test_in_place(self, tmp_path):
        path = with_external_weights(tmp_path)
        assert load(path).folder == tmp_path.resolve()
        out = camcore.explainer(path, device="cpu")(images(2, 3, 8, 8), classes="all")
        np.testing.assert_array_equal(out.scores, run_plainly(classifier(), images(2, 3, 8, 8))[0])

    def test_in_place_with_a_relative_path(self, tmp_path, monkeypatch):
        with_external_weights(tmp_path)
        monkeypatch.chdir(tmp_path)
        out = camcore.explainer("model.onnx", device="cpu")(images(2, 3, 8, 8))
        assert out.layer == "features"

    def test_in_a_folder_below(self, tmp_path):
        (tmp_path / "below").mkdir()
        path = with_external_weights(tmp_path)
        (tmp_path / "weights.bin").rename(tmp_path / "below" / "weights.bin")
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            next(e for e in tensor.external_data if e.key == "location").value = "below/weights.bin"
        path.write_bytes(onnx_bytes(model))
        assert camcore.explainer(path, device="cpu")(images(2, 3, 8, 8)).layer == "features"

    def test_from_bytes(self, tmp_path):
        data = with_external_weights(tmp_path).read_bytes()
        with pytest.raises(
            InputError, match=r"its weights lie in 'weights.bin'; give the path of the .onnx file instead"
        ):
            load(data)

    def test_missing(self, tmp_path):
        path = with_external_weights(tmp_path)
        (tmp_path / "weights.bin").unlink()
        with pytest.raises(InputError, match=r"the file 'weights.bin' with its weights is missing; put it into"):
            load(path)

    @pytest.mark.parametrize("kept", [0, 10, 0.5])
    def test_cut_off(self, tmp_path, kept):
        path = with_external_weights(tmp_path)
        data = (tmp_path / "weights.bin").read_bytes()
        (tmp_path / "weights.bin").write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
        with pytest.raises(InputError, match=r"weights\.bin"):
            camcore.explainer(path, device="cpu")(images(1, 3, 8, 8))

    @pytest.mark.parametrize(
        "location", ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "..\\weights.bin", ""]
    )
    def test_outside(self, tmp_path, location):
        (tmp_path / "model").mkdir()
        (tmp_path / "weights.bin").write_bytes(bytes(4096))
        path = with_external_weights(tmp_path / "model")
        point_to(path, location)
        with pytest.raises(InputError, match=r"its weights point outside the model's folder .*refused"):
            load(path)

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_second_location_hidden_behind_a_good_one(self, tmp_path, order):
        path = with_external_weights(tmp_path)
        point_to(path, *["weights.bin", "/etc/passwd"][::order])
        with pytest.raises(InputError, match=r"point outside the model's folder \('/etc/passwd'\); refused"):
            load(path)

    def test_inside_a_function(self):
        tensor = TensorProto(data_type=1, dims=[3, 4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        constant = helper.make_node("Constant", [], ["w"], value=tensor)
        pool = helper.make_node("GlobalAveragePool", ["x"], ["y"])
        model = calling(helper.make_function("own", "Own", ["x"], ["y"], [constant, pool], opsets(own=False)))
        with pytest.raises(InputError, match="its weights lie in '/etc/passwd'"):
            load(model)

    def test_inside_a_constant(self):
        g = Graph()
        tensor = TensorProto(data_type=1, dims=[3, 4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        weight = g.add("Constant", value=tensor)
        pooled = g.add("Flatten", g.add("GlobalAveragePool", g.image(["N", 3, 8, 8])))
        g.out(g.add("MatMul", pooled, weight), ["N", 4])
        with pytest.raises(InputError, match="its weights lie in '/etc/passwd'"):
            load(g.model())

    def test_link_to_the_outside(self, tmp_path):
        (tmp_path / "model").mkdir()
        path = with_external_weights(tmp_path / "model")
        (tmp_path / "model" / "weights.bin").rename(tmp_path / "weights.bin")
        (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "weights.bin")
        with pytest.raises(InputError, match=r"'weights.bin' with its weights is a link or no regular file"):
            load(path)

    def test_second_name_of_a_file_elsewhere(self, tmp_path):
        (tmp_path / "model").mkdir()
        path = with_external_weights(tmp_path / "model")
        os.link(tmp_path / "model" / "weights.bin", tmp_path / "elsewhere.bin")
        with pytest.raises(InputError, match=r"is a link or no regular file in .*; put a copy there"):
            load(path)

    def test_folder_in_place_of_a_file(self, tmp_path):
        path = with_external_weights(tmp_path)
        (tmp_path / "weights.bin").unlink()
        (tmp_path / "weights.bin").mkdir()
        with pytest.raises(InputError, match="is a link or no regular file"):
            load(path)
