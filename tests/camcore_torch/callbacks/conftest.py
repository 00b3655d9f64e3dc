"""For trainings whose films nobody looks at."""

from __future__ import annotations

import pytest
from camcore_torch import CamRecorder


@pytest.fixture
def no_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn at the end of a training takes longer than such a training."""
    monkeypatch.setattr(CamRecorder, "save", lambda recorder, folder: [])
