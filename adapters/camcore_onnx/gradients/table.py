"""The table of derivatives: one entry an operator, as in autograd's table of vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from camcore.errors import InputError
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["FLAT", "GROUP", "RULES", "Pull", "Rule", "register", "rule", "rule_of", "rules", "slope"]

Pull = Callable[[Step, Tensor, int], Tensor | None]
GROUP = "camcore.onnx_gradients"  # entry points of packages that add rules

_HOME = "camcore_onnx.gradients.rules"
_FAMILIES = (
    "elementwise",
    "activations",
    "linear",
    "convolution",
    "pooling",
    "averages",
    "normalization",
    "reduction",
    "shaping",
    "indexing",
    "resizing",
    "quantized",
)


@dataclass(frozen=True, eq=False)
class Rule:
    """The derivative of an operator.

    Attributes
    ----------
    op : str
    pull : callable
        ``pull(step, g, i)``: from the gradient ``g`` of the output to that of input ``i``; None where another input
        takes its share.
    domain : str
        ``""`` for the operators of ONNX itself.
    inputs : tuple of int or None
        Those whose derivative is known; None for all that hold floats. A node where a gradient would have to pass
        another one is refused.
    flat : tuple of int
        Inputs that hold floats, and on which the output does not depend smoothly: the scales of a Resize.
    elementwise : bool
        Whether inputs are broadcast: the gradient is then summed along the axes where an input was repeated. ``g`` may
        have axes of length one, where it is the same all along.
    since : int
        The oldest opset for which what the rule writes exists.
    approximate : str
        Why it is no exact derivative; empty where it is.
    """

    op: str
    pull: Pull
    domain: str = ""
    inputs: tuple[int, ...] | None = None
    flat: tuple[int, ...] = ()
    elementwise: bool = False
    since: int = 9
    approximate: str = ""

    def passes(self, i: int) -> bool:
        """Whether a gradient can pass input ``i``."""
        return self.inputs is None or i in self.inputs

    @property
    def home(self) -> str:
        """The family of the rule, or the module of another package (``"another"`` where it has no name)."""
        return str(self.pull.__module__ or "another").removeprefix(f"{_HOME}.")


RULES: dict[tuple[str, str], Rule] = {}

# Operators whose output does not change, or not continuously, with their input: the gradient through them is zero.
FLAT = frozenset(
    {
        "Shape",
        "Size",
        "ArgMax",
        "ArgMin",
        "NonZero",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Equal",
        "Not",
        "And",
        "Or",
        "Xor",
        "IsNaN",
        "IsInf",
        "Sign",
        "Floor",
        "Ceil",
        "Round",
        "ConstantOfShape",
        "EyeLike",
        "RandomNormalLike",
        "RandomUniformLike",
        "Bernoulli",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "BitwiseNot",
        "Hardmax",
        "NonMaxSuppression",
    }
)


def register(entry: Rule) -> Rule:
    """Add a rule to the table.

    Raises
    ------
    InputError
        If the operator has one.
    """
    key = (entry.domain, entry.op)
    if key in RULES or (not entry.domain and entry.op in FLAT):
        raise InputError(f"the operator {entry.op!r} of domain {entry.domain!r} has a gradient already")
    RULES[key] = entry
    return entry


def rule(*ops: str, **about: Any) -> Callable[[Pull], Pull]:
    """Decorator that enters ``pull(step, g, i)`` for one or several operators; options as in :class:`Rule`."""

    def enter(pull: Pull) -> Pull:
        for op in ops:
            register(Rule(op, pull, **about))
        return pull

    return enter


def slope(op: str, derivative: Callable[[Step], Tensor], **about: Any) -> None:
    """Enter a function of one tensor by its derivative: ``slope("Tanh", lambda at: 1 - at.y() * at.y())``."""

    def pull(step: Step, g: Tensor, _: int) -> Tensor:
        return g * derivative(step)

    pull.__module__ = derivative.__module__  # where the rule is at home
    register(Rule(op, pull, inputs=(0,), elementwise=True, **about))


@cache
def _fill() -> None:
    """Enter all rules: our own, and those of installed packages; an entry point names a module or a function."""
    for family in _FAMILIES:
        import_module(f"{_HOME}.{family}")
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
            if callable(found):
                found()
        except Exception as error:  # the code of others raises what it likes
            raise InputError(
                f"the gradients of the package entry point {point.name!r} ({point.value}) cannot be entered: {error}. "
                "Update or uninstall that package"
            ) from error


def rules() -> Iterator[Rule]:
    """All rules, sorted by operator."""
    _fill()
    yield from (RULES[key] for key in sorted(RULES, key=lambda key: (key[1].lower(), key[0])))


def rule_of(domain: str, op: str) -> Rule | None:
    """The rule of an operator, or None."""
    _fill()
    return RULES.get(("" if domain == "ai.onnx" else domain, op))
