from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import camcore_torch
import numpy as np
import onnx
import pytest
import torch
from camcore_torch.exporting import EXPORTERS, to_onnx
from token_networks import vit
from torch import Tensor, nn
from torch_networks import TAILS, Small, network

import camcore
from camcore import HeadNotFound, InputError, MissingPackage


def images(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("example", [(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), np.zeros((4, 3, 32, 32), np.float32)])
def test_batch_axis_is_really_free(exporter: Any, example: Any) -> None:
    model = Small(TAILS["mean of two axes"])
    data = to_onnx(model, example, exporter=exporter)
    expected, found = camcore.explainer(model), camcore.explainer(data)
    for count in (1, 2, 5):
        a, b = expected(images(count), "all"), found(images(count), "all")
        np.testing.assert_allclose(b.maps, a.maps, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(b.scores, a.scores, rtol=1e-4, atol=1e-5)


# Tails whose weights are computed from parameters, or whose map is reshaped, cross the exporters too.
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    "name",
    [
        "flatten, then mean",
        "adaptive pooling, indexing",
        "channels last",
        "matrix product and addition",
        "normalised weights",
        "scaled scores",
        "log softmax",
        "1x1 convolution behind the pooling",
        "1x1 convolution before the pooling",
        "mean of one axis, twice",
    ],
)
def test_every_way_to_write_a_head_survives_the_export(name: str, exporter: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = camcore_torch.export(Small(TAILS[name]), (1, 3, 32, 32), tmp_path / "m.onnx", exporter=exporter)
    assert report.passed, report.checks
    assert len(report.checks) == 6


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("axes", [1, 3])
def test_one_and_three_spatial_axes(axes: int, exporter: Any, tmp_path: Path) -> None:
    conv, pool = {1: (nn.Conv1d, nn.AdaptiveAvgPool1d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[axes]
    model = nn.Sequential(conv(3, 5, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(5, 4))
    shape = (2, 3, *(7, 8, 9)[:axes])
    report = camcore_torch.export(model, shape, tmp_path / "m.onnx", exporter=exporter)
    assert report.passed, report.checks
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    a, b = camcore.explainer(model)(x, "all"), camcore.explainer(tmp_path / "m.onnx")(x, "all")
    assert a.maps.shape == b.maps.shape == (2, 4, *(n - 2 for n in shape[2:]))
    np.testing.assert_allclose(b.maps, a.maps, rtol=1e-4, atol=1e-5)


def test_an_exporter_that_fails_names_the_other() -> None:
    model = Small(TAILS["average pooling over the whole map"])  # a kernel whose size depends on the image
    with pytest.raises(InputError, match=r"'torchscript' cannot export this network; try 'dynamo'"):
        to_onnx(model, (1, 3, 32, 32), exporter="torchscript")
    x = images(2)
    expected = camcore.explainer(model)(x).maps
    np.testing.assert_allclose(
        camcore.explainer(to_onnx(model, (1, 3, 32, 32)))(x).maps, expected, rtol=1e-4, atol=1e-5
    )


def test_only_the_scores_of_a_model_with_more_outputs(tmp_path: Path) -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
            self.fc = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            a = self.trunk(x)
            return {"features": a, "logits": self.fc(a.mean((2, 3)))}

    for exporter in EXPORTERS:
        path = tmp_path / f"{exporter}.onnx"
        report = camcore_torch.export(Many(), (1, 3, 32, 32), path, exporter=exporter)
        assert report.passed, report.checks
        assert report.outputs == ["logits", "features"]
        assert camcore.explainer(path, layer="trunk")(images(1)).maps.shape == (1, 1, 30, 30)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_module_in_training_is_exported_as_it_ships_and_left_alone(exporter: Any) -> None:
    model = Small(TAILS["dropout"]).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = to_onnx(model, (1, 3, 32, 32), exporter=exporter)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not {n.op_type for n in onnx.load_from_string(data).graph.node} & {"Dropout"}


def test_no_path_of_the_author_is_left_in_the_file(tmp_path: Path) -> None:
    camcore_torch.export(network("resnet18"), (1, 3, 64, 64), tmp_path / "m.onnx", verify=False)
    data = (tmp_path / "m.onnx").read_bytes()
    assert str(Path(torch.__file__).parent.parent).encode() not in data
    assert str(Path(__file__).parent).encode() not in data


def test_labels_and_preprocessing_travel_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = Small(TAILS["mean of two axes"])
    camcore_torch.export(model, (1, 3, 32, 32), path, labels=["a", "b", "c", "d"], preprocess="caffe")
    explainer = camcore.explainer(path)
    assert explainer.labels == ("a", "b", "c", "d")
    assert explainer.preprocess is not None
    assert (explainer.preprocess.order, explainer.preprocess.size) == ("BGR", (32, 32))


def test_a_network_without_a_head_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 3))
    with pytest.raises(HeadNotFound, match="is flattened"):
        camcore_torch.export(model, (1, 3, 32, 32), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_exporter_and_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Small(TAILS["mean of two axes"])
    with pytest.raises(InputError, match="exporter is 'onnx'; expected 'dynamo' or 'torchscript'"):
        to_onnx(model, (1, 3, 32, 32), exporter="onnx")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackage, match=r"pip install 'camcore\[export\]', or take exporter='torchscript'"):
        to_onnx(model, (1, 3, 32, 32))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_attention_is_exported_in_parts_and_the_fast_path_left_as_it_was(exporter: Any, enabled: bool) -> None:
    model = vit().eval()
    nn.init.normal_(model.get_parameter("heads.head.weight"))
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        data = to_onnx(model, (1, 3, 32, 32), exporter=exporter)
        assert torch.backends.mha.get_fastpath_enabled() is enabled
        with torch.no_grad():
            expected = model(torch.from_numpy(images(3))).numpy()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    found = camcore.explainer(data, device="cpu").backend.scores(images(3))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_fast_path_of_attention_is_back_after_an_export_that_fails() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert seen or torch.backends.mha.get_fastpath_enabled()  # the first run is no export
            seen.append(torch.backends.mha.get_fastpath_enabled())
            return torch.linalg.eigvals(x[:, 0, :3, :3]).real

    seen: list[bool] = []
    with pytest.raises(InputError, match="cannot export this network"):
        to_onnx(Unknown(), (1, 3, 32, 32), exporter="torchscript")
    assert False in seen
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_network_without_a_pooled_head(tmp_path: Path) -> None:
    """Exported with the features of a layer that is named; its scores are verified, and Grad-CAM explains it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    with pytest.raises(HeadNotFound):
        camcore_torch.export(model, (1, 3, 16, 16), tmp_path / "m.onnx")
    report = camcore_torch.export(model, (1, 3, 16, 16), tmp_path / "m.onnx", layer="1", labels=["a", "b", "c"])
    names = ["ONNX checker", "ONNX Runtime", "outputs", "scores, PyTorch against ONNX Runtime"]
    assert [check.name for check in report.checks] == names
    assert report.passed
    x = images(2, 16)
    found = camcore.explainer(tmp_path / "m.onnx", method="gradcam")(x)
    np.testing.assert_allclose(found.maps, camcore.explainer(model, method="gradcam")(x).maps, rtol=1e-3, atol=1e-5)
