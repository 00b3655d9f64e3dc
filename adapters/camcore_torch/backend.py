"""Evidence from a PyTorch module, by watching one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Evidence, InputSpec, Layer, Tap
from camcore.head import LinearHead, NormHead
from camcore.layout import Layout
from camcore.preprocess import Preprocess
from camcore.scores import Classes, choose_classes
from camcore.targets import TARGETS, Target
from camcore_torch.deeplift import contributions
from camcore_torch.gradients import twice
from camcore_torch.heads import find_head
from camcore_torch.layouts import check_tokens
from camcore_torch.network import Network, second_weight_of, unwrap
from camcore_torch.quiet import Mode, kept_buffers
from camcore_torch.record import Recorder, recording_from, watching_modules
from camcore_torch.steps import array
from camcore_torch.study import Point, Study, make_study, value_at
from camcore_torch.tails import Record, check_tail, make_tail
from camcore_torch.views import DERIVATIVES, evidence_of, flat, look, rows

__all__ = ["TorchBackend", "unwrap"]

Floats = NDArray[np.floating[Any]]
Head = LinearHead | NormHead
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}


class TorchBackend:
    """A PyTorch classifier.

    Parameters
    ----------
    model : nn.Module
        Nothing in it is changed; DataParallel, ``torch.compile`` and :class:`ReCam` wrappers are looked through.
    device : str
        ``"auto"``: where the model is. Another name is checked against that; the model is not moved.
    mode : {"eval", "caller"}
        Run as the network that will be shipped, whatever its training flag says, or just as it stands; see Notes.
    head : LinearHead, (weight, bias) or name of a module, optional
        Instead of the head that is found.
    output : str or int, optional
        Which of several outputs has the class scores.
    grid : tuple of int, optional
        How tokens lie on the picture, (rows, columns); found where absent.
    prefix : int, optional
        How many tokens in front are not of the picture (class, register); found where absent.

    Notes
    -----
    The first call records one image's forward pass to learn where the features are. Later calls record the few
    operations behind the features only, so weights are always read as they are now. Memory: one image's activations
    for the time of the first call, later one copy of the features, and the graph of the network behind the layer where
    gradients are wanted. Methods that run the network behind a layer record it for each image, three times in a
    batch, and hold all activations behind the layer for that time; a run with other features holds what is still to
    be read, which is a few times the batch of features that comes in. DeepLIFT's shares (LIFT-CAM) take a record of
    all images, and a graph of the same size.

    Where images share statistics, as batch normalisation in training does (``mode="caller"``) and one with
    ``track_running_stats=False`` always does, the scores of an image depend on all images of its batch. Then the
    gradient at an image's features is the derivative of the sum of the targets of all images in the batch, and maps
    depend on what else is in it: explain images one at a time, or take layers behind the last such normalisation.
    """

    kind = "torch"
    fixed = False
    gives = frozenset({"features", "head", "gradients", "curvature", "contributions", "tail", "model"})

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "auto",
        mode: Mode = "eval",
        head: Any = None,
        output: str | int | None = None,
        grid: tuple[int, ...] | None = None,
        prefix: int | None = None,
    ) -> None:
        self.network = Network(model, device, mode, output)
        self._wrapped = model
        if second_weight_of(model) is not None:
            self.gives |= {"second_weight"}
        self.labels: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
        self.input: InputSpec = self.network.input()
        self._head = head
        check_tokens(grid, prefix)
        self._tokens: dict[str, Any] = {"grid": grid, "prefix": prefix}
        self._study: Study | None = None
        self._studies: dict[tuple[int, ...], Study] = {}
        self._lock = threading.Lock()

    @property
    def model(self) -> nn.Module:
        """The module inside its wrappers."""
        return self.network.module

    @property
    def device(self) -> str:
        """Where the model's parameters are now."""
        return self.network.device

    def tap(self, layer: str | None = None, example: Floats | None = None) -> Tap:
        """The features of ``layer`` and the head behind them; see :class:`camcore.Tap`.

        ``example`` is a batch to learn from; random noise of the first convolution's shape where absent.
        """
        study = self._studied(example)
        found, value = study.found, study.value_of(layer)
        if value is None:
            raise HeadNotFound(f"{found.obstacle} Nor is there any feature map with spatial axes on that way.")
        tap = Tap(
            layer=study.name if layer is None else layer,
            head=found.head,
            how=found.how,
            obstacle=found.obstacle,
            scores_are=found.scores_are,
            shape=study.shape_of(value),
            tolerance=_TOLERANCE.get(study.dtype, 1e-3),
        )
        if value == found.features:
            return tap
        if self._head is not None:  # the user knows better: the scores will tell
            return replace(tap, head=self.network.head(self._head), how="given head")
        why = f"the head does not read what {layer!r} returns but {study.name!r}; CAM is defined only there."
        return replace(tap, head=None, how="", obstacle=found.obstacle if found.head is None else why)

    def layers(self) -> list[Layer]:
        """Modules that return maps: at each size and width the last one, named by the outermost module."""
        return self._studied(None).layers

    @property
    def second_weight(self) -> Floats | None:
        """The (K, C) weight of a second classifier around the model, as it is now; see :class:`ReCam`."""
        weight = second_weight_of(self._wrapped)
        return None if weight is None else array(weight)

    def study(self, example: Floats | None = None) -> Study:
        """What one recorded pass has taught; ``example`` as in :meth:`tap`."""
        return self._studied(example)

    def observe(
        self,
        images: Floats,
        *,
        needs: frozenset[str],
        layers: Sequence[str | None] = (None,),
        classes: Classes = None,
        labels: Sequence[str] | None = None,
        target: Target | None = None,
    ) -> list[Evidence]:
        """One forward pass; see :class:`camcore.Backend`."""
        study = self._studied(images)
        names = self.labels if labels is None else labels
        values = [study.value_of(layer) for layer in layers]
        alone = values == [study.found.features] and not needs & (DERIVATIVES | {"contributions"})
        head: Head | None = None
        if study.found.head is not None and (alone or "head" in needs):  # the head is the shortest way to its features
            scores, features, head = self._observe_head(images)
            if alone:
                chosen = choose_classes(scores, classes, names)
                return [Evidence(scores, chosen, features, head if "head" in needs else None)]
        elif self._head is not None and "head" in needs:
            head = self.network.head(self._head)
        seen = self._look(images, values, needs, classes, names, target or TARGETS["logit"])
        return [replace(evidence, head=head) for evidence in seen]

    def _look(
        self,
        images: Floats,
        values: Sequence[int | None],
        needs: frozenset[str],
        classes: Classes,
        labels: Sequence[str] | None,
        target: Target,
    ) -> list[Evidence]:
        """Values of any layers, and derivatives with respect to them, in one pass forward and back."""
        study, grad = self._studied(images), bool(needs & DERIVATIVES)
        known = [v for v in values if v is not None]
        points, layouts = [study.points[v] for v in known], [study.layout_of(v) for v in known]
        with self.network.undisturbed(grad=grad or "contributions" in needs):
            tensor = self.network.tensor(images)
            with twice() if "curvature" in needs else nullcontext():
                view = look(self.model, points, study.logits, lambda: self.network(tensor), grad=grad)
            scores = rows(view.scores)
            independent = study.found.scores_are == "independent logit"
            aim = target.aim(scores, choose_classes(scores, classes, labels), alone=independent)
            seen = evidence_of(view, aim, needs, layouts) or [Evidence(scores, aim.classes)]
            if "contributions" not in needs:
                return seen
            records = (self._record_tail(images, point) for point in points)  # a pass for each layer
            tolerance = _TOLERANCE.get(study.dtype, 1e-3)
            shares = [contributions(r, aim, w, tolerance) for r, w in zip(records, layouts, strict=True)]
            return [replace(e, contributions=s) for e, s in zip(seen, shares, strict=True)]

    def scores(self, images: Floats) -> Floats:
        """(N, K) scores, before a final softmax."""
        study = self._studied(images)
        with self.network.undisturbed():
            tensor = self.network.tensor(images)
            return rows(look(self.model, [], study.logits, lambda: self.network(tensor)).scores)

    def tails(self, images: Floats, layer: str | None = None) -> Iterator[Callable[[Floats], Floats]]:
        """One at a time, the network behind a layer for each image; see :class:`camcore.Backend`."""
        study = self._studied(images)
        value = study.value_of(layer)
        if value is None:
            raise HeadNotFound(f"{study.found.obstacle} Nor is there any feature map with spatial axes on that way.")
        for image in images:
            yield self._tail_of(image, study.points[value], study.layout_of(value), study.logits)

    def _tail_of(self, image: Floats, point: Point, layout: Layout, logits: Point | None) -> Callable[[Floats], Floats]:
        with self.network.undisturbed():
            tail = make_tail(*(self._record_tail(np.repeat(image[None], n, axis=0), point).spared() for n in (2, 3)))
            tensor = self.network.tensor(image[None])
            view = look(self.model, [point], logits, lambda: self.network(tensor))
            (like,) = view.values()
            check_tail(tail, like, view.scores, _TOLERANCE.get(like.dtype, 1e-3))
        native = array(like)

        def run(features: Floats) -> Floats:
            given = torch.tensor(layout.native(features, native)).to(like.device, like.dtype)
            with self.network.undisturbed():
                return array(flat(tail(given)))  # in the precision of the model: differences will be taken

        return run

    def _record_tail(self, images: Floats, point: Point) -> Record:
        recorder = Recorder(keep=True)
        with recording_from(self.model, point.place, recorder) as returned:
            output = self.network(self.network.tensor(images))
        layer = next(iter(returned), None) if point.offset is None else value_at(recorder, point)
        if layer is None:
            raise InputError("the network took another way than in the first call, so the layer was not met")
        found = find_head(recorder, recorder.number(output), layer)
        return Record(recorder, layer, found.logits, len(images))

    def _observe_head(self, images: Floats) -> tuple[Floats, Floats, Head]:
        """Scores, features and the head as it is in this very pass; learns anew if the network took another way."""
        for attempt in (self._tail, self._whole):
            seen = attempt(images)
            if seen is not None:
                return seen
        raise HeadNotFound("the network took another way than in the first call, and there it has no linear head")

    def _tail(self, images: Floats) -> tuple[Floats, Floats, Head] | None:
        study = self._studied(images)
        if study.point is None:
            return None
        record = Recorder()
        with self.network.undisturbed():
            with recording_from(self.model, study.point.place, record):
                output = self.network(self.network.tensor(images))
            start = value_at(record, study.point)
            return None if start is None else self._read(record, record.number(output), start, study)

    def _whole(self, images: Floats) -> tuple[Floats, Floats, Head] | None:
        record = Recorder()
        with self.network.undisturbed():
            tensor = self.network.tensor(images)
            start = record.number(tensor)
            with record:
                output = self.network(tensor)
            return self._read(record, record.number(output), start, self._studied(images))

    def _read(self, record: Recorder, scores: int, start: int, study: Study) -> tuple[Floats, Floats, Head] | None:
        found = find_head(record, scores, start)
        if found.head is None or found.features is None:
            return None
        assert study.found.features is not None  # together with the head
        features = study.layout_of(study.found.features).maps(array(record.tensors[found.features]))
        head = found.head if self._head is None else self.network.head(self._head)
        return rows(record.tensors[found.logits]), features, head

    def _studied(self, example: Floats | None) -> Study:
        study = self._known(example)
        if study is None:
            with self._lock:
                study = self._known(example)
                if study is None:
                    study = self._learn(
                        self.example() if example is None else example[: 1 if self.network.mode == "eval" else None]
                    )
                    self._study = self._study or study
                    self._studies[study.size] = study
        return study

    def _known(self, example: Floats | None) -> Study | None:
        """The first study; where it holds for one size of images only, that of the size at hand."""
        first = self._study
        if first is None or example is None or not first.one_size:
            return first
        return self._studies.get(example.shape[2:])

    def example(self) -> Floats:
        """The image that a network is understood by where none is given: noise."""
        shape = self.input.shape
        if len(shape) != 4:
            raise InputError(
                "the network must be run once to be understood, and its input is not a picture: give an example"
            )
        generator = np.random.default_rng(0)
        return generator.standard_normal((1, self.input.channels or 3, 224, 224)).astype(np.float32)

    def _learn(self, images: Floats) -> Study:
        """Record everything about one image."""
        record = Recorder()
        with self.network.undisturbed(), kept_buffers(self.model) as changed:
            tensor = self.network.tensor(images)
            start = record.number(tensor)
            with watching_modules(self.model, record) as events, record:
                output = self.network(tensor)
            found = find_head(record, record.number(output), start)
            if self._head is not None and found.head is not None:
                found = replace(found, head=self.network.head(self._head), how="given head")
            study = make_study(found, record, events, start, record.number(output), **self._tokens)
        self.network.restless |= bool(changed)
        return study
