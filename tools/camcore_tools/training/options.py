"""What the command line says of a training: the options, and the job that they make."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camcore.errors import InputError
from camcore_tools.explaining.options import size
from camcore_tools.training.job import HEADS, Job, recipe
from camcore_tools.training.settings import OPTIMIZERS, RECAM, RECAM_MASKS, SCHEDULES

__all__ = ["add_options", "job_from", "options_given"]

_NOT_OF_A_JOB = ("command", "output", "resume", "grid", "json", "augment")
_CAN_BE_OFF = ("recam", "patience", "stop_ratio")
_PATHS = ("data", "weights", "masks")


def add_options(parser: argparse.ArgumentParser) -> None:
    """All that a job is made of. Whatever is not given is None, so that a run that goes on keeps its own."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="a folder of class folders, or of train/ and val/")
    _network(parser.add_argument_group("network"))
    _training(parser.add_argument_group("training"))
    _pictures(parser.add_argument_group("pictures"))
    _recording(parser.add_argument_group("recording"))


def _network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--arch", metavar="NAME", help="small, or any classifier of torchvision, as resnet18 (small)")
    group.add_argument(
        "--head",
        choices=HEADS,
        help="auto: the network's own, made anew; gap: pooling and one linear layer; conv1024: a 3x3 convolution of "
        "1024 maps before them; maps: a 1x1 convolution to --maps maps, ReLU, and a linear layer without a bias (auto)",
    )
    group.add_argument("--maps", type=int, metavar="K", help="of --head maps (as many as classes)")
    group.add_argument("--cut", metavar="LAYER", help="drop what follows this module, as inception4e of googlenet")
    group.add_argument(
        "--freeze",
        action=argparse.BooleanOptionalAction,
        help="train only the new head; checkpoints then hold nothing else",
    )
    group.add_argument(
        "--weights",
        metavar="FILE",
        help="to start from: a .safetensors or .pth file, default (torchvision's own) or random (random for small, "
        "else default)",
    )


def _training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=int, metavar="N", help=f"passes over the pictures ({_usual('epochs')})")
    group.add_argument("--batch", type=int, metavar="N", help=f"pictures a step ({_usual('batch')})")
    group.add_argument("--optimizer", choices=OPTIMIZERS, help=f"({_usual('optimizer')})")
    group.add_argument("--lr", type=float, metavar="RATE", help=f"learning rate, or its peak ({_usual('lr')})")
    group.add_argument("--momentum", type=float, metavar="M", help=f"of sgd ({_usual('momentum')})")
    group.add_argument("--nesterov", action=argparse.BooleanOptionalAction, help="Nesterov's form of the momentum")
    group.add_argument("--weight-decay", type=float, metavar="W", help=f"({_usual('weight_decay')})")
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help=f"of the learning rate; inverse is lr / (1 + decay * iteration) ({_usual('schedule')})",
    )
    group.add_argument("--decay", type=float, metavar="D", help=f"of the schedule inverse ({_usual('decay')})")
    group.add_argument("--warmup", type=float, metavar="EPOCHS", help="in which the learning rate rises (0)")
    group.add_argument("--label-smoothing", type=float, metavar="S", help=f"0 to 1 ({_usual('label_smoothing')})")
    group.add_argument(
        "--early-stop",
        "--stop-ratio",
        dest="stop_ratio",
        type=_or_off(float),
        nargs="?",
        const=2.0,
        metavar="RATIO",
        help="stop when the validation loss is above RATIO times the training loss (2 if no number is given)",
    )
    group.add_argument(
        "--patience",
        type=_or_off(int),
        metavar="N",
        help="stop after N epochs without a better top-1 or loss on the validation pictures",
    )
    group.add_argument(
        "--recam",
        choices=(*RECAM, "off"),
        nargs="?",
        const="class",
        help="train with ReCAM's second loss: a second classifier, or the network on features masked by itself (off)",
    )
    group.add_argument("--recam-mask", choices=RECAM_MASKS, help="how a map becomes the mask (relu-max)")
    group.add_argument("--recam-weight", type=float, metavar="W", help="of the second loss (1)")
    group.add_argument("--amp", action=argparse.BooleanOptionalAction, help="mixed precision")
    group.add_argument("--seed", type=int, metavar="N", help="of split, weights, order and random changes (0)")
    group.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 (auto)")
    group.add_argument("--threads", type=int, metavar="N", help="of PyTorch; another number rounds otherwise")


