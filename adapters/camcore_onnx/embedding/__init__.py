"""The map of a class as part of the model: closed forms, gradients and runs of the tail as nodes of its graph."""

from camcore_onnx.embedding.embed import Embedded, embed, embed_cam, refuse_embedded

__all__ = ["Embedded", "embed", "embed_cam", "refuse_embedded"]
