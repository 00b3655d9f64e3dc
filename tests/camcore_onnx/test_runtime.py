"""Sessions: the device asked for or an error, the options really set, and no telemetry."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as real
import pytest
from camcore_onnx import runtime
from camcore_onnx.runtime import OPTIMIZATION, device_of, make_session, providers_for
from onnx_graphs import classifier, images, onnx_bytes, python

from camcore.errors import DeviceError, InputError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MODEL = onnx_bytes(classifier())


class Hashable(SimpleNamespace):
    """As modules are."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class FakeSession:
    def __init__(self, model: Any, options: Any, providers: list[Any], works: bool) -> None:
        names = [p if isinstance(p, str) else p[0] for p in providers]
        self.providers = names if works else [n for n in names if n != CUDA]
        self.fallback = True

    def get_providers(self) -> list[str]:
        return self.providers

    def disable_fallback(self) -> None:
        self.fallback = False


@pytest.fixture
def fake(monkeypatch: Any) -> Any:
    """An ONNX Runtime with CUDA that works, and a driver; tests take away what they want."""
    state = SimpleNamespace(available=[CUDA, CPU], works=True, preloaded=0, created=[])

    def create(model: Any, options: Any, providers: list[Any]) -> FakeSession:
        state.created.append(providers)
        return FakeSession(model, options, providers, state.works)

    def preload() -> None:
        sys.stdout.write("noise")
        state.preloaded += 1

    module = Hashable(
        __version__="9.9",
        get_available_providers=lambda: state.available,
        InferenceSession=create,
        SessionOptions=real.SessionOptions,
        GraphOptimizationLevel=real.GraphOptimizationLevel,
        preload_dlls=preload,
    )
    monkeypatch.setattr(runtime, "onnxruntime", lambda: module)
    monkeypatch.setattr(runtime, "_has_driver", lambda: True)
    return state


class TestProviders:
    def test_cpu(self, fake):
        assert providers_for("cpu") == [CPU]

    @pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3), ("auto", 0)])
    def test_cuda(self, fake, device, index):
        (name, options), last = providers_for(device)
        assert (name, options["device_id"], last) == (CUDA, index, CPU)
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"

    def test_auto_without_a_driver(self, fake, monkeypatch):
        monkeypatch.setattr(runtime, "_has_driver", lambda: False)
        assert providers_for("auto") == [CPU]

    def test_auto_without_cuda_in_the_build(self, fake):
        fake.available = ["AzureExecutionProvider", CPU]
        assert providers_for("auto") == [CPU]

    def test_cuda_that_is_not_built_in(self, fake):
        fake.available = ["AzureExecutionProvider", CPU]
        with pytest.raises(DeviceError) as caught:
            providers_for("cuda:1")
        text = str(caught.value)
        assert "the installed ONNX Runtime has only AzureExecutionProvider, CPUExecutionProvider" in text
        assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'camcore[onnx-gpu]'" in text
        assert "take device='cpu'" in text

    @pytest.mark.parametrize("device", ["", "gpu", "CPU", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "tensorrt"])
    def test_unknown_devices(self, fake, device):
        text = f"device is {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'"
        with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
            providers_for(device)


class TestNoSilentFallback:
    def test_cuda_in_use(self, fake):
        session = make_session(b"", device="cuda")
        assert device_of(session) == "cuda"
        assert not session.fallback
        assert fake.created[0][0][0] == CUDA

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_cuda_that_fell_back(self, fake, device):
        fake.works = False
        with pytest.raises(DeviceError) as caught:
            make_session(b"", device=device)
        text = str(caught.value)
        assert text.startswith(f"device {device!r} was asked for, but ONNX Runtime fell back to CPUExecutionProvider")
        assert "`camcore doctor` shows what is missing; or take device='cpu'" in text

    def test_auto_may_fall_back_and_says_so(self, fake):
        fake.works = False
        assert device_of(make_session(b"", device="auto")) == "cpu"

    def test_the_cuda_libraries_are_loaded_once_and_silently(self, fake, capsys):
        for _ in range(3):
            make_session(b"", device="cuda")
        make_session(b"", device="cpu")
        assert fake.preloaded == 1
        assert capsys.readouterr() == ("", "")

    def test_the_cpu_needs_no_cuda_libraries(self, fake):
        make_session(b"", device="cpu")
        assert fake.preloaded == 0

    def test_the_cuda_of_this_machine_or_an_error(self):
        if CUDA in real.get_available_providers():
            assert providers_for("cuda")[0][0] == CUDA
        else:
            with pytest.raises(DeviceError, match="was asked for, but the installed ONNX Runtime has only"):
                make_session(MODEL, device="cuda")


