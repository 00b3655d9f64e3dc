from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch import TorchBackend, adapter
from torch import Tensor, nn
from torch_networks import TAILS, Small, network

import camcore
from camcore import DeviceError, HeadNotFound, InputError


def images(count: int = 2, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)


def test_adapter_accepts_modules_only() -> None:
    assert adapter.accepts(nn.Linear(1, 1))
    assert not adapter.accepts("model.onnx")
    assert isinstance(adapter.backend(nn.Linear(1, 1)), TorchBackend)


def test_layer_is_what_the_module_returns() -> None:
    model = network("resnet18")
    expected = camcore.explainer(model)(images()).maps
    np.testing.assert_array_equal(camcore.explainer(model, layer="layer4")(images()).maps, expected)
    np.testing.assert_array_equal(camcore.explainer(model, layer="layer4.1")(images()).maps, expected)


def test_cam_is_refused_where_the_head_does_not_read() -> None:
    model = network("resnet18")
    with pytest.raises(HeadNotFound, match="the head does not read what 'layer3' returns but 'layer4'"):
        camcore.explainer(model, layer="layer3", method="cam")(images())


def test_densenet_features_are_not_what_the_head_reads() -> None:
    with pytest.raises(HeadNotFound, match=r"'features' returns but 'relu\(features\)'"):
        camcore.explainer(network("densenet121"), method="cam", layer="features")(images())


def test_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no layer is called 'layer5'.*Did you mean 'layer"):
        camcore.explainer(network("resnet18"), layer="layer5")(images())


def test_other_methods_at_any_layer() -> None:
    model = network("resnet18").eval()
    seen: list[Tensor] = []
    handle = model.layer2.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    with torch.no_grad():
        model(torch.from_numpy(images()))
    handle.remove()
    out = camcore.explainer(model, method="activationmap", layer="layer2")(images())
    np.testing.assert_allclose(out.maps[:, 0], seen[0].mean(1).numpy(), rtol=1e-5, atol=1e-6)


def test_layer_before_an_in_place_operation_is_not_overwritten() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    with torch.no_grad():
        before = model[0](torch.from_numpy(images()))
    out = camcore.explainer(model, method="activationmap", layer="0")(images())
    np.testing.assert_allclose(out.maps[:, 0], before.mean(1).numpy(), rtol=1e-5, atol=1e-6)


def test_weights_are_read_as_they_are_now() -> None:
    model = Small(TAILS["mean of two axes"])
    explainer = camcore.explainer(model)
    first = explainer(images(), 0).maps
    with torch.no_grad():
        model.fc.weight.mul_(2)
    np.testing.assert_allclose(explainer(images(), 0).maps, 2 * first, rtol=1e-5)
    model.fc = nn.Linear(6, 4)
    assert explainer(images(), 0).maps.shape == first.shape


def test_a_network_that_takes_another_way_is_learned_anew() -> None:
    class Switches(Small):
        deep = False

        def forward(self, x: Tensor) -> Tensor:
            a = torch.relu(self.norm(self.trunk(x)))
            return self.fc(torch.sigmoid(a).mean((2, 3)) if self.deep else a.mean((2, 3)))

    model = Switches(TAILS["softmax"]).eval()
    explainer = camcore.explainer(model)
    explainer(images())
    model.deep = True
    out = explainer(images(), "all")
    np.testing.assert_allclose(out.maps.mean((2, 3)) + model.fc.bias.detach().numpy(), out.scores, rtol=1e-4, atol=1e-5)


