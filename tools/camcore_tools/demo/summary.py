"""What the demo found, for the terminal, for programs and for the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore import __version__
from camcore_tools.console import columns
from camcore_tools.demo.measure import Findings
from camcore_tools.demo.page import Card, Page, Strip
from camcore_tools.merchandise import KINDS

if TYPE_CHECKING:
    from camcore_onnx.checking.verify import Check
    from camcore_onnx.report import Report

    from camcore_tools.demo.watch import Trained

__all__ = ["Record"]


@dataclass(frozen=True)
class Record:
    """One run of the demo.

    Attributes
    ----------
    folder : Path
    seed : int
    training : int
        Pictures that the network was trained on.
    trained : Trained
        What came of the training.
    report : Report
        Of the export.
    findings : Findings
    """

    folder: Path
    seed: int
    training: int
    trained: Trained
    report: Report
    findings: Findings

    @property
    def checks(self) -> list[Check]:
        """Those of the export, then those on the validation pictures."""
        return [*self.report.checks, *self.findings.checks]

    @property
    def passed(self) -> bool:
        """Whether the exported model gives the same numbers."""
        return all(check.passed for check in self.checks)

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints, and ``demo.json`` holds."""
        found = self.findings
        return {
            "camcore": __version__,
            "seed": self.seed,
            "pictures": {"training": self.training, "validation": found.pictures},
            "network": {"parameters": self.trained.parameters, "epochs": self.trained.epochs},
            "seconds": {"training": round(self.trained.seconds, 1)},
            "accuracy": found.accuracy,
            "peaks": {
                "on_object": found.on_object,
                "share": found.on_object / found.pictures,
                "by_chance": round(found.by_chance, 4),
            },
            "passed": self.passed,
            "checks": [_plain(check) for check in self.checks],
            "mistakes": [
                {"taken_for": KINDS[m.taken_for], "is": KINDS[m.truth], "probability": round(m.chance_taken, 4)}
                for m in found.mistakes
            ],
            "model": str(self.report.path),
            "page": str(self.folder / "index.html"),
        }

    def summary(self) -> str:
        """Some lines for the terminal."""
        found = self.findings
        right = found.pictures - len(found.mistakes)
        facts = [
            ("accuracy", f"{found.accuracy:.1%}: {right} of {found.pictures} validation pictures"),
            ("peak on the object", f"in {self._share:.1%} of them; {found.by_chance:.1%} by chance"),
            ("same numbers", "PyTorch and ONNX Runtime agree" if self.passed else "NO: see FAILED in the table"),
            ("page", self.folder / "index.html"),
        ]
        commands = "\n".join(f"  {command}" for command in self.commands[:2])
        return f"{_table(self.checks)}\n\n{columns(facts)}\n\ntry next\n{commands}"

    @property
    def _share(self) -> float:
        return self.findings.on_object / self.findings.pictures

    @property
    def commands(self) -> list[str]:
        """What to type next."""
        model, pictures = str(self.report.path), self.folder / "pictures"
        other = ["--classes", "top2", "--style", "matlab", "-o", str(self.folder / "more")]
        return [
            shlex.join(["camcore", "inspect", model]),
            shlex.join(["camcore", "explain", model, str(pictures / "torch-1.png")]),
            shlex.join(["camcore", "explain", model, str(pictures), *other]),
        ]

    @property
    def code(self) -> str:
        """The same in Python."""
        return (
            "import camcore\n\n"
            f"explain = camcore.explainer({str(self.report.path)!r})\n"
            f"out = explain({str(self.folder / 'pictures' / 'torch-1.png')!r})\n"
            "print(out.labels, out.boxes(threshold=0.5))\n"
            "heat = out.heatmaps()      # (1, 1, 64, 64), from 0 to 1\n"
        )

    def page(self, *, gallery: Sequence[Card], mistakes: Sequence[Strip], sheets: Sequence[tuple[str, str]]) -> Page:
        """The page, once its pictures are written."""
        found = self.findings
        return Page(
            headline=self._headline(),
            film=("training.gif", "training.png"),
            steps=(
                f"{self.training} pictures of five kinds of merchandise were drawn. A residual network of "
                f"{self.trained.parameters:,} parameters learned in {self.trained.seconds:.0f} seconds to tell them "
                "apart, was exported to ONNX, and is explained here without PyTorch."
            ),
            gallery=gallery,
            mistakes=mistakes,
            mistaken=len(found.mistakes),
            validated=found.pictures,
            checks=self.checks,
            sheets=sheets,
            commands=self.commands,
            code=self.code,
            footer=f"camcore {__version__}, seed {self.seed}, {self.trained.epochs} epochs. Nothing was downloaded.",
        )

    def _headline(self) -> list[tuple[str, str]]:
        found = self.findings
        maps = next((c.difference for c in found.checks if c.name.startswith("maps")), None)
        return [
            (f"{found.accuracy:.1%}", f"of {found.pictures} validation pictures right"),
            (f"{self._share:.1%}", f"of the maps peak on the object; {found.by_chance:.0%} would by chance"),
            (
                "–" if maps is None else f"{maps:.0e}",
                "largest relative difference of the maps, PyTorch to ONNX Runtime",
            ),
            (f"{self.report.size / 1e3:.0f} kB", "the ONNX file, with features, labels and preprocessing inside"),
        ]


def _plain(check: Check) -> dict[str, Any]:
    """For JSON, which has no infinity."""
    facts = asdict(check)
    finite = check.difference is not None and math.isfinite(check.difference)
    return facts | {"difference": check.difference if finite else None}


def _table(checks: Sequence[Check]) -> str:
    rows: list[tuple[str, ...]] = [("check", "largest difference", "")]
    for check in checks:
        figure = "" if check.difference is None else f"{check.difference:.1e} (limit {check.limit:.0e})"
        rows.append((check.name, figure or check.detail, "ok" if check.passed else "FAILED"))
    return columns(rows)
