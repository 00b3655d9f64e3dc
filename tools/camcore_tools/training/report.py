"""The end of a training in words, at the width of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camcore_tools.console import columns, safe

__all__ = ["print_run"]

_CHANCE = 1.5  # times the share of pictures that one who guesses gets right
_STOPS = {
    "epochs": "all were done",
    "patience": "stopped: no better epoch for {} epochs",
    "stop_ratio": "stopped: the validation loss rose above {:g} x the training loss",
}


def print_run(document: Mapping[str, Any]) -> None:
    """What ``summary.json`` holds, for a person."""
    folder = safe(document["run"])
    print(f"{folder}: {_pictures(document)}")
    print(columns(_facts(document)))
    if document["best"]["top1"] <= _CHANCE / len(document["classes"]):
        print("  hardly better than guessing: try more epochs, a lower --lr or more pictures")
    failed = [c for c in (document["model"] or {}).get("checks", ()) if not c["passed"]]
    for check in failed:
        print(f"  [FAILED] {check['name']}: {check['detail']} (difference {check['difference']})")
    print(f"next: camcore evaluate {folder}" if not failed else "verification failed: the exported network is another")


def _pictures(document: Mapping[str, Any]) -> str:
    pictures, classes = document["pictures"], len(document["classes"])
    left_out = f", {pictures['left_out']:,} left out" if pictures["left_out"] else ""
    return (
        f"{classes} classes, {pictures['train']:,} pictures to train on, {pictures['validation']:,} to validate"
        f"{left_out}"
    )


def _stop(document: Mapping[str, Any]) -> str:
    return _STOPS[document["stopped"]].format(document.get("limit") or "")


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    best, recording, parameters = document["best"], document["recording"], document["parameters"]
    facts = [
        ("weights", f"{parameters['trained']:,} trained of {parameters['all']:,}, on {document['device']}"),
        ("best epoch", f"{best['epoch']} of {document['epochs']} ({_stop(document)})"),
        ("top-1, 3, 5", "  ".join(f"{best[name]:.1%}" for name in ("top1", "top3", "top5"))),
        ("loss", f"{best['validation_loss']:.4f} validation, {best['loss']:.4f} training"),
        ("time", f"training {document['seconds']:.0f} s, {document['steps']:,} steps"),
        ("checkpoint", document["checkpoint"]),
        (
            "recording",
            f"{recording['frames']} frames of {recording['pictures']} pictures, {recording['method']} at "
            f"{recording['layer']}: {', '.join(document['files'])}",
        ),
    ]
    model = document["model"]
    if model is not None:
        passed = sum(check["passed"] for check in model["checks"])
        name = f"{Path(model['path']).name} ({model['size'] / 1e6:.1f} MB)"
        facts.append(("model", f"{name}: {passed} of {len(model['checks'])} checks passed"))
    return facts
