"""Sessions: the device asked for or an error, the options really set, and no telemetry."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as real
import pytest
from camcore_onnx.running import plugins, providers, runtime
from camcore_onnx.running.providers import has_driver, register_provider
from camcore_onnx.running.runtime import OPTIMIZATION, device_of, make_session, placement
from onnx_graphs import classifier, images, onnx_bytes, python

from camcore.errors import DeviceError, InputError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
MODEL = onnx_bytes(classifier())


class Hashable(SimpleNamespace):
    """As modules are."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class FakeSession:
    """Lists the providers it was given but for those that do not start, and runs ``nodes`` on each."""

    def __init__(self, state: Any, options: Any, providers: list[Any] | None) -> None:
        given = [CPU] if providers is None else [p if isinstance(p, str) else p[0] for p in providers]
        listed = [*options.plugins, *given]
        self.providers = [n for n in listed if n not in state.broken]
        if CPU not in self.providers:
            self.providers.append(CPU)
        self.nodes = state.nodes

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        if self.nodes is None:
            raise RuntimeError("not recorded")
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in self.nodes]


class FakeOptions(real.SessionOptions):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.plugins: list[str] = []
        self.plugin_options: dict[str, str] = {}

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.plugins, self.plugin_options = [d.ep_name for d in devices], options


@pytest.fixture
def fake(monkeypatch: Any) -> Any:
    """An ONNX Runtime with CUDA and TensorRT that work, and a driver; tests take away what they want."""
    state = SimpleNamespace(
        available=[TENSORRT, CUDA, CPU],
        broken=[],
        nodes=None,
        words="",
        preloaded=0,
        created=[],
        options=[],
        registered={},
        devices=[],
        severities=[],
        refuse="",
    )

    def create(model: Any, options: Any, providers: Any, enable_fallback: int) -> FakeSession:
        assert enable_fallback == 0  # or ONNX Runtime prints, and takes what it likes
        if state.refuse and (providers is None or CPU not in providers[:1]):
            raise RuntimeError(state.refuse)
        state.created.append(providers)
        state.options.append(options)
        return FakeSession(state, options, providers)

    def preload() -> None:
        sys.stdout.write(state.words)
        state.preloaded += 1

    def register(name: str, path: str) -> None:
        if path == "broken.so":
            raise RuntimeError("Failed to load library broken.so with error: libcuda.so.1: cannot open")
        assert name not in state.registered
        state.registered[name] = path

    module = Hashable(
        __version__="9.9",
        get_available_providers=lambda: state.available,
        InferenceSession=create,
        SessionOptions=FakeOptions,
        GraphOptimizationLevel=real.GraphOptimizationLevel,
        OrtValue=real.OrtValue,
        preload_dlls=preload,
        register_execution_provider_library=register,
        get_ep_devices=lambda: [SimpleNamespace(ep_name=n) for n in state.devices if n in state.registered],
        set_default_logger_severity=state.severities.append,
    )
    state.module = module
    for place in (runtime, providers, plugins):
        monkeypatch.setattr(place, "onnxruntime", lambda: module)
    for place in (runtime, providers):
        monkeypatch.setattr(place, "has_driver", lambda: True)
    return state


@pytest.fixture
def new_device(monkeypatch: Any) -> Any:
    """Registers devices for one test."""
    rows = dict(providers._PROVIDERS)
    monkeypatch.setattr(providers, "_PROVIDERS", rows)
    monkeypatch.setattr(runtime, "PROVIDERS", rows)
    return register_provider


def entries(options: Any) -> dict[str, str]:
    """What of ours a session is told."""
    names = ("session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info")
    found = {}
    for name in names:
        with suppress(Exception):
            found[name] = options.get_session_config_entry(name)
    return found


