"""From the words of a command line to explainers: one a method, all of one model."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import camcore
from camcore.engine import Explainer
from camcore.errors import HeadNotFound, InputError, MethodNotPossible, suggest
from camcore.opening import open_backend
from camcore.pictures import load_picture
from camcore.preprocess import Preprocess, preprocess
from camcore_tools.console import note

__all__ = ["leave_out", "note_alike", "open_explainers", "own_options", "possible_ones"]


def open_explainers(args: argparse.Namespace, model: Any) -> dict[str, Explainer]:
    """For each method that the options ask for its explainer; they share the model."""
    names = list(dict.fromkeys(name for name in args.method.split(",") if name))
    if not names:
        raise InputError(f"no method was named in --method {args.method!r}; camcore methods lists them")
    own = own_options(names, dict(args.option))
    options = {} if args.threads is None or args.torch else {"threads": args.threads}
    backend = open_backend(model, device=args.device, **options)
    explainers = {
        name: Explainer(
            backend,
            method=name,
            layer=args.layer,
            target=args.target,
            options=own[name],
            fusion=args.fusion,
            scaling=args.scaling,
            fusion_size=args.fusion_size,
            smoothing=args.smooth,
            labels=args.labels,
            independent=args.independent,
        )
        for name in names
    }
    rule = _rule(args, backend.preprocess)
    for explainer in explainers.values():
        explainer.preprocess = rule
    return explainers


def own_options(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each method takes of the options; values that do not fit are told before the model is opened."""
    known = {name: {} if name == "auto" else camcore.method(name).options for name in names}
    if len(names) > 1:
        _check_known(names, given, {option for options in known.values() for option in options})
    own = {name: {o: v for o, v in given.items() if len(names) == 1 or o in known[name]} for name in names}
    for name in names:
        if name != "auto":
            camcore.method(name, **own[name])
    return own


def _check_known(names: Sequence[str], given: Iterable[str], known: Collection[str]) -> None:
    """Of several methods one at least must have the option."""
    for option in given:
        if option not in known:
            offer = suggest(option, sorted(known)) if known else "They have none."
            raise InputError(f"none of the methods {', '.join(names)} has an option {option!r}. {offer}")


def _rule(args: argparse.Namespace, known: Preprocess | None) -> Preprocess:
    own = args.mean is not None or args.std is not None
    if args.preprocess is None and known is None and not own:
        note("note: the model does not say how pictures become its input; taking --preprocess imagenet")
    base: str | Preprocess = args.preprocess or ("unit" if own else known or "imagenet")
    given = {"mean": args.mean, "std": args.std, "size": args.size, "resize": args.resize}
    return preprocess(base, **{k: v for k, v in given.items() if v is not None})


def possible_ones(explainers: Mapping[str, Explainer], paths: Sequence[Path]) -> dict[str, Explainer]:
    """Those whose plan can be made; the others are reported, before anything is written."""
    possible = dict(explainers)
    if not _shown(next(iter(explainers.values())), paths):
        return possible  # no picture fits, and each method will say so
    for name, explainer in explainers.items():
        try:
            _ = explainer.plan
        except MethodNotPossible as error:
            leave_out(name, error)
            del possible[name]
    return possible


def _shown(explainer: Explainer, paths: Sequence[Path]) -> bool:
    """Whether there was a picture to show to the model, since some must run to be understood."""
    for path in paths:
        with suppress(InputError):
            images, _ = explainer.prepare([load_picture(path)])
            with suppress(HeadNotFound):  # the plans will tell
                explainer.backend.tap(None, images)
            return True
    return False


def leave_out(name: str, error: Exception) -> None:
    """Say that one of several methods is not done, and why."""
    note(f"left out {name}: {error}")


def note_alike(explainers: Mapping[str, Explainer]) -> None:
    """Two methods asked for that are provably the same on this model: say so."""
    told: set[str] = set()
    for name, explainer in explainers.items():
        same = [other for other in explainer.plan.alike if other in explainers and other not in told]
        if same and name not in told:
            note(
                f"note: on this model {', '.join(same)} and {name} give the same raw map, up to a positive factor and "
                "a constant: the scores are linear in the pooled features"
            )
        told |= {name, *same}
