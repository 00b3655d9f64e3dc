"""What an export tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from camcore_onnx.checking.verify import Check

__all__ = ["Report"]


@dataclass
class Report:
    """What an export found, wrote and verified; ``cam`` tells of the map inside, where there is one."""

    path: Path
    layer: str
    head: str
    outputs: list[str]
    opset: int
    ir_version: int
    size: int
    checks: list[Check] = field(default_factory=list)
    source: str = ""
    cam: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; an infinite difference (other shapes, NaN) is None."""
        document = asdict(self) | {"path": str(self.path), "passed": self.passed}
        for check in document["checks"]:
            if check["difference"] is not None and not math.isfinite(check["difference"]):
                check["difference"] = None
        return document
