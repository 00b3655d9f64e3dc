"""The explainers of an evaluation: one a method, all of one network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import camcore
from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible
from camcore.opening import open_backend
from camcore_tools.console import note
from camcore_tools.explainers import leave_out, note_alike, own_options
from camcore_tools.training.job import Job

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from camcore.preprocess import Preprocess

__all__ = ["make_explainers"]


def make_explainers(
    args: argparse.Namespace,
    job: Job,
    network: nn.Module,
    *,
    classes: Sequence[str],
    rule: Preprocess,
    example: NDArray[Any],
) -> tuple[dict[str, Explainer], dict[str, str]]:
    """For each method that can be done its explainer, under its own name; and why the others cannot.

    Parameters
    ----------
    args : Namespace
        The options of :func:`camcore_tools.explain.add_map_options`, and ``method``.
    job : Job
        Says whether there is a ReCAM, and of which kind.
    network : nn.Module
    classes, rule
        Names, and how pictures become the input.
    example : (1, 3, H, W) ndarray
        An image, to learn from.
    """
    names = _names(args.method, job)
    own = own_options(names, dict(args.option))
    backend = open_backend(network, device="auto")
    possible: dict[str, Explainer] = {}
    obstacles: dict[str, str] = {}
    for name in names:
        layers = _layers(name, args.layer)
        explainer = Explainer(
            backend,
            method=name,
            layer=layers,
            target=args.target,
            options=_recam_of(job) | own[name] if name == "recam" else own[name],
            fusion=args.fusion if layers else "max",
            scaling=args.scaling if layers else None,
            fusion_size=args.fusion_size,
            smoothing=args.smooth,
            labels=classes,
            preprocess=rule,
        )
        try:
            backend.tap(None, example)
            possible[explainer.plan.method.name] = explainer
        except MethodNotPossible as error:
            leave_out(name, error)
            obstacles[name] = str(error)
    if len(possible) > 1:
        note_alike(possible)
    return possible, obstacles


def _names(given: str | None, job: Job) -> list[str]:
    """Those asked for; else what fits, and ReCAM where the network was trained with it."""
    if given is None:
        return ["auto", *(["recam"] if job.settings.recam else [])]
    names = list(dict.fromkeys(name for name in given.split(",") if name))
    if not names:
        raise InputError(f"no method was named in --method {given!r}; camcore methods lists them")
    return names


def _layers(name: str, given: list[str] | None) -> list[str] | None:
    """Methods that read the head have one layer only: the one that the head reads."""
    if given and name != "auto" and "head" in camcore.method(name).needs:
        note(f"note: {name} is at the layer that the head reads; --layer is for the other methods")
        return None
    return given


def _recam_of(job: Job) -> dict[str, Any]:
    """As the network was trained."""
    if job.settings.recam is None:
        return {}
    return {"variant": job.settings.recam, "normalization": job.settings.recam_mask}