class TestOptions:
    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_threads_are_set(self, threads):
        options = make_session(MODEL, device="cpu", threads=threads).get_session_options()
        assert options.intra_op_num_threads == threads

    def test_threads_left_to_onnx_runtime(self):
        assert make_session(MODEL, device="cpu").get_session_options().intra_op_num_threads == 0

    @pytest.mark.parametrize("threads", [0, -1])
    def test_threads_below_one(self, threads):
        with pytest.raises(InputError, match=f"threads is {threads}; expected at least 1"):
            make_session(MODEL, device="cpu", threads=threads)

    @pytest.mark.parametrize(
        ("word", "level"),
        [
            ("disabled", "DISABLE_ALL"),
            ("basic", "ENABLE_BASIC"),
            ("extended", "ENABLE_EXTENDED"),
            ("all", "ENABLE_ALL"),
        ],
    )
    def test_optimization_is_set(self, word, level):
        options = make_session(MODEL, device="cpu", optimization=word).get_session_options()
        assert options.graph_optimization_level == getattr(real.GraphOptimizationLevel, f"ORT_{level}")

    def test_every_level_gives_the_same_scores(self):
        pixels = {"image": images(2, 3, 8, 8)}
        found = [make_session(MODEL, device="cpu", optimization=o).run(None, pixels)[0] for o in OPTIMIZATION]
        for scores in found[1:]:
            np.testing.assert_allclose(scores, found[0], rtol=1e-5, atol=1e-6)

    def test_unknown_optimization(self):
        with pytest.raises(
            InputError, match="optimization is 'fast'; expected one of disabled, basic, extended, layout, all"
        ):
            make_session(MODEL, device="cpu", optimization="fast")

    def test_a_model_from_a_path(self, tmp_path):
        (tmp_path / "model.onnx").write_bytes(MODEL)
        session = make_session(str(tmp_path / "model.onnx"), device="cpu")
        assert [o.name for o in session.get_outputs()] == ["scores"]

    def test_a_model_that_onnx_runtime_refuses(self):
        model = classifier()
        model.graph.node[1].op_type = "NoSuchOperator"
        with pytest.raises(InputError, match=r"^ONNX Runtime \S+ cannot load the model: .*NoSuchOperator") as caught:
            make_session(onnx_bytes(model), device="cpu")
        assert "\n" not in str(caught.value)


class TestTelemetry:
    CODE = """
import os
from camcore_onnx.runtime import onnxruntime
assert "onnxruntime" not in sys.modules
onnxruntime()
print(os.environ["ORT_DISABLE_TELEMETRY"])"""

    def test_it_is_off_before_the_first_import(self):
        """A module that stands for ONNX Runtime notes what it finds while it is imported."""
        code = """
import os, importlib.abc, importlib.machinery
class Spy(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        module.seen = os.environ.get("ORT_DISABLE_TELEMETRY")
sys.meta_path.insert(0, Spy())
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
from camcore_onnx.runtime import onnxruntime
print(onnxruntime().seen)"""
        assert python(code) == "1"

    def test_the_real_module(self):
        assert python(self.CODE) == "1"

    def test_the_word_of_the_user_stands(self):
        assert python("import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'" + self.CODE) == "0"

    def test_every_way_in_goes_through_it(self):
        code = """
import os
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
import camcore_onnx
camcore_onnx.OnnxBackend, camcore_onnx.expose_features, camcore_onnx.export
print("onnxruntime" in sys.modules)"""
        assert python(code) == "False"


def test_a_module_that_is_loaded_is_taken_as_it_is(monkeypatch):
    stand_in = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    assert runtime.onnxruntime() is stand_in
