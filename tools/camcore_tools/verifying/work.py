"""All that loads a model: it runs in a process of its own, so options come in and findings go out as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camcore.errors import MethodNotPossible
from camcore_tools.verifying.gradients import gradient_findings
from camcore_tools.verifying.models import Model, open_models
from camcore_tools.verifying.outputs import output_findings

__all__ = ["work"]


def work(options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``camcore verify`` finds.

    Parameters
    ----------
    options : mapping
        The command line.

    Returns
    -------
    dict
        As ``--json`` prints it.
    """
    a, b = open_models(options)
    found: dict[str, Any] = {"model": options["model"], "torch": options["torch"], "passed": True}
    if b is not None:
        found |= output_findings(a, b, options)
    if options["gradient"] is not False and (b is None or a.is_torch or options["gradient"]):
        found |= _gradients(a, b, options)
    parts = (found["passed"], *(layer["passed"] for layer in found.get("layers", [])))
    return found | {"passed": all(parts)}


def _gradients(a: Model, b: Model | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Where nobody asked for them and they cannot be checked, why; the outputs have been compared all the same."""
    try:
        return {"layers": gradient_findings(a if b is None else b, None if b is None else a, options)}
    except MethodNotPossible as error:
        if b is None or options["gradient"] or options["layer"]:
            raise
        return {"layers": [], "gradients_not_checked": str(error)}
