"""What makes the results of a bulk run what they are: to be the same when it goes on."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import camcore
from camcore.engine import Explainer
from camcore.preprocess import Preprocess
from camcore.rows import Facts

__all__ = ["settings_of"]


def settings_of(args: argparse.Namespace, explainer: Explainer, rule: Preprocess, facts: Facts) -> dict[str, Any]:
    """All that a file of the run depends on, but for the pictures."""
    names = ("method", "layer", "target", "head", "scores_are", "device", "rectifies", "input_size")
    given = ("classes", "fusion", "scaling", "fusion_size", "smooth", "independent", "threads", "batch_size")
    found = {
        **_versions(),
        "model": args.torch or Path(args.model).name,
        "model_sha256": _digest(_weights(explainer.backend)),
        **{name: getattr(facts, name) for name in names},
        "maps": facts.shape,
        "options": dict(args.option),
        **{name: getattr(args, name) for name in given},
        "preprocess": rule.to_json(),
        "labels_sha256": None if facts.class_names is None else _digest([json.dumps(facts.class_names).encode()]),
        "format": args.format,
        "shard_size": args.shard_size,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _versions() -> dict[str, str]:
    """Of what computes: the same model differs in the last bits from one version to the next."""
    modules = {name: sys.modules[name] for name in ("onnxruntime", "torch") if name in sys.modules}
    return {
        "camcore": camcore.__version__,
        **{name: str(module.__version__) for name, module in modules.items()},
        **{name: version(name) for name in ("numpy", "pillow")},
    }


def _weights(backend: Any) -> Iterable[bytes]:
    """The bytes that a model consists of."""
    if backend.kind == "torch":
        yield from _of_module(backend.model)
        return
    path = Path(backend.loaded.path)
    tensors = [value.const_value for value in backend.graph.initializers.values()]
    outside = {Path(t.path).resolve() for t in tensors if type(t).__name__ == "ExternalTensor"}
    for file in (path, *sorted(outside)):
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                yield chunk


def _of_module(module: Any) -> Iterable[bytes]:
    import torch

    for name, tensor in module.state_dict().items():
        yield name.encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
