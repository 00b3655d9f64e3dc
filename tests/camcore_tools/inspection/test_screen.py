from __future__ import annotations

from camcore_tools.inspection.screen import embedded, extras, fitted, same_maps, used_opsets


def test_tables_fit() -> None:
    rows = [("a" * 70, "(N, 3)", "b" * 30), ("short", "(N, 64, 112, 112)", "Relu")]
    for room in (60, 80, 200):
        lines = fitted(rows, (0, 2), room=room).splitlines()
        assert max(map(len, lines)) <= room
        assert len(lines) == 2
        assert lines[1].split()[0] == "short"
    assert fitted(rows, (0, 2), room=200).splitlines()[0] == "  " + "a" * 70 + "  (N, 3)             " + "b" * 30
    assert fitted([], (0,)) == ""


def test_columns_that_must_not_be_cut() -> None:
    """Shapes and figures stay whole, even where the terminal is too narrow for all."""
    text = fitted([("a" * 40, "(N, 64, 112, 112)", "100 %")], (0,), room=30)
    assert "(N, 64, 112, 112)  100 %" in text
    assert "a" * 13 not in text


def test_what_comes_on_top_of_a_forward_pass() -> None:
    assert extras("one forward pass") == "one forward pass"
    assert extras("one forward pass, and a backward pass of the tail") == "+ a backward pass of the tail"


def test_a_cam_in_words() -> None:
    card = {"method": "gradcam", "layer": "relu", "classes": "top5", "way": "closed form", "heatmap": None}
    assert embedded(card) == "gradcam of classes top5, at relu, by closed form, raw maps"
    assert embedded({"classes": "all", "heatmap": [8, 8]}) == "? of all classes, at ?, and a heatmap ([8, 8])"


def test_groups_are_told_once() -> None:
    methods = {"a": {"same map as": ["b"]}, "b": {"same map as": ["a"]}, "c": {"same map as": []}}
    assert same_maps(methods) == [("a", "b")]


def test_domains_without_operators_are_left_out() -> None:
    d = {"opset": {"": 17, "com.microsoft": 1, "ai.onnx.ml": 3}, "operators": {"Conv": 1, "com.microsoft.QGemm": 1}}
    assert used_opsets(d) == {"": 17, "com.microsoft": 1}
