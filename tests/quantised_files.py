"""Models on integers, made by ONNX Runtime's own tools of a float model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray


class Pictures:
    """What the tools look at to choose their scales."""

    def __init__(self, name: str, batches: list[NDArray[Any]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[Any]]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def on_integers(
    source: Any, folder: Path, batches: list[NDArray[Any]], *, form: str = "QOperator", **options: Any
) -> Path:
    """A file in the form of QLinearConv and its kin, or of QuantizeLinear and DequantizeLinear (``"QDQ"``).

    Parameters
    ----------
    source : path or onnx.ModelProto
    folder : path
    batches : list of ndarray
    form : {"QOperator", "QDQ"}
    **options
        Of ``onnxruntime.quantization.quantize_static``.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(Pictures)
    model = onnx.load(source) if isinstance(source, (str, Path)) else source
    path, target = folder / "float.onnx", folder / f"{form}.onnx"
    onnx.save(model, path)
    quantize_static(
        path,
        target,
        Pictures(model.graph.input[0].name, batches),
        quant_format=QuantFormat[form],
        **{"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, **options},
    )
    return target
