"""What a command line says about models: a file, or a PyTorch factory with weights."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from camcore.errors import InputError, MissingPackage

__all__ = ["add_model_options", "open_model", "torch_module"]


def add_model_options(parser: argparse.ArgumentParser, *, positional: str = "model") -> None:
    """``MODEL``, or ``--torch`` with ``--weights``."""
    parser.add_argument(positional, nargs="?", metavar=positional.upper(), help="an .onnx file")
    parser.add_argument(
        "--torch",
        metavar="MODULE:FACTORY",
        help="a PyTorch model instead: a function that returns it, as torchvision.models:resnet18; its code is run",
    )
    parser.add_argument("--weights", metavar="FILE", help="weights for --torch, in safetensors format")


def open_model(arguments: argparse.Namespace, *, positional: str = "model") -> Any:
    """The path or the module that was asked for."""
    path = getattr(arguments, positional)
    if arguments.torch and path:
        raise InputError(f"both {path!r} and --torch were given; expected one model")
    if arguments.torch:
        return torch_module(arguments.torch, arguments.weights)
    if arguments.weights:
        raise InputError("--weights goes with --torch; an .onnx file has its own weights")
    if not path:
        raise InputError("no model was given; expected an .onnx file or --torch MODULE:FACTORY")
    _refuse_pickles(Path(path))
    return path


def _refuse_pickles(path: Path) -> None:
    if path.suffix.lower() in (".pt", ".pth", ".ckpt", ".pkl"):
        raise InputError(
            f"{path}: PyTorch checkpoints are pickles, which run code when they are read, and hold no network; "
            "save the weights as safetensors and give --torch MODULE:FACTORY --weights FILE, or export to ONNX"
        )


def torch_module(spec: str, weights: str | None) -> Any:
    """Call ``package.module:factory`` and load weights into what it returns."""
    name, _, factory = spec.partition(":")
    if not name or not factory:
        raise InputError(f"--torch {spec!r}: expected MODULE:FACTORY, such as torchvision.models:resnet18")
    try:
        from torch import nn
    except ImportError as error:
        raise MissingPackage(f"--torch needs PyTorch ({error}): pip install 'camcore[torch]'") from error
    path = sys.path.copy()
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(import_module(name), factory)()
    except Exception as error:  # the code of others raises what it likes
        raise InputError(f"--torch {spec!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = path
    if not isinstance(made, nn.Module):
        raise InputError(f"--torch {spec!r} gives {type(made).__name__}; expected a torch.nn.Module")
    if weights is not None:
        _load_weights(made, Path(weights))
    return made


def _load_weights(module: Any, path: Path) -> None:
    _refuse_pickles(path)
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingPackage("--weights needs safetensors: pip install 'camcore[export]'") from error
    try:
        module.load_state_dict(load_file(path))
    except Exception as error:  # safetensors' own error shares no base class with RuntimeError
        raise InputError(f"--weights {path}: {' '.join(str(error).split())[:300]}") from error