class TestNoSilentFallback:
    def test_cuda_in_use(self, fake):
        session = make_session(b"", device="cuda")
        assert device_of(session) == "cuda"
        assert fake.created[0][0][0] == CUDA

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_cuda_that_fell_back(self, fake, device):
        fake.broken = [CUDA]
        with pytest.raises(DeviceError) as caught:
            make_session(b"", device=device)
        text = str(caught.value)
        assert text.startswith(f"device {device!r} was asked for, but ONNX Runtime fell back to CPUExecutionProvider: ")
        assert "`camcore doctor` shows what is missing; or take device='cpu'" in text

    def test_missing_libraries_are_named(self, fake):
        fake.broken, fake.words = [CUDA], "Failed to load libcublas.so.13: cannot open\nPlease follow\n"
        with pytest.raises(
            DeviceError, match=r"fell back to CPUExecutionProvider: libcublas\.so\.13 cannot be loaded\."
        ):
            make_session(b"", device="cuda")

    def test_a_machine_without_a_driver_is_told_so(self, fake, monkeypatch):
        fake.broken, fake.words = [CUDA], "Failed to load libcurand.so.10: cannot open\n"
        monkeypatch.setattr(runtime, "has_driver", lambda: False)
        with pytest.raises(DeviceError, match=r"no NVIDIA driver can be loaded, nor can libcurand\.so\.10"):
            make_session(b"", device="cuda")

    def test_a_provider_that_is_listed_and_runs_nothing(self, fake):
        """Plugins do so where they lack one operator."""
        fake.nodes = [(CPU, 12)]
        with pytest.raises(DeviceError, match="CUDAExecutionProvider takes none of the model's operators"):
            make_session(b"", device="cuda")

    def test_what_runs_where_is_counted(self, fake):
        fake.nodes = [(CPU, 2), (CUDA, 40), (CPU, 1)]
        session = make_session(b"", device="cuda")
        assert placement(session) == {CPU: 3, CUDA: 40}
        assert device_of(session) == "cuda"
        assert entries(fake.options[0])["session.record_ep_graph_assignment_info"] == "1"

    def test_auto_may_fall_back_and_warns_where_there_is_a_driver(self, fake):
        fake.broken, fake.words = [CUDA], "Failed to load libcublas.so.13: cannot open\n"
        with pytest.warns(
            RuntimeWarning, match=r"took the CPU, though there is a driver: .*libcublas\.so\.13"
        ) as caught:
            session = make_session(b"", device="auto")
        assert device_of(session) == "cpu"
        assert len(caught) == 1

    def test_auto_survives_a_provider_that_raises(self, fake):
        fake.refuse = "EP Error: cudaGetDeviceCount"
        with pytest.warns(RuntimeWarning, match="cudaGetDeviceCount"):
            assert device_of(make_session(b"", device="auto")) == "cpu"

    def test_auto_without_a_driver_is_silent(self, fake, monkeypatch, capfd):
        monkeypatch.setattr(providers, "has_driver", lambda: False)
        assert device_of(make_session(b"", device="auto")) == "cpu"
        assert fake.created == [[CPU]]
        assert capfd.readouterr() == ("", "")

    def test_auto_and_strict_do_not_fall_back(self, fake):
        fake.broken = [CUDA]
        with pytest.raises(DeviceError):
            make_session(b"", device="auto", strict=True)

    def test_the_cuda_libraries_are_loaded_once_and_silently(self, fake, capsys):
        fake.words = "noise"
        for _ in range(3):
            make_session(b"", device="cuda")
        make_session(b"", device="cpu")
        assert fake.preloaded == 1
        assert capsys.readouterr() == ("", "")

    def test_the_log_is_silent_while_a_provider_starts_and_as_before_afterwards(self, fake):
        make_session(b"", device="cuda")
        assert fake.severities == [4, 2]
        make_session(b"", device="cpu")
        assert fake.severities == [4, 2]

    def test_the_cpu_needs_no_cuda_libraries(self, fake):
        make_session(b"", device="cpu")
        assert fake.preloaded == 0
        assert fake.created == [[CPU]]
        assert entries(fake.options[0]) == {}

    def test_the_cuda_of_this_machine_or_an_error(self):
        if CUDA not in real.get_available_providers():
            with pytest.raises(DeviceError, match="was asked for, but the installed ONNX Runtime has only"):
                make_session(MODEL, device="cuda")
        elif has_driver():
            assert device_of(make_session(MODEL, device="cuda")) == "cuda"
        else:
            with pytest.raises(DeviceError, match="no NVIDIA driver can be loaded"):
                make_session(MODEL, device="cuda")


class TestStrict:
    def test_the_cpu_may_not_take_over(self, fake):
        make_session(b"", device="cuda", strict=True)
        assert CPU not in fake.created[0]
        assert entries(fake.options[0])["session.disable_cpu_ep_fallback"] == "1"

    def test_operators_that_would_run_on_the_cpu(self, fake):
        fake.refuse = (
            "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP"
        )
        with pytest.raises(DeviceError, match=r"strict=True: CUDAExecutionProvider has no kernel .* Leave strict out"):
            make_session(b"", device="cuda", strict=True)

    def test_onnx_runtime_itself_refuses(self):
        """The words that we look for are those of the real one."""
        options = real.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        with pytest.raises(Exception, match="assigned to the default CPU EP"):
            real.InferenceSession(MODEL, options, providers=[])