def test_several_outputs() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Small(TAILS["mean of two axes"])

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"pooled": x.mean((2, 3)), "logits": self.net(x)}

    model = Many()
    np.testing.assert_array_equal(camcore.explainer(model)(images()).maps, camcore.explainer(model.net)(images()).maps)
    with pytest.raises(HeadNotFound, match="the pooling reads the images themselves"):
        camcore.explainer(model, output="pooled")(images())


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["DataParallel", "compile"]
)
def test_wrapped_modules(wrap: object) -> None:
    model = Small(TAILS["mean of two axes"])
    expected = camcore.explainer(model)(images()).maps
    np.testing.assert_array_equal(camcore.explainer(wrap(model))(images()).maps, expected)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_precisions(dtype: torch.dtype) -> None:
    model = Small(TAILS["mean of two axes"]).eval()
    exact = camcore.explainer(model)(images(), 1).maps
    other = camcore.explainer(copy.deepcopy(model).to(dtype))(images(), 1).maps
    assert other.dtype == np.float32
    limit = {torch.float64: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}[dtype]
    assert np.abs(other - exact).max() <= limit * np.abs(exact).max()


def test_autocast_of_the_caller() -> None:
    model = Small(TAILS["mean of two axes"]).eval()
    exact = camcore.explainer(model)(images(), 1).maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other = camcore.explainer(model)(images(), 1).maps
    assert np.abs(other - exact).max() <= 5e-2 * np.abs(exact).max()


def test_images_may_be_tensors() -> None:
    model = Small(TAILS["mean of two axes"])
    explainer = camcore.explainer(model)
    np.testing.assert_array_equal(explainer(torch.from_numpy(images())).maps, explainer(images()).maps)
    half = torch.from_numpy(images()).bfloat16()
    np.testing.assert_array_equal(explainer(half).maps, explainer(half.float()).maps)