def _pictures(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--split", type=float, metavar="SHARE", help="of each class to train on (0.9)")
    group.add_argument("--size", type=size, metavar="HxW", help="that the network takes (64x64; 224x224)")
    group.add_argument(
        "--resize",
        choices=("squash", "short"),
        help="squash: the whole picture, stretched; short: the centre, in its proportions (squash; short)",
    )
    group.add_argument("--rotate", type=float, metavar="DEGREES", help=f"at random, to both sides ({_usual('rotate')})")
    group.add_argument(
        "--shift", type=float, metavar="SHARE", help=f"at random, up to this share of the side ({_usual('shift')})"
    )
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror half of the pictures (yes)")
    group.add_argument("--no-augment", dest="augment", action="store_false", default=None, help="none of the three")


def _recording(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--every", type=int, metavar="STEPS", help="between two frames (for up to 150 frames)")
    group.add_argument("--watch", type=int, metavar="N", help="validation pictures, evenly over the classes (12)")
    group.add_argument(
        "--strip", type=_epochs, metavar="EPOCH,EPOCH", help="that filmstrip.png shows, such as 5,50 (evenly)"
    )
    group.add_argument("--masks", metavar="DIR", help="object masks, named as the pictures: how much heat is on them")
    group.add_argument(
        "--method",
        metavar="NAME",
        help="of the maps, see camcore methods; recam trains with ReCAM's second "
        "loss, as --recam does (cam where the head allows it, else gradcam)",
    )
    group.add_argument("--layer", metavar="NAME", help="of the maps; found where absent")
    group.add_argument("--keep", type=int, metavar="N", help="last checkpoints that stay, besides the best (all)")
    group.add_argument(
        "--export", action=argparse.BooleanOptionalAction, help="the best network as ONNX, verified (yes)"
    )


def _usual(name: str) -> str:
    """The default of a setting, by the kind of network."""
    kinds = {"for small": recipe("small"), "with --freeze": recipe("resnet18", freeze=True), "": recipe("resnet18")}
    values = {kind: _short(getattr(settings, name)) for kind, settings in kinds.items()}
    other = values.pop("")
    named = [f"{value} {kind}" for kind, value in values.items() if value != other]
    return ", ".join([*named, f"else {other}"]) if named else other


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _epochs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of epochs such as 5,50") from error


def _or_off(kind: type) -> Any:
    def read(text: str) -> Any:
        return text if text == "off" else kind(text)

    read.__name__ = kind.__name__
    return read


def options_given(args: argparse.Namespace) -> dict[str, Any]:
    """What was said, by the names of the fields of a job."""
    given = {k: v for k, v in vars(args).items() if v is not None and k not in _NOT_OF_A_JOB}
    if getattr(args, "augment", None) is False:
        given = {"rotate": 0.0, "shift": 0.0, "flip": False} | given
    for name in _CAN_BE_OFF:
        if given.get(name) == "off":
            given[name] = None
    if given.get("weights") == "random":
        given["weights"] = None
    for name in _PATHS:
        if given.get(name) not in (None, "default"):
            given[name] = str(Path(given[name]).absolute())
    return given


def job_from(given: Mapping[str, Any]) -> Job:
    """A new job, with the recipe that suits its network for all that is not given."""
    if "data" not in given:
        raise InputError("no pictures were given; expected DATA, a folder of class folders")
    arch = given.get("arch", "small")
    if given.get("method") == "recam":
        given = {"recam": "class", **given}
    weights = given.get("weights", None if arch == "small" else "default")
    settings = recipe(arch, freeze=given.get("freeze", False), scratch=weights is None)
    return Job(given["data"], arch=arch, settings=settings).changed({**given, "weights": weights})
