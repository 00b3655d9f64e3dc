"""Every method: its formula and its row of the table, one module a family."""

from camcore.methods.activations import activation_map
from camcore.methods.table import METHODS, Method, method, register
from camcore.methods.weights import cam, combine

__all__ = ["METHODS", "Method", "activation_map", "cam", "combine", "method", "register"]
