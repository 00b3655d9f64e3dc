"""Network and pictures of a job: what a new training and one that is read need alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError
from camcore.preprocess import Preprocess, preprocess
from camcore_tools.training.checkpoints import load_tensors
from camcore_tools.training.job import Job
from camcore_tools.training.pictures import Split

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "bare_network",
    "check_pictures",
    "load_trunk",
    "open_split",
    "picture_names",
    "rule_of",
    "trunk",
]


def rule_of(job: Job) -> Preprocess:
    """How pictures become the input of the network of a job."""
    from camcore_tools.training.networks import input_rule

    side = 64 if job.arch == "small" else 224
    rule = input_rule(job.arch, size=job.size or (side, side))
    return rule if job.resize is None else preprocess(rule, resize=job.resize)


def open_split(job: Job, rule: Preprocess, data: str) -> Split:
    """The pictures of a job, which may have been moved."""
    from camcore_tools.training.folders import open_folder

    return open_folder(data, rule=rule, split=job.split, seed=job.settings.seed)


def bare_network(job: Job, classes: int, rule: Preprocess, *, weights: str | None = None) -> nn.Module:
    """The network of a job, without the weights that it learned elsewhere unless they are given."""
    from camcore_tools.training.networks import build

    options: dict[str, Any] = {} if weights is not None else {"report": lambda text: None}
    return build(
        job.arch,
        classes,
        head=job.head,
        maps=job.maps,
        cut=job.cut,
        freeze=job.freeze,
        weights=weights,
        size=rule.size or (224, 224),
        seed=job.settings.seed,
        **options,
    )


def load_trunk(network: nn.Module, path: Path) -> None:
    """Put back what training does not change, which was written apart; nothing where it changes all."""
    own = trunk(network)
    if not own:
        return
    read, _ = load_tensors(path)
    wrong = [n for n in {**own, **read} if n not in own or n not in read or own[n].shape != read[n].shape]
    if wrong:
        raise InputError(f"{path} is of another network: {len(wrong)} of its tensors do not fit, as {min(wrong)}")
    network.load_state_dict(read, strict=False)


def trunk(network: nn.Module) -> dict[str, Any]:
    """The tensors that training does not change."""
    from camcore_tools.training.networks import trainable_state

    learned = trainable_state(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in learned}


def picture_names(split: Split) -> dict[str, list[str]]:
    """What ``split.json`` holds."""
    return {"train": list(split.train.names), "validation": list(split.validation.names)}


def check_pictures(stored: Any, split: Split, data: str) -> None:
    """Other pictures than those of the training would move some from one side to the other."""
    if not isinstance(stored, dict):
        raise InputError(f"the names of the pictures are damaged: a {type(stored).__name__}; the run must begin anew")
    for side, names in picture_names(split).items():
        before = stored.get(side, [])
        if before != names:
            raise InputError(
                f"the pictures in {data!r} are not those of the run: of those to {_use(side)}, "
                f"{_changes(before, names)}; put the folder back as it was, or train anew"
            )


def _use(side: str) -> str:
    return "train on" if side == "train" else "validate with"


def _changes(before: Sequence[Any], now: Sequence[str]) -> str:
    were, are = set(map(str, before)), set(now)
    sides = ((are - were, "are new"), (were - are, "are gone"))
    parts = [f"{len(some)} {what} (such as {min(some)!r})" for some, what in sides if some]
    return " and ".join(parts) or "the order is another"
