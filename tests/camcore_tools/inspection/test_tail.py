from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from camcore_onnx import embed_cam
from camcore_tools.inspection.facts import look_at
from camcore_tools.inspection.picture import Picture, title_of
from camcore_tools.inspection.tail import tail_of
from onnx_graphs import Graph, classifier, finish


def drawn(model: Any, folder: Path, layer: str | None = None) -> Picture:
    onnx.save(model, folder / "m.onnx")
    picture = tail_of(look_at(str(folder / "m.onnx")), layer)
    assert picture is not None
    return picture


def residual(blocks: int, **options: Any) -> Any:
    """A stem, residual blocks and a head."""
    g = Graph(17, **options)
    x = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="stem")
    for i in range(blocks):
        y = g.conv(g.add("Relu", g.conv(x, 6, 6)), 6, 6)
        x = g.add("Relu", g.add("Add", x, y), to="features" if i == blocks - 1 else f"block{i}")
    return finish(g, x, 6)


def titles(picture: Picture) -> list[str]:
    return [box.title for box in picture.boxes]


def test_the_last_block_the_head_and_the_outputs(tmp_path: Path) -> None:
    picture = drawn(residual(3), tmp_path)
    assert titles(picture) == [
        "12 nodes in front",
        *("Conv 3×3", "Relu", "Conv 3×3", "Add", "Relu"),
        *("GlobalAveragePool", "Flatten", "Gemm", "scores"),
    ]
    assert [b.role for b in picture.boxes] == ["trunk"] * 6 + ["head"] * 3 + ["tail"]
    marks = {e.mark: (e.name, e.shape, titles(picture)[e.target]) for e in picture.edges if e.mark}
    assert marks == {
        "features": ("features", "1×6×8×8", "GlobalAveragePool"),
        "scores": ("scores", "1×5", "scores"),
    }
    skips = [(e.source, e.target) for e in picture.edges if e.name == "block1"]
    assert skips == [(0, 1), (0, 4)]
    assert all(e.source < e.target for e in picture.edges)


def test_costs_add_up(tmp_path: Path) -> None:
    onnx.save(residual(3), tmp_path / "m.onnx")
    subject = look_at(str(tmp_path / "m.onnx"))
    picture = tail_of(subject)
    assert picture is not None
    assert subject.compute is not None
    assert sum(box.macs for box in picture.boxes) == subject.compute.total


def test_weights_are_told(tmp_path: Path) -> None:
    for form in ("initializer", "dequantized"):
        boxes = {b.title: b for b in drawn(residual(1, form=form), tmp_path).boxes}
        assert boxes["Conv 3×3"].details == ["6×6×3×3 + 6"]
        assert boxes["Gemm"].details == ["6×5 + 5"]
        assert boxes["Relu"].details == []


def test_a_whole_small_network(tmp_path: Path) -> None:
    """From the image on; of a free size, what was counted for."""
    picture = drawn(classifier(), tmp_path)
    assert [b.kind for b in picture.boxes] == ["input", *["node"] * 5, "output"]
    assert (picture.boxes[0].title, picture.boxes[0].name) == ("image", "1×3×224×224")


def test_what_is_embedded(tmp_path: Path) -> None:
    picture = drawn(embed_cam(residual(1), classes="input"), tmp_path)
    cam = [b for b in picture.boxes if b.role == "cam"]
    assert cam
    assert {b.title for b in picture.boxes if b.kind == "output"} == {"scores", "cam", "cam_classes", "cam_scores"}
    assert "cam_class" in [b.title for b in picture.boxes if b.kind == "input"]
    shapes = {e.name: e.shape for e in picture.edges}
    assert shapes["cam"] == "1×1×8×8"
    assert all("?" not in shape and "unk" not in shape for shape in shapes.values())


def test_a_heatmap_is_one_box(tmp_path: Path) -> None:
    picture = drawn(embed_cam(residual(1), classes="top5", heatmap=(16, 16)), tmp_path)
    (box,) = [b for b in picture.boxes if b.title.endswith(" nodes")]
    assert len(box.nodes) == int(box.title.split()[0]) >= 9
    assert {"ReduceMax", "ReduceMin", "Div"} <= {n.op_type for n in box.nodes}
    (edge,) = [e for e in picture.edges if picture.boxes[e.source] is box]
    assert edge.name == "heatmap"
    assert all(e.source < e.target for e in picture.edges)


def test_chains_of_operators_that_change_no_number(tmp_path: Path) -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    stepped = g.quantized(g.add("Identity", g.add("Identity", features)))
    picture = drawn(finish(g, stepped, 6), tmp_path, "features")
    assert "Identity › … › Dequantize" in titles(picture)


def test_sizes_are_left_out(tmp_path: Path) -> None:
    """What computes with lengths only is not of interest."""
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    batch = g.add("Gather", g.add("Shape", features), g.ints(0), axis=0)
    again = g.add("Reshape", features, g.add("Concat", batch, g.ints(6, 8, 8), axis=0))
    picture = drawn(finish(g, again, 6), tmp_path)
    assert not {"Gather", "Shape", "Concat"} & set(titles(picture))


def test_a_long_tail_is_cut_off(tmp_path: Path) -> None:
    picture = drawn(residual(20), tmp_path, "stem")
    assert len(picture.boxes) <= 42
    assert titles(picture)[0].endswith("nodes in front")
    assert not any(e.mark == "features" for e in picture.edges)
    assert titles(picture)[-1] == "scores"


def test_no_features_at_all(tmp_path: Path) -> None:
    g = Graph(17)
    flat = g.add("Flatten", g.image(["N", 3, 8, 8]))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 192)), to="scores", transB=1), ["N", 5])
    assert titles(drawn(g.model(), tmp_path)) == ["image", "Flatten", "Gemm", "scores"]


def test_titles() -> None:
    import onnx_ir as ir

    node = ir.node("Conv", [ir.Value(name="x")], {"kernel_shape": [3, 5], "strides": [2, 2]})
    assert title_of(node) == "Conv 3×5 /2"
    assert title_of(ir.node("MaxPool", [ir.Value(name="x")], {"kernel_shape": [3], "strides": [1]})) == "MaxPool 3"
    assert (
        title_of(ir.node("Conv", [ir.Value(name="x")], {"kernel_shape": [3, 3], "strides": [1, 2]})) == "Conv 3×3 /1×2"
    )


def test_pytorch_has_no_graph() -> None:
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert tail_of(look_at(model)) is None
