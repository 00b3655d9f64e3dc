"""Class activation maps of any classifier: in PyTorch, in ONNX Runtime, from one NumPy core."""

from camcore import bulk as bulk
from camcore.batch import BatchExplainer
from camcore.engine import Explainer
from camcore.errors import (
    CamError,
    CrashError,
    DeviceError,
    HeadNotFound,
    InputError,
    MethodNotPossible,
    MissingPackage,
)
from camcore.evidence import Adapter, Backend, Evidence, InputSpec, Layer, Tap
from camcore.explanation import Explanation
from camcore.fuse import fuse
from camcore.head import LinearHead, NormHead
from camcore.layout import Layout
from camcore.methods import METHODS, Method, activation_map, cam, method, register
from camcore.multilabel import label_mask
from camcore.normalize import normalize, postprocess
from camcore.opening import explainer
from camcore.plan import Plan, Route
from camcore.preprocess import PRESETS, Preprocess
from camcore.recording import Curve, Recording, load_recording
from camcore.regions import Box, boxes, mask
from camcore.resize import resize
from camcore.scores import choose_classes, softmax, top_k
from camcore.smoothing import Smoothing
from camcore.targets import TARGETS, Target, difference, finer, target

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "PRESETS",
    "TARGETS",
    "Adapter",
    "Backend",
    "BatchExplainer",
    "Box",
    "CamError",
    "CrashError",
    "Curve",
    "DeviceError",
    "Evidence",
    "Explainer",
    "Explanation",
    "HeadNotFound",
    "InputError",
    "InputSpec",
    "Layer",
    "Layout",
    "LinearHead",
    "Method",
    "MethodNotPossible",
    "MissingPackage",
    "NormHead",
    "Plan",
    "Preprocess",
    "Recording",
    "Route",
    "Smoothing",
    "Tap",
    "Target",
    "activation_map",
    "boxes",
    "cam",
    "choose_classes",
    "difference",
    "explainer",
    "finer",
    "fuse",
    "label_mask",
    "load_recording",
    "mask",
    "method",
    "normalize",
    "postprocess",
    "register",
    "resize",
    "softmax",
    "target",
    "top_k",
]
