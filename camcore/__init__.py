"""Class activation maps of any classifier: in PyTorch, in ONNX Runtime, from one NumPy core."""

from camcore.engine import Explainer, explainer
from camcore.errors import CamError, DeviceError, HeadNotFound, InputError, MethodNotPossible, MissingPackage
from camcore.evidence import Adapter, Backend, Evidence, InputSpec, Layer, Tap
from camcore.explanation import Explanation
from camcore.head import LinearHead
from camcore.methods import METHODS, Method, activation_map, cam, register
from camcore.normalize import normalize, postprocess
from camcore.plan import Plan
from camcore.preprocess import PRESETS, Preprocess
from camcore.regions import Box, boxes, mask
from camcore.resize import resize
from camcore.scores import choose_classes, softmax, top_k

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "PRESETS",
    "Adapter",
    "Backend",
    "Box",
    "CamError",
    "DeviceError",
    "Evidence",
    "Explainer",
    "Explanation",
    "HeadNotFound",
    "InputError",
    "InputSpec",
    "Layer",
    "LinearHead",
    "Method",
    "MethodNotPossible",
    "MissingPackage",
    "Plan",
    "Preprocess",
    "Tap",
    "activation_map",
    "boxes",
    "cam",
    "choose_classes",
    "explainer",
    "mask",
    "normalize",
    "postprocess",
    "register",
    "resize",
    "softmax",
    "top_k",
]
