from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_torch.network import Network, Shell, second_weight_of, unwrap
from torch import Tensor, nn

from camcore import InputError, MethodNotPossible
from camcore.head import LinearHead


def made(model: nn.Module, output: str | int | None = None) -> Network:
    return Network(model, "auto", "eval", output)


def test_wrappers_inside_wrappers() -> None:
    model = nn.Linear(2, 2)
    assert unwrap(nn.DataParallel(torch.compile(nn.DataParallel(model), backend="eager"))) is model


class Around(Shell):
    def __init__(self, model: nn.Module, second: float | None) -> None:
        super().__init__()
        self.model, self.second = model, second

    @property
    def second_weight(self) -> Tensor | None:
        return None if self.second is None else torch.full((2, 2), self.second)


def test_shells_are_wrappers_too_and_the_outermost_second_weight_counts() -> None:
    model = nn.Linear(2, 2)
    inside = torch.compile(Around(nn.DataParallel(Around(model, 3.0)), 2.0), backend="eager")
    assert unwrap(nn.DataParallel(Around(inside, None))) is model
    found = second_weight_of(Around(inside, None))
    assert found is not None
    assert found.unique().tolist() == [2.0]
    assert second_weight_of(Around(model, None)) is None
    assert second_weight_of(nn.DataParallel(model)) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_images_become_tensors_of_the_type_of_the_model(dtype: torch.dtype) -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = made(nn.Linear(2, 2).to(dtype)).tensor(images)
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.float().numpy(), images)
    tensor.zero_()
    assert images.any()  # a copy


def test_images_that_do_not_lie_in_a_row() -> None:
    base = np.random.default_rng(0).standard_normal((4, 6, 8, 3)).astype(np.float32)
    images = base.transpose(0, 3, 1, 2)[::-2, :, ::-1, ::3]
    np.testing.assert_array_equal(made(nn.Linear(2, 2)).tensor(images).numpy(), images)
    swapped = images.astype(images.dtype.newbyteorder())
    np.testing.assert_array_equal(made(nn.Linear(2, 2)).tensor(swapped.astype(np.float32)).numpy(), images)


def test_type_of_a_model_is_that_of_its_first_float() -> None:
    assert made(nn.Flatten()).tensor(np.zeros((1, 2))).dtype == torch.float32
    only_buffers = nn.BatchNorm1d(3, affine=False).double()
    assert made(only_buffers).tensor(np.zeros((1, 3), np.float32)).dtype == torch.float64
    counted = nn.BatchNorm1d(3, affine=False)
    assert counted.num_batches_tracked is not None
    assert made(counted).tensor(np.zeros((1, 3))).dtype == torch.float32


@pytest.mark.parametrize(
    ("first", "axes", "guess"),
    [(nn.Conv1d(5, 2, 3), 3, 5), (nn.Conv2d(3, 2, 3), 4, 3), (nn.Conv3d(1, 2, 3), 5, 1), (nn.Linear(4, 2), 0, None)],
)
def test_input_from_the_first_convolution(first: nn.Module, axes: int, guess: int | None) -> None:
    spec = made(nn.Sequential(nn.Identity(), first)).input()
    assert spec.shape == (None,) * axes
    assert spec.guess == guess


class Returns(nn.Module):
    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> object:
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


def test_scores_among_what_a_model_returns() -> None:
    scores, maps = torch.ones(1, 3), torch.ones(1, 2, 4, 4)
    for what, output in (((maps, scores), None), ({"aux": maps, "out": scores}, "out"), ([scores, maps], 0)):
        assert made(Returns(what), output)(torch.ones(1)) is scores


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("scores", "the model returns str without a tensor of scores; say which with output="),
        (ValueError("bad\nmore"), r"the model cannot take images of shape \(1,\): bad$"),
        (KeyError(), r"the model cannot take images of shape \(1,\): KeyError\(\)"),
    ],
)
def test_models_that_do_not_give_scores(what: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        made(Returns(what))(torch.ones(1))


@pytest.mark.parametrize(
    ("what", "output", "text"),
    [
        (torch.ones(1, 3), 7, "output=7 was given, but the model returns one tensor only; leave output= out"),
        (torch.ones(1, 3), "logits", "output='logits' was given, but the model returns one tensor only; leave"),
        (
            (torch.ones(1, 3), torch.ones(1, 3)),
            7,
            "output=7 is no tensor that the model returns, which is a tuple of 2",
        ),
        ({"a": torch.ones(1, 3)}, "b", "output='b' is no tensor that the model returns, which is a dict of 'a'; give"),
        ("scores", "b", "output='b' is no tensor that the model returns, which is a str; give the place or the name"),
    ],
)
def test_outputs_that_are_not_there(what: object, output: str | int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        made(Returns(what), output)(torch.ones(1))


def test_the_only_output_is_the_first() -> None:
    scores = torch.ones(1, 3)
    assert made(Returns(scores), 0)(torch.ones(1)) is scores


def test_an_error_that_explains_itself_stays_as_it_is() -> None:
    error = MethodNotPossible("the layer is not there")
    with pytest.raises(MethodNotPossible, match=r"^the layer is not there$"):
        made(Returns(error))(torch.ones(1))


def test_heads_given_by_the_user() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    network, head = made(model), LinearHead(np.ones((2, 3)))
    assert network.head(head) is head
    for given in ("1", model[1], (model[1].weight, model[1].bias), (model[1].weight.detach().numpy(), model[1].bias)):
        found = network.head(given)
        np.testing.assert_array_equal(found.weight, model[1].weight.detach().numpy())
        np.testing.assert_array_equal(found.bias, model[1].bias.detach().numpy())
    assert not network.head((np.ones((2, 3)), None)).bias.any()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ((1, 2, 3), r"head is 3 values; expected a LinearHead, \(weight, bias\), a linear module or its path"),
        (5, r"head is 5; expected a LinearHead, \(weight, bias\), a linear module or its path"),
        (("a", "b"), r"head is \(weight, bias\) without numbers; expected a \(K, C\) and a \(K,\) array"),
        ((None, np.ones(2)), r"head is \(weight, bias\) without numbers"),
    ],
)
def test_what_is_no_head(head: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        made(nn.Linear(3, 2)).head(head)
