"""What is written over, and what is not."""

from __future__ import annotations

from pathlib import Path

import camcore_onnx
import pytest
from camcore_onnx.writing import target_path
from onnx_graphs import classifier, onnx_bytes

from camcore.errors import InputError


@pytest.mark.parametrize("way", ["itself", "link", "hard link"])
def test_the_model_that_is_read_is_never_replaced(way: str, tmp_path: Path) -> None:
    source = target = tmp_path / "mine.onnx"
    source.write_bytes(onnx_bytes(classifier()))
    if way != "itself":
        target = tmp_path / "other.onnx"
        target.symlink_to(source) if way == "link" else target.hardlink_to(source)
    with pytest.raises(InputError, match="is the model itself, which would be lost; choose another name"):
        camcore_onnx.export(source, target, embed=True)
    assert source.read_bytes() == onnx_bytes(classifier())


def test_what_is_read_only_stays(tmp_path: Path) -> None:
    (tmp_path / "kept.onnx").write_text("precious")
    (tmp_path / "kept.onnx").chmod(0o444)
    with pytest.raises(InputError, match=r"may not be written over \(it is read-only\); choose another name"):
        target_path(tmp_path / "kept.onnx", overwrite=True)


def test_other_files_may_be_written_over(tmp_path: Path) -> None:
    (tmp_path / "old.onnx").write_text("old")
    assert target_path(tmp_path / "old.onnx", overwrite=True) == tmp_path / "old.onnx"
    with pytest.raises(InputError, match="exists already; choose another name or allow to overwrite it"):
        target_path(tmp_path / "old.onnx", overwrite=False)
