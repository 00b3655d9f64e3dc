"""The public function: a model that returns its own heatmap, in any runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from camcore.checks import check_evidence
from camcore.errors import HeadNotFound, InputError, MethodNotPossible
from camcore.head import LinearHead
from camcore.methods import Method, cam
from camcore.methods.ablation import recipro_cam
from camcore.plan import Plan, make_plan
from camcore.preprocess import Preprocess
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.cards import card_of
from camcore_onnx.embedding.choice import choose, class_input, scores_of
from camcore_onnx.embedding.closed import class_maps, gradient_maps
from camcore_onnx.embedding.heatmap import heatmap
from camcore_onnx.embedding.probes import obstacle_to, write_maps
from camcore_onnx.embedding.recipro import recipro_maps
from camcore_onnx.embedding.site import Site, give, image_size, open_site, site_of
from camcore_onnx.embedding.wanted import Wanted, wanted_classes, wanted_heatmap, wanted_name
from camcore_onnx.gradients.add import gradient_model
from camcore_onnx.gradients.build import CLASS, spatial
from camcore_onnx.gradients.facts import probes
from camcore_onnx.gradients.finish import can_finish
from camcore_onnx.gradients.raise_opset import raised
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.metadata import Card, write_card
from camcore_onnx.plain import output_names
from camcore_onnx.reading.load import Loaded
from camcore_onnx.shapes import lengths_of

__all__ = ["Embedded", "embed", "embed_cam", "refuse_embedded"]

_POSSIBLE = (
    "take cam, gradcam, gradcam++, xgradcam, hirescam, layercam, gradcam-elementwise, finercam, shapleycam, "
    "reciprocam, fem or activationmap"
)


@dataclass(frozen=True, eq=False)
class Embedded:
    """A model with its map inside.

    Attributes
    ----------
    model : ir.Model
    plan : Plan
        How the map is made.
    card : Card
        What its metadata says.
    """

    model: ir.Model
    plan: Plan
    card: Card


def embed_cam(
    model: Any,
    *,
    method: str = "auto",
    layer: str | None = None,
    classes: str = "top5",
    heatmap: str | Sequence[int] | None = None,
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
    name: str = "cam",
    labels: Any = None,
    preprocess: str | Preprocess | None = None,
    output: str | None = None,
    size: tuple[int, ...] | None = None,
) -> Any:
    """Put the class activation map into the graph: the model returns it with its scores, in any runtime.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or onnx_ir.Model
        Not changed. Weights in external files stay there: save the result into the same folder.
    method : str
        Any that has a closed form on this head or is made of gradients, and ``"reciprocam"`` on any head; ``"auto"`` is
        cam where the head allows it, else gradcam.
    layer : str, optional
        A tensor, node or PyTorch module; the features that the head reads where absent.
    classes : str
        ``"all"``: the maps of all K classes in their order; ``"top5"``: of the best five, best first; ``"input"``: of
        the class that the new input ``cam_class`` names. That is int32, one number or one for each image; it may be
        left out, and -1 is the best class.
    heatmap : "input" or sequence of int, optional
        Also give the map rectified (where the method says so), resized to this size or to that of the image, and scaled
        to [0, 1].
    target : str, optional
        What is explained: see :func:`camcore.targets.target`. The method's own where absent.
    options : mapping, optional
        Of the method.
    name : str
        Of the output; other new names begin with it.
    labels, preprocess : optional
        To be recorded in the metadata; kept as they are in ``model`` where absent.
    output : str, optional
        The output with the class scores, as in :class:`camcore_onnx.OnnxBackend`.
    size : tuple of int, optional
        A size (H, W) of images that the model takes, where it does not state one and takes no usual one.

    Returns
    -------
    onnx.ModelProto
        Inputs and outputs as they were, and behind them ``cam``, float32, raw and signed: (N, K, *S), or (N, T, *S);
        unless all classes are given ``cam_classes`` (N, T) int32 and ``cam_scores`` (N, T) float32, the scores of these
        before a final softmax; and with ``heatmap`` the output ``heatmap`` (N, T, *size), float32 in [0, 1]. The names
        of the nodes added begin with ``cam/`` (``grad/`` and ``again/`` where something is differentiated).

    Raises
    ------
    MethodNotPossible
        If the method cannot be made in the graph of this model.
    InputError
        For an unknown layer, method, target or option, a name that is taken, or a model that has a map inside already.

    Notes
    -----
    By closed form any opset from 7 on, with the operators of that; else the model is converted to 11 if it is older
    than 9. Half precision and quantised features are summed in float32. ONNX Runtime tells as a warning that the input
    ``cam_class`` has a default; it is meant so.

    A model whose activations are quantised to int8 by pairs of QuantizeLinear and DequantizeLinear loses some of ONNX
    Runtime's integer kernels on x86 processors, where a tensor between such a pair is read twice: its own outputs may
    then move by a step of the quantisation. With uint8 they do not.
    """
    backend = OnnxBackend(model, device="cpu", output=output)
    wanted = Wanted(method, layer, classes, heatmap, name, target, options)  # type: ignore[arg-type]
    done = embed(backend, wanted, labels=labels, preprocess=preprocess, size=size)
    return ir.to_proto(done.model)


def embed(
    backend: OnnxBackend,
    wanted: Wanted,
    *,
    labels: Any = None,
    preprocess: str | Preprocess | None = None,
    size: tuple[int, ...] | None = None,
) -> Embedded:
    """As :func:`embed_cam`, of a backend that is open."""
    refuse_embedded(backend)
    plan = _planned(backend, wanted, size)
    head = plan.tap.head
    wanted = replace(
        wanted,
        classes=wanted_classes(wanted.classes, None if head is None else head.classes),
        heatmap=wanted_heatmap(wanted.heatmap, len(backend.input.shape) - 2),
        name=wanted_name(wanted.name),
    )
    plan = _bent(plan)
    site, maps = _written(backend, plan, wanted, size)
    if wanted.top and site.classes is not None:  # fewer where the model has fewer
        wanted = replace(wanted, classes=f"top{site.classes.shape[1]}")
    _finish(site, maps, wanted, plan.method)
    site.prune()
    card = _card(backend, plan, wanted, labels, preprocess)
    site.loaded.model.metadata_props.update(write_card(card))
    return Embedded(site.loaded.model, plan, card)


def refuse_embedded(backend: OnnxBackend) -> None:
    """Raise for a model that has a map inside, and tell which."""
    if backend.card.cam is not None:
        told = ", ".join(f"{key} {value}" for key, value in backend.card.cam.items() if value not in (None, ""))
        raise InputError(
            f"{backend.loaded.name}: it has a map inside already ({told}); give the model that it was made of"
        )


def _planned(backend: OnnxBackend, wanted: Wanted, size: tuple[int, ...] | None) -> Plan:
    """As an explainer plans; a head that does not reproduce the scores of a random image is not relied on.

    Models whose weights lie in files of their own are not run.
    """
    asked: dict[str, Any] = {"aim": wanted.target, "options": wanted.options or {}}
    plan = make_plan(wanted.method, backend, [wanted.layer], **asked)
    if plan.tap.head is None or backend.loaded.folder is not None:
        return plan
    images = probes(backend.loaded, backend.input, size)[0][backend.input.name].astype(np.float32)
    (seen,) = backend.observe(images, needs=frozenset({"features", "head"}), layers=[wanted.layer])
    try:
        check_evidence(seen, plan.tap)
    except HeadNotFound as error:
        return make_plan(wanted.method, backend, [wanted.layer], distrust=str(error), **asked)
    return plan


def _bent(plan: Plan) -> Plan:
    """By gradient nodes where the curvature is asked for of a target that bends over the scores, whatever the head."""
    if "curvature" not in plan.method.needs or plan.sloped.linear:
        return plan
    return replace(plan, routes=tuple(replace(route, closed=False, way="gradient") for route in plan.routes))


def _written(backend: OnnxBackend, plan: Plan, wanted: Wanted, size: tuple[int, ...] | None) -> tuple[Site, Tensor]:
    """The graph with the raw map in it."""
    method, head = plan.method, plan.tap.head
    if method.formula is cam:
        loaded = backend.loaded if wanted.classes != "input" else raised(backend.loaded)
        site = _site(backend, loaded, wanted, size)
        return site, class_maps(site, plan.tap.need_head())
    if can_finish(method) and isinstance(head, LinearHead) and plan.routes[0].closed:
        site = _site(backend, raised(backend.loaded), wanted, size)
        alone = backend.found.scores_are == "independent logit"
        return site, gradient_maps(site, head, method, plan.sloped, alone=alone)
    if can_finish(method):
        return _differentiated(backend, plan, wanted, size)
    why = obstacle_to(method, head, plan.target)
    if not why:
        site = _site(backend, raised(backend.loaded), wanted, size)
        second = backend.second_weight if "second_weight" in method.needs else None
        return site, write_maps(site, method, head, plan.target, second=second)
    if method.formula is recipro_cam and plan.target.plain:
        loaded = raised(backend.loaded)
        site = _site(backend, loaded, wanted, size)
        return site, recipro_maps(site, probes(loaded, backend.input, size), **method.options)
    raise MethodNotPossible(f"the map of {method.name} cannot be made in the graph: {why}; {_POSSIBLE}")


def _site(backend: OnnxBackend, loaded: Loaded, wanted: Wanted, size: tuple[int, ...] | None) -> Site:
    site = open_site(backend, loaded, wanted.layer, size)
    site.classes = choose(site, wanted)
    return site


def _differentiated(
    backend: OnnxBackend, plan: Plan, wanted: Wanted, size: tuple[int, ...] | None
) -> tuple[Site, Tensor]:
    """By gradient nodes, whose outputs are taken over."""
    built = gradient_model(
        backend, [wanted.layer], target=wanted.target, classes=wanted.classes, maps=plan.method, size=size
    )
    assert built.facts is not None  # of a model that was built
    loaded = replace(backend.loaded, model=built.model)
    site = site_of(backend, loaded, built.facts, backend.layout(wanted.layer, size), wanted.layer)
    maps, classes = (_taken_over(site, name) for name in (built.maps[0], built.classes))
    site.classes = None if wanted.classes == "all" else classes
    if wanted.classes == "input":
        given = next(v for v in site.graph.inputs if v.name == CLASS)
        class_input(site, f"{wanted.name}_class", given)
    return site, maps


def _taken_over(site: Site, name: str) -> Tensor:
    """An output as a tensor of the graph that is no output, under another name."""
    value = next(v for v in site.graph.outputs if v.name == name)
    site.graph.outputs.remove(value)
    value.name = f"grad/{name}/made"
    assert value.dtype is not None  # it was stated
    return Tensor(site.pen, value, value.dtype, tuple(n if isinstance(n, int) else None for n in lengths_of(value)))


def _finish(site: Site, maps: Tensor, wanted: Wanted, method: Method) -> None:
    """The outputs, behind those of the model."""
    whole = maps if maps.rank == len(site.native.shape) and site.layout.kind == "first" and maps.rank > 3 else None
    maps = (spatial(maps, site.native, site.layout) if whole is None else maps).cast(ir.DataType.FLOAT)
    name, of_classes, of_scores, of_heat = output_names({"name": wanted.name})
    give(site, name, maps)
    if site.classes is not None:
        give(site, of_classes, site.classes.cast(ir.DataType.INT32))
        give(site, of_scores, scores_of(site, site.classes))
    if wanted.heatmap is not None:
        size = image_size(site) if wanted.heatmap == "input" else wanted.heatmap
        give(site, of_heat, heatmap(maps, [n for n in size if not isinstance(n, str)], rectifies=method.rectifies))


def _as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}


def _card(backend: OnnxBackend, plan: Plan, wanted: Wanted, labels: Any, rule: str | Preprocess | None) -> Card:
    told = {
        "method": plan.method.name,
        "target": plan.target.name,
        **({"options": _as_json(wanted.options)} if wanted.options else {}),
        "layer": plan.tap.layer,
        "classes": wanted.classes,
        "way": plan.way,
        "rectifies": plan.method.rectifies,
        "heatmap": list(wanted.heatmap) if isinstance(wanted.heatmap, tuple) else wanted.heatmap,
        "scores_are": backend.found.scores_are,
        "name": wanted.name,
    }
    return replace(card_of(backend, plan.tap, labels=labels, preprocess=rule), cam=told)
