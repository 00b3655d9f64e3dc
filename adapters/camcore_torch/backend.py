"""Evidence from a PyTorch module, by watching one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from camcore.errors import DeviceError, HeadNotFound, InputError, suggest
from camcore.evidence import Evidence, InputSpec, Layer, Tap
from camcore.head import LinearHead
from camcore.preprocess import Preprocess
from camcore.scores import Classes, choose_classes
from camcore_torch.heads import find_head
from camcore_torch.quiet import MODES, Mode, kept_buffers, undisturbed
from camcore_torch.record import Recorder, recording_from, scores_of, watching_modules
from camcore_torch.steps import array
from camcore_torch.study import Study, make_study, value_at

__all__ = ["TorchBackend", "unwrap"]

Floats = NDArray[np.floating[Any]]
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}


class TorchBackend:
    """A PyTorch classifier.

    Parameters
    ----------
    model : nn.Module
        Nothing in it is changed; DataParallel and ``torch.compile`` wrappers are looked through.
    device : str
        ``"auto"``: where the model is. Another name is checked against that; the model is not moved.
    mode : {"eval", "caller"}
        Run as the network that will be shipped, whatever its training flag says, or just as it stands.
    head : LinearHead, (weight, bias) or name of a module, optional
        Instead of the head that is found.
    output : str or int, optional
        Which of several outputs has the class scores.

    Notes
    -----
    The first call records one image's forward pass to learn where the features are. Later calls record the few
    operations behind the features only, so weights are always read as they are now. Memory: one image's activations
    for the time of the first call, later one copy of the features.
    """

    kind = "torch"
    fixed = False
    gives_class_maps = False

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "auto",
        mode: Mode = "eval",
        head: Any = None,
        output: str | int | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode is {mode!r}; expected 'eval' or 'caller'")
        self.model = unwrap(model)
        self.mode: Mode = mode
        self.labels: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
        self.input = _input(self.model)
        self._head, self._output = head, output
        self._study: Study | None = None
        self._lock = threading.Lock()
        self._restless = False  # whether a forward pass in evaluation mode writes into buffers
        _check_device(device, self.device)

    @property
    def device(self) -> str:
        """Where the model's parameters are now."""
        tensor = _first_tensor(self.model)
        return "cpu" if tensor is None else str(tensor.device)

    def tap(self, layer: str | None = None, example: Floats | None = None) -> Tap:
        """The features of ``layer`` and the head behind them; see :class:`camcore.Tap`.

        ``example`` is a batch to learn from; random noise of the first convolution's shape where absent.
        """
        study = self._studied(example)
        found, name = study.found, study.name
        shape = study.shape
        if layer is not None:
            value = study.value_of(layer)
            if value != found.features:
                return self._other_tap(study, layer)
            name = layer
        if found.features is None:
            raise HeadNotFound(f"{found.obstacle} Nor is there any feature map with spatial axes on that way.")
        tolerance = _TOLERANCE.get(study.dtype, 1e-3)
        return Tap(name, found.head, found.how, found.obstacle, found.scores_are, shape, 0.0, tolerance)

    def _other_tap(self, study: Study, layer: str) -> Tap:
        shape = next((entry.shape for entry in study.layers if entry.name == layer), ())
        if self._head is not None:  # the user knows better: the scores will tell
            head = self._given_head()
            return Tap(layer, head, "given head", shape=shape, tolerance=_TOLERANCE.get(study.dtype, 1e-3))
        if study.found.head is None:
            return Tap(layer, obstacle=study.found.obstacle, shape=shape)
        why = f"the head does not read what {layer!r} returns but {study.name!r}; CAM is defined only there."
        return Tap(layer, obstacle=why, shape=shape)

    def layers(self) -> list[Layer]:
        """Modules that return maps: at each size and width the last one, named by the outermost module."""
        return self._studied(None).layers

    def observe(
        self,
        images: Floats,
        *,
        needs: frozenset[str],
        layer: str | None = None,
        classes: Classes = None,
        labels: Sequence[str] | None = None,
    ) -> Evidence:
        """One forward pass; see :class:`camcore.Backend`."""
        study = self._studied(images)
        value = study.found.features if layer is None else study.value_of(layer)
        features: Floats | None
        head: LinearHead | None = None
        if value == study.found.features and study.found.head is not None:
            scores, features, head = self._observe_head(images)
        else:
            scores, features = self._observe_value(images, value)
            head = self._given_head() if self._head is not None else None
        chosen = choose_classes(scores, classes, self.labels if labels is None else labels)
        return Evidence(scores, chosen, features, head if "head" in needs else None)

    def scores(self, images: Floats) -> Floats:
        """(N, K) scores, before a final softmax."""
        if self._studied(images).found.head is not None:
            return self._observe_head(images)[0]
        with undisturbed(self.model, self.mode, buffers=self._restless):
            return _rows(self._forward(self._tensor(images)))

    def _observe_head(self, images: Floats) -> tuple[Floats, Floats, LinearHead]:
        """Scores, features and the head as it is in this very pass; learns anew if the network took another way."""
        for attempt in (self._tail, self._whole):
            seen = attempt(images)
            if seen is not None:
                return seen
        raise HeadNotFound("the network took another way than in the first call, and there it has no linear head")

    def _tail(self, images: Floats) -> tuple[Floats, Floats, LinearHead] | None:
        study = self._study
        if study is None or study.point is None:
            return None
        record = Recorder()
        with undisturbed(self.model, self.mode, buffers=self._restless):
            with recording_from(self.model, study.point.place, record):
                output = self._forward(self._tensor(images))
            start = value_at(record, study.point)
            return None if start is None else self._read(record, record.number(output), start)

    def _whole(self, images: Floats) -> tuple[Floats, Floats, LinearHead] | None:
        record = Recorder()
        with undisturbed(self.model, self.mode, buffers=self._restless):
            tensor = self._tensor(images)
            start = record.number(tensor)
            with record:
                output = self._forward(tensor)
            return self._read(record, record.number(output), start)

    def _read(self, record: Recorder, scores: int, start: int) -> tuple[Floats, Floats, LinearHead] | None:
        found = find_head(record, scores, start)
        if found.head is None or found.features is None:
            return None
        features = array(record.tensors[found.features])
        if found.channel_axis != 1:
            features = np.moveaxis(features, found.channel_axis, 1)
        head = found.head if self._head is None else self._given_head()
        return _rows(record.tensors[found.logits]), features, head

    def _observe_value(self, images: Floats, value: int | None) -> tuple[Floats, Floats | None]:
        """Scores and the value of any layer."""
        study = self._studied(images)
        if value is None:
            return self.scores(images), None
        point = study.points[value]
        record = Recorder(copy=(point.offset, point.result))
        with undisturbed(self.model, self.mode, buffers=self._restless):
            with recording_from(self.model, point.place, record):
                output = self._forward(self._tensor(images))
            if record.copied is None:
                raise InputError("the network took another way than in the first call, so the layer was not met")
            return _rows(output), array(record.copied)

    def _forward(self, tensor: Tensor) -> Tensor:
        try:
            output = self.model(tensor)
        except Exception as error:  # a network raises what it likes
            text = (str(error).strip().splitlines() or [repr(error)])[0]
            raise InputError(f"the model cannot take images of shape {tuple(tensor.shape)}: {text}") from error
        scores = scores_of(output, self._output)
        if scores is None:
            raise InputError(
                f"the model returns {type(output).__name__} without a tensor of scores; say which with output="
            )
        return scores

    def _tensor(self, images: Floats) -> Tensor:
        like = _first_tensor(self.model)
        tensor = torch.tensor(np.ascontiguousarray(images))  # a copy: the network may write into its input
        return tensor.float() if like is None else tensor.to(like.device, like.dtype)

    def _given_head(self) -> LinearHead:
        head = self._head
        if isinstance(head, LinearHead):
            return head
        if isinstance(head, str):
            head = self._named_head(head)
        if isinstance(head, nn.Module):
            weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
            if not isinstance(weight, Tensor):
                raise InputError(f"head is {type(head).__name__}, which has no weight; give a linear layer")
            return LinearHead(array(weight), None if bias is None else array(bias))
        weight, bias = head
        return LinearHead(_plain(weight), None if bias is None else _plain(bias))

    def _studied(self, example: Floats | None) -> Study:
        if self._study is None:
            with self._lock:
                if self._study is None:
                    self._study = self._learn(
                        self._example() if example is None else example[: 1 if self.mode == "eval" else None]
                    )
        return self._study

    def _example(self) -> Floats:
        shape = self.input.shape
        if len(shape) != 4:
            raise InputError(
                "the network must be run once to be understood, and its input is not a picture: give an example"
            )
        generator = np.random.default_rng(0)
        return generator.standard_normal((1, self.input.channels or 3, 224, 224)).astype(np.float32)

    def _named_head(self, name: str) -> nn.Module:
        modules = dict(self.model.named_modules())
        if name not in modules:
            raise InputError(f"head {name!r}: no module of that path. {suggest(name, modules)}")
        return modules[name]

    def _learn(self, images: Floats) -> Study:
        """Record everything about one image."""
        record = Recorder()
        with undisturbed(self.model, self.mode), kept_buffers(self.model) as changed:
            tensor = self._tensor(images)
            start = record.number(tensor)
            with watching_modules(self.model, record) as events, record:
                output = self._forward(tensor)
            found = find_head(record, record.number(output), start)
            if self._head is not None and found.head is not None:
                found = replace(found, head=self._given_head(), how="given head")
            study = make_study(found, record, events)
        self._restless = bool(changed)
        return study


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _first_tensor(model: nn.Module) -> Tensor | None:
    candidates: list[Callable[[], Any]] = [model.parameters, model.buffers]
    return next((t for c in candidates for t in c() if t.is_floating_point()), None)


def _input(model: nn.Module) -> InputSpec:
    """From the first convolution: its number of axes; its channels as a guess, for others may come before it."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((m for m in model.modules() if isinstance(m, kinds)), None)
    if first is None:
        return InputSpec("images", ())
    return InputSpec("images", (None,) * (2 + len(first.kernel_size)), guess=first.in_channels or None)


def _check_device(wanted: str, have: str) -> None:
    kind = wanted.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {wanted!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if wanted == "auto" or have == wanted or (":" not in wanted and have.partition(":")[0] == wanted):
        return
    raise DeviceError(
        f"device {wanted!r} was asked for, but the model is on {have!r}; call model.to({wanted!r}), or take 'auto'"
    )


def _plain(values: Tensor | ArrayLike) -> NDArray[Any]:
    return array(values) if isinstance(values, Tensor) else np.asarray(values)


def _rows(scores: Tensor) -> Floats:
    flat = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores[:, None]
    if scores.ndim > 2 and any(n != 1 for n in scores.shape[2:]):
        raise InputError(f"the scores have shape {tuple(scores.shape)}; expected (N, K)")
    return array(flat).astype(np.float32, copy=False)
