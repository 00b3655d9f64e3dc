"""Which provider serves a device, with which options; and what is refused."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from camcore_onnx.running import providers
from camcore_onnx.running.providers import PROVIDERS, place, providers_for, register_provider

from camcore.errors import DeviceError, InputError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(autouse=True)
def built(monkeypatch: Any) -> Any:
    """An ONNX Runtime with all providers, and a driver."""
    state = SimpleNamespace(available=[TENSORRT, CUDA, CPU], driver=True)
    module = SimpleNamespace(get_available_providers=lambda: state.available, __version__="9.9")
    monkeypatch.setattr(providers, "onnxruntime", lambda: module)
    monkeypatch.setattr(providers, "has_driver", lambda: state.driver)
    return state


def test_cpu() -> None:
    assert providers_for("cpu") == [CPU]


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3), ("auto", 0)])
def test_cuda(device: str, index: int) -> None:
    (name, options), last = providers_for(device)
    assert (name, last) == (CUDA, CPU)
    assert options == {
        "device_id": index,
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


def test_tensorrt_leaves_what_it_cannot_to_cuda() -> None:
    (first, own), (second, behind), last = providers_for("tensorrt:2")
    assert (first, second, last) == (TENSORRT, CUDA, CPU)
    assert own == {"device_id": 2}
    assert behind["device_id"] == 2
    assert behind["cudnn_conv_algo_search"] == "HEURISTIC"


def test_options_of_tensorrt_and_of_cuda_behind_it(tmp_path: Any) -> None:
    cache = tmp_path / "engines" / "mine"
    given = {"trt_engine_cache_path": str(cache), "trt_fp16_enable": 1, "gpu_mem_limit": 7}
    own, behind = (options for _, options in providers_for("tensorrt", provider_options=given)[:2])
    assert own == {
        "device_id": 0,
        "trt_engine_cache_enable": 1,
        "trt_engine_cache_path": str(cache),
        "trt_fp16_enable": 1,
    }
    assert behind["gpu_mem_limit"] == 7
    assert not any(name.startswith("trt_") for name in behind)
    assert cache.is_dir()


def test_a_cache_may_be_switched_off(tmp_path: Any) -> None:
    given = {"trt_engine_cache_path": str(tmp_path), "trt_engine_cache_enable": 0}
    assert providers_for("tensorrt", provider_options=given)[0][1]["trt_engine_cache_enable"] == 0


def test_the_options_of_the_user_win() -> None:
    options = providers_for("cuda", provider_options={"cudnn_conv_algo_search": "EXHAUSTIVE", "gpu_mem_limit": 5})[0][1]
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert options["gpu_mem_limit"] == 5


def test_what_is_not_asked_for_is_left_to_onnx_runtime() -> None:
    assert not {"use_tf32", "enable_cuda_graph"} & set(providers_for("cuda")[0][1])
    assert providers_for("cuda", tf32=False)[0][1]["use_tf32"] == 0
    assert providers_for("cuda", cuda_graph=True)[0][1]["enable_cuda_graph"] == 1


def test_strict_leaves_the_cpu_out() -> None:
    assert [name for name, _ in providers_for("tensorrt", strict=True)] == [TENSORRT, CUDA]


class TestAuto:
    def test_without_a_driver(self, built: Any) -> None:
        built.driver = False
        assert providers_for("auto") == [CPU]

    def test_without_cuda_in_the_build(self, built: Any) -> None:
        built.available = ["AzureExecutionProvider", CPU]
        assert providers_for("auto") == [CPU]

    def test_never_tensorrt(self, built: Any) -> None:
        built.available = [TENSORRT, CPU]
        assert providers_for("auto") == [CPU]

    def test_options_for_what_it_may_take(self, built: Any) -> None:
        assert providers_for("auto", provider_options={"gpu_mem_limit": 5})[0][1]["gpu_mem_limit"] == 5
        built.driver = False
        assert providers_for("auto", provider_options={"gpu_mem_limit": 5}, strict=True) == [CPU]


class TestRefused:
    @pytest.mark.parametrize("device", ["cuda:1", "tensorrt"])
    def test_what_is_not_built_in(self, built: Any, device: str) -> None:
        built.available = ["AzureExecutionProvider", CPU]
        with pytest.raises(DeviceError) as caught:
            providers_for(device)
        text = str(caught.value)
        assert f"device {device!r} was asked for" in text
        assert "the installed ONNX Runtime has only AzureExecutionProvider, CPUExecutionProvider" in text
        assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'camcore[onnx-gpu]'" in text
        assert "take device='cpu'" in text

    @pytest.mark.parametrize(
        "device", ["", "gpu", "CPU", "cuda:x", "cuda:-1", "cuda:", "cuda:²", "cpu:0", "auto:1", "trt"]
    )
    def test_unknown_devices(self, device: str) -> None:
        text = f"device is {device!r}; expected one of 'auto', 'cpu', 'cuda', 'tensorrt', "
        with pytest.raises(InputError, match=f"^{re.escape(text)}.*or 'cuda:N' for one of several$"):
            providers_for(device)

    @pytest.mark.parametrize(
        ("device", "options", "text"),
        [
            ("cpu", {"provider_options": {"a": 1}}, "provider_options is for other devices than 'cpu'"),
            ("cpu", {"strict": True}, "strict=True is for other devices than 'cpu'"),
            ("cpu", {"cuda_graph": True}, "cuda_graph=True needs device='cuda'; it is 'cpu'"),
            ("tensorrt", {"cuda_graph": True}, "cuda_graph=True needs device='cuda'; it is 'tensorrt'"),
            ("tensorrt", {"tf32": False}, "tf32=False is for device='cuda'; 'tensorrt' has no such option"),
            ("cuda", {"provider_options": {"device_id": 1}}, "say it in the device: 'cuda:1'"),
        ],
    )
    def test_options_that_do_not_fit(self, device: str, options: Any, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            providers_for(device, **options)

    def test_a_graph_where_auto_takes_the_cpu(self, built: Any) -> None:
        built.driver = False
        with pytest.raises(InputError, match="it is 'auto', which takes 'cpu' here"):
            providers_for("auto", cuda_graph=True)

    def test_the_cpu_always_sums_in_float32(self) -> None:
        assert providers_for("cpu", tf32=False) == [CPU]

    @pytest.mark.parametrize("name", ["cuda", "cpu", "auto", "", "a:b"])
    def test_names_that_are_taken(self, name: str) -> None:
        with pytest.raises(InputError, match="cannot be registered: the name is taken, empty or has a colon"):
            register_provider(name, "SomeExecutionProvider")

    def test_a_device_that_nothing_reaches(self) -> None:
        with pytest.raises(InputError, match="give the name of its provider, or module="):
            register_provider("nowhere")
        assert "nowhere" not in PROVIDERS


def test_a_provider_that_is_built_in_is_one_line_too(built: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(providers, "_PROVIDERS", dict(providers._PROVIDERS))
    register_provider("coreml", "CoreMLExecutionProvider")
    with pytest.raises(DeviceError, match=r"has only .* Install one that has it; or take device='cpu'"):
        providers_for("coreml")
    built.available.append("CoreMLExecutionProvider")
    assert providers_for("coreml") == [("CoreMLExecutionProvider", {}), CPU]
    where = place("coreml")
    assert (where.name, where.index, where.plugin) == ("CoreMLExecutionProvider", 0, None)
