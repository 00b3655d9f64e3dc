"""The one or two models that a command line names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import camcore
from camcore.engine import Explainer
from camcore.errors import InputError
from camcore.opening import open_backend
from camcore_tools.sources import open_model, torch_module

if TYPE_CHECKING:
    from camcore_onnx.checking.comparing import Side
    from camcore_onnx.checking.sides import Opened

__all__ = ["Model", "open_models"]


@dataclass(eq=False)
class Model:
    """An ONNX file, or a network of PyTorch; each part is made when it is first needed.

    Attributes
    ----------
    name : str
    source : path or nn.Module
    """

    name: str
    source: Any

    @property
    def is_torch(self) -> bool:
        return not isinstance(self.source, str)

    @cached_property
    def backend(self) -> Any:
        """What explains it."""
        if not self.is_torch:
            from camcore_onnx.checking.sandbox import doing

            doing(f"reading {self.name}")
        return open_backend(self.source, device="cpu")

    @cached_property
    def opened(self) -> Opened:
        """The file in a session of its own, as it is."""
        from camcore_onnx.checking.sides import open_side

        return open_side(Path(self.source))

    @property
    def precision(self) -> str:
        from camcore_onnx.checking.sides import precision

        return "float32" if self.is_torch else precision(self.opened.loaded.model)

    @property
    def side(self) -> Side:
        if not self.is_torch:
            return self.opened.side
        from camcore_onnx.checking.comparing import Side

        return Side(self.name, lambda images: _named_outputs(self.source, images))

    def explain(self, **wanted: Any) -> Explainer:
        """An explainer of it; without words the one of the method that its head allows."""
        return Explainer(self.backend, **wanted) if wanted else camcore.Explainer(self.backend)


def open_models(options: Mapping[str, Any]) -> tuple[Model, Model | None]:
    """A and B; one alone is the ONNX file whose gradients are checked. With ``--torch`` that network is A.

    Raises
    ------
    InputError
        If what is given does not go together.
    """
    given = {key: options[key] for key in ("model", "other", "torch", "weights")}
    if given["torch"] and given["other"]:
        raise InputError("three models were given: two files and --torch; expected two")
    if given["weights"] and not given["torch"]:
        raise InputError("--weights goes with --torch; an .onnx file has its own weights")
    first, second = (_file(given[key]) for key in ("model", "other"))
    assert first is not None  # the command line demands it
    if given["torch"]:
        network = torch_module(given["torch"], given["weights"]).eval()
        return Model(given["torch"], network), first
    if second is None:
        _refuse_alone(options)
    return first, second


def _file(path: str | None) -> Model | None:
    if path is None:
        return None
    return Model(path, open_model(Namespace(model=path, torch=None, weights=None)))


def _refuse_alone(options: Mapping[str, Any]) -> None:
    """One file has nothing to be compared with."""
    for key in ("images", "preprocess", "method"):
        if options[key]:
            raise InputError(f"--{key} compares two models; give a second file or --torch MODULE:FACTORY")
    if options["gradient"] is False:
        raise InputError("--no-gradient leaves nothing to check; give a second file or --torch MODULE:FACTORY")


def _named_outputs(module: Any, images: Any) -> dict[str, Any]:
    """What a network returns: by name where it names it, else by position."""
    import torch

    with torch.inference_mode():
        found = module(torch.from_numpy(np.ascontiguousarray(images)))
    if isinstance(found, torch.Tensor):
        found = [found]
    named = found.items() if hasattr(found, "items") else ((f"output {i}", value) for i, value in enumerate(found))
    return {str(n): v.float().numpy() if v.is_floating_point() else v.numpy() for n, v in named if torch.is_tensor(v)}
