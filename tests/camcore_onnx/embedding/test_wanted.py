"""What may be embedded is checked before a graph is touched."""

from __future__ import annotations

import pytest
from camcore_onnx.embedding.wanted import wanted_classes, wanted_heatmap

from camcore.errors import InputError


class TestClasses:
    @pytest.mark.parametrize("classes", ["all", "input", "top1", "top5"])
    def test_the_kinds(self, classes):
        assert wanted_classes(classes, 10) == classes

    def test_no_more_than_there_are(self):
        assert wanted_classes("top5", 2) == "top2"

    @pytest.mark.parametrize("classes", ["best", "top0", 3, None, "top-1"])
    def test_others_are_refused(self, classes):
        with pytest.raises(InputError, match="expected 'all', 'input', or 'top5' for the best five"):
            wanted_classes(classes, 10)


class TestHeatmap:
    @pytest.mark.parametrize(("given", "found"), [(None, None), ("input", "input"), ("8x9", (8, 9)), ([8, 9], (8, 9))])
    def test_the_kinds(self, given, found):
        assert wanted_heatmap(given, 2) == found

    @pytest.mark.parametrize("given", ["8", "0x8", "8x-1", "axb", (8,), (8, 9, 10), (8, 10**6), 5, (8.5, 9)])
    def test_others_are_refused(self, given):
        with pytest.raises(InputError, match="expected 'input', or 2 lengths from 1 to 16384 such as '224x224'"):
            wanted_heatmap(given, 2)
