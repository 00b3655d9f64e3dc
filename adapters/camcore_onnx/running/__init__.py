"""ONNX Runtime: devices by name, sessions, and tensors that stay on a device."""