def test_wrong_images_are_answered() -> None:
    explainer = camcore.explainer(Small(TAILS["mean of two axes"]))
    with pytest.raises(InputError, match="to have 3 channels, but got 4"):
        explainer(np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(InputError, match=r"Add a batch axis: images\[None\]"):
        explainer(np.zeros((3, 8, 8), np.float32))
    with pytest.raises(InputError, match=r"the model cannot take images of shape \(1, 3, 1, 1\)"):
        explainer(np.zeros((1, 3, 1, 1), np.float32))


def test_device_is_checked_not_changed() -> None:
    model = nn.Linear(2, 2)
    assert TorchBackend(model).device == "cpu"
    with pytest.raises(DeviceError, match="device 'cuda' was asked for, but the model is on 'cpu'"):
        TorchBackend(model, device="cuda")
    with pytest.raises(InputError, match="device is 'tpu'; expected"):
        TorchBackend(model, device="tpu")


def test_nothing_keeps_the_model_alive() -> None:
    model = Small(TAILS["mean of two axes"])
    explainer = camcore.explainer(model)
    explainer(images())
    watch = weakref.ref(model)
    del model, explainer
    gc.collect()
    assert watch() is None


def test_layers_end_at_the_features() -> None:
    backend = TorchBackend(network("resnet18"))
    assert [entry.name for entry in backend.layers()][-4:] == ["layer1", "layer2", "layer3", "layer4"]
    assert backend.layers()[-1].shape == (512, 7, 7)
    assert backend.tap().layer == "layer4"


def test_a_network_that_writes_into_its_input_leaves_the_images_alone() -> None:
    class Scales(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).mul_(2))

    model, x = Scales(TAILS["mean of two axes"]).eval(), images()
    before = x.copy()
    with torch.no_grad():
        expected = model(torch.from_numpy(x.copy())).numpy()
    out = camcore.explainer(model)(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(out.scores, expected, rtol=1e-5, atol=1e-6)


def test_classes_before_a_sigmoid_stand_for_themselves() -> None:
    model, x = Small(TAILS["sigmoid"]).eval(), images()
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    out = camcore.explainer(model)(x)
    assert out.scores_are == "independent logit"
    np.testing.assert_allclose(out.probabilities, expected, rtol=1e-5)


def test_channels_of_the_first_convolution_are_only_a_guess() -> None:
    class Grey(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.repeat(1, 3, 1, 1))

    assert camcore.explainer(Grey(TAILS["mean of two axes"]))(images()[:, :1]).maps.shape == (2, 1, 31, 31)


def test_callers_mode_learns_from_the_whole_batch() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)
    )
    out = camcore.explainer(model.train(), method="activationmap", mode="caller")(images(4))
    assert out.maps.shape == (4, 1, 62, 62)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"head": "fcc"}, "head 'fcc': no module of that path. Did you mean 'fc'"),
        ({"head": nn.ReLU()}, "head is ReLU, which has no weight"),
        ({"head": (np.zeros((4, 7)), np.zeros(4))}, "the head is for 7 channels and 4 classes, the network has 6"),
        ({"threads": 2}, "an option that torch models do not have"),
    ],
)
def test_wrong_options_are_answered(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        camcore.explainer(Small(TAILS["mean of two axes"]), **options)(images())  # type: ignore[arg-type]


@pytest.mark.parametrize("output", [2, "x", "count"])
def test_an_output_that_is_not_there(output: str | int) -> None:
    class Two(Small):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return x, super().forward(x)

    with pytest.raises(
        InputError, match=f"output={output!r} is no tensor that the model returns, which is a tuple of 2"
    ):
        camcore.explainer(Two(TAILS["mean of two axes"]), output=output)(images())


def test_gradients_of_many_classes_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many copies of the features as classes would not fit; the maps are those of each class alone."""
    model, x = Small(TAILS["mean of two axes"], classes=11), images(2, 24)
    asked: list[tuple[int, ...]] = []
    observe = TorchBackend.observe

    def watched(self: TorchBackend, given: Any, **options: Any) -> Any:
        seen = observe(self, given, **options)
        if "gradients" in options["needs"]:
            asked.append(seen[0].gradients.shape[:2])
        return seen

    monkeypatch.setattr(TorchBackend, "observe", watched)
    out = camcore.explainer(model, method="layercam", layer="norm")(x, "all")
    assert asked == [(2, 8), (2, 3)]
    assert out.maps.shape[:2] == (2, 11)
    alone = camcore.explainer(model, method="layercam", layer="norm")(x, out.classes[:, [9]])
    np.testing.assert_allclose(out.maps[:, [9]], alone.maps, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("size", "side"), [("largest", 15), ("input", 32)])
def test_layercam_of_three_blocks_with_weights_and_tanh(size: str, side: int) -> None:
    """The fusion of a study of flowers: 0.4, 0.4, 0.2 of blocks 3, 4 and 5, each scaled by tanh; step by step."""
    blocks = [nn.Sequential(nn.Conv2d(c, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for c in (3, 6, 6)]
    model = nn.Sequential(nn.ZeroPad2d(-1), *blocks, nn.Flatten(), nn.Linear(6 * 3 * 3, 4)).eval()
    x, layers, weights = images(2, 32), ["1", "2", "3"], [0.4, 0.4, 0.2]
    options: dict[str, Any] = {"fusion": weights, "scaling": "tanh", "fusion_size": size}
    out = camcore.explainer(model, method="layercam", layer=layers, **options)(x)
    assert out.maps.shape == (2, 1, side, side)
    singles = [camcore.explainer(model, method="layercam", layer=name)(x).maps for name in layers]
    scaled = [camcore.resize(camcore.normalize(m, "tanh"), (side, side)) for m in singles]
    expected = 0.4 * scaled[0] + 0.4 * scaled[1] + 0.2 * scaled[2]
    np.testing.assert_allclose(out.maps, expected, rtol=1e-5, atol=1e-6)


def test_a_mistyped_option_and_a_module_as_layer() -> None:
    """What users of other packages type first."""
    model = Small(TAILS["mean of two axes"])
    with pytest.raises(InputError, match=r"models do not have: 'layers'. Did you mean 'layer'"):
        camcore.explainer(model, layers="norm")
    with pytest.raises(InputError, match=r"layer is a BatchNorm2d; expected .* such as 'layer4.1'"):
        camcore.explainer(model, layer=model.norm)  # type: ignore[arg-type]