@pytest.mark.parametrize("words", ["the graph capture feature as requested", "the CUDA Graph feature as requested"])
def test_a_model_that_cannot_be_recorded(fake, words):
    fake.refuse = f"This session cannot use {words} by the user as all compute graph nodes have not been partitioned"
    with pytest.raises(
        DeviceError, match="cuda_graph=True: the model has control flow, or operators that run on the CPU"
    ):
        make_session(b"", device="cuda", cuda_graph=True)


class TestTensorRT:
    def test_tensors_that_are_read_inside_become_outputs_through_a_copy(self, fake):
        model = classifier()
        model.graph.output.append(onnx.helper.make_tensor_value_info("features", 1, None))
        loaded = ir.from_proto(model)
        seen = []
        make = fake.module.InferenceSession
        fake.module.InferenceSession = lambda data, *rest, **more: seen.append(data) or make(data, *rest, **more)
        for device in ("cpu", "tensorrt"):
            make_session(loaded, device=device)
        assert [o.name for o in loaded.graph.outputs] == ["scores", "features"]
        plain, shielded = (onnx.load_from_string(data).graph for data in seen)
        assert len(shielded.node) == len(plain.node) + 1
        assert [o.name for o in shielded.output] == ["scores", "features"]
        assert [n.op_type for n in shielded.node if "features" in n.output] == ["Identity"]
        assert not any("features" in n.input for n in shielded.node)

    def test_libraries_that_are_missing(self, fake):
        fake.refuse = "Please install TensorRT libraries as mentioned in the GPU requirements page"
        with pytest.raises(DeviceError, match=r"'tensorrt' was asked for, but .*install TensorRT libraries.*doctor"):
            make_session(b"", device="tensorrt")


class TestPlugins:
    @pytest.fixture
    def npu(self, fake, new_device, monkeypatch):
        monkeypatch.setattr(plugins, "_loaded", set())
        package = SimpleNamespace(get_library_path=lambda: "npu.so", get_ep_name=lambda: "NpuExecutionProvider")
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_npu", package)
        new_device("npu", module="onnxruntime_ep_npu", options={"mode": 3})
        fake.devices = ["NpuExecutionProvider", "NpuExecutionProvider"]
        return fake

    def test_one_line_makes_a_device(self, npu):
        for _ in range(2):
            session = make_session(b"", device="npu:1", provider_options={"deep": True})
        assert device_of(session) == "npu"
        assert npu.registered == {"NpuExecutionProvider": "npu.so"}
        assert npu.created == [None, None]  # its providers are in the options
        assert npu.options[0].plugins == ["NpuExecutionProvider"]
        assert npu.options[0].plugin_options == {"mode": "3", "deep": "True"}

    def test_a_device_that_is_not_there(self, npu):
        with pytest.raises(DeviceError, match="'npu:2' was asked for, but its plugin finds 2 such devices"):
            make_session(b"", device="npu:2")
        npu.devices = []
        for _ in range(2):
            with pytest.raises(DeviceError, match="its plugin finds no such devices"):
                make_session(b"", device="npu")

    def test_a_plugin_that_is_listed_and_runs_nothing(self, npu):
        npu.nodes = [(CPU, 3)]
        with pytest.raises(DeviceError, match="NpuExecutionProvider takes none"):
            make_session(b"", device="npu")

    def test_a_package_that_is_not_installed(self, fake):
        with pytest.raises(
            DeviceError, match=r"No module named 'onnxruntime_ep_cuda'\. pip install onnxruntime-ep-cuda13"
        ):
            make_session(b"", device="cuda-plugin")

    def test_a_library_that_does_not_load(self, fake, new_device):
        new_device("broken", "BrokenExecutionProvider", library="broken.so", cure="Build it again")
        with pytest.raises(
            DeviceError, match=r"cannot be loaded: .*libcuda.so.1: cannot open. Build it again; or take"
        ):
            make_session(b"", device="broken")

    def test_a_runtime_that_takes_no_plugins(self, npu):
        del npu.module.register_execution_provider_library
        with pytest.raises(DeviceError, match=r"a plugin, which ONNX Runtime 9\.9 does not take; update it"):
            make_session(b"", device="npu")

    def test_auto_takes_the_plugin_where_cuda_is_not_built_in(self, fake, new_device, monkeypatch):
        fake.available = [CPU]
        monkeypatch.setattr(plugins, "_loaded", set())
        package = SimpleNamespace(get_library_path=lambda: "c.so", get_ep_name=lambda: "CudaPlugin")
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_cuda", package)
        package.__spec__ = SimpleNamespace()
        fake.devices = ["CudaPlugin"]
        assert device_of(make_session(b"", device="auto")) == "cuda-plugin"


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
from camcore_onnx.running.runtime import onnxruntime
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
from camcore_onnx.running.runtime import onnxruntime
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
