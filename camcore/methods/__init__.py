"""Every method: its formula and its row of the table, one module a family."""

from camcore.methods.ablation import ablation_cam, lift_cam, recipro_cam
from camcore.methods.activations import activation_map, fem, random_map
from camcore.methods.components import eigen_cam, eigen_grad_cam, kpca_cam
from camcore.methods.gradients import (
    grad_cam,
    grad_cam_elementwise,
    hires_cam,
    layer_cam,
    shapley_cam,
    xgrad_cam,
)
from camcore.methods.masks import group_cam, is_cam, score_cam, ss_cam
from camcore.methods.plusplus import grad_cam_plus_plus, smooth_grad_cam_plus_plus
from camcore.methods.recam import recam
from camcore.methods.table import METHODS, Method, method, register
from camcore.methods.weights import cam, combine

__all__ = [
    "METHODS",
    "Method",
    "ablation_cam",
    "activation_map",
    "cam",
    "combine",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "group_cam",
    "hires_cam",
    "is_cam",
    "kpca_cam",
    "layer_cam",
    "lift_cam",
    "method",
    "random_map",
    "recam",
    "recipro_cam",
    "register",
    "score_cam",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "ss_cam",
    "xgrad_cam",
]
