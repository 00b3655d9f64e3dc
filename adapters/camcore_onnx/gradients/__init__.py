"""Gradients of a deployed model as nodes of its graph: reverse-mode differentiation in plain ONNX operators."""
