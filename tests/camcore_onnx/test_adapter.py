"""The entry point: which models it takes, that it loads nothing heavy, and what it says where a package is missing."""

from __future__ import annotations

import builtins
import re
import sys
from pathlib import Path
from typing import Any

import camcore_onnx
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx._adapter import adapter
from camcore_onnx.running.packages import need
from onnx_graphs import classifier, onnx_bytes, python

from camcore.errors import MissingPackage


class TestAccepts:
    @pytest.mark.parametrize(
        "model",
        [
            "model.onnx",
            Path("model.onnx"),
            b"bytes",
            bytearray(b"bytes"),
            onnx.ModelProto(),
            ir.from_proto(classifier()),
        ],
    )
    def test_models(self, model):
        assert adapter.accepts(model)

    @pytest.mark.parametrize("model", [None, 3, [b"bytes"], object(), onnx.GraphProto(), type("Model", (), {})()])
    def test_others(self, model):
        assert not adapter.accepts(model)

    def test_gives_a_backend_with_the_options(self):
        backend = adapter.backend(onnx_bytes(classifier()), device="cpu", threads=1)
        assert isinstance(backend, OnnxBackend)
        assert backend.device == "cpu"


class TestImports:
    def test_to_accept_loads_nothing_heavy(self):
        code = """
from camcore_onnx import adapter
assert adapter.accepts("a.onnx") and not adapter.accepts(3)
print([m for m in ("onnx", "onnx_ir", "onnxruntime", "torch") if m in sys.modules])"""
        assert python(code) == "[]"

    @pytest.mark.parametrize("name", camcore_onnx.__all__)
    def test_every_public_name_is_there(self, name):
        assert getattr(camcore_onnx, name) is not None

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="module 'camcore_onnx' has no attribute 'nothing'"):
            _ = camcore_onnx.nothing


class TestMissingPackages:
    @pytest.mark.parametrize("package", ["onnx", "onnx_ir", "onnxruntime"])
    def test_the_text_names_the_reason_and_both_cures(self, package, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)  # what Python makes of a package that must not be found
        with pytest.raises(MissingPackage) as caught:
            adapter.backend(b"")
        text = str(caught.value)
        assert text.startswith(f"{package} cannot be imported (import of {package} halted")
        assert "pip install 'camcore[onnx]'       # CPU" in text
        assert re.search(r"pip install 'camcore\[onnx-gpu\]' .*uninstall onnxruntime first", text)

    def test_a_library_that_fails_to_load_is_quoted(self, monkeypatch):
        real = builtins.__import__

        def fail(name: str, *rest: Any) -> Any:
            if name == "onnxruntime":
                raise ImportError("libcudart.so.13: cannot open shared object file")
            return real(name, *rest)

        monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
        monkeypatch.setattr("camcore_onnx.running.packages.import_module", lambda name: fail(name))
        with pytest.raises(MissingPackage, match=r"onnxruntime cannot be imported \(libcudart.so.13: cannot open"):
            need("onnxruntime")

    def test_nothing_is_said_where_all_is_there(self):
        need("onnx", "onnx_ir", "onnxruntime")
