"""Plan, then apply: which method, at which layers, in which way; decided before any image is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from camcore.errors import HeadNotFound, InputError, MethodNotPossible
from camcore.evidence import Backend, Tap
from camcore.head import LinearHead
from camcore.methods import METHODS, Method, method
from camcore.targets import Target, target

__all__ = ["Plan", "Route", "alike", "costs", "make_plan", "obstacle", "possible"]

# What "auto" tries, best first.
AUTO = ("cam", "gradcam")

# Needs that a pooled head answers without running anything.
CLOSED = frozenset({"gradients", "curvature", "moments", "tail"})


@dataclass(frozen=True, eq=False)
class Route:
    """The way to a method's map at one layer.

    Attributes
    ----------
    layer : str or None
        As the user asked; ``tap.layer`` is what was found.
    tap : Tap
    way : str
        ``"closed form"``: from the features and the head; ``"gradient"``: by differentiating the network behind the
        layer; ``"tail runs"``: by running that; ``"model runs"``: by running the whole network.
    closed : bool
        Whether what the method needs of the tail comes from the head.
    """

    layer: str | None
    tap: Tap
    way: str
    closed: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be done.

    Attributes
    ----------
    method : Method
    routes : tuple of Route
        One a layer.
    target : Target
    alike : tuple of str
        Methods that give the same raw map here, up to a positive factor and a constant.
    """

    method: Method
    routes: tuple[Route, ...]
    target: Target
    alike: tuple[str, ...] = ()

    @property
    def sloped(self) -> Target:
        """What gradients are taken of: the target, but for methods that say otherwise."""
        return target(self.method.gradients_of) if self.method.gradients_of else self.target

    @property
    def tap(self) -> Tap:
        """That of the first layer."""
        return self.routes[0].tap

    @property
    def layer(self) -> str | None:
        return self.routes[0].layer

    @property
    def way(self) -> str:
        """The ways of all layers, each once."""
        return ", ".join(dict.fromkeys(route.way for route in self.routes))

    @property
    def cost(self) -> str:
        """What an image costs."""
        return ", and ".join(
            ["one forward pass", *dict.fromkeys(c for r in self.routes for c in _extras(self.method, r))]
        )

    def __str__(self) -> str:
        layers = ", ".join(route.tap.layer for route in self.routes)
        head = f", head {self.tap.how}" if self.tap.head is not None else ""
        same = f"; the same map here as {', '.join(self.alike)}" if self.alike else ""
        return f"{self.method.name} at {layers}{head}: {self.way}, {self.cost}{same}"


def _extras(row: Method, route: Route) -> list[str]:
    """What a method costs beside the forward pass."""
    extras = []
    if not route.closed and row.needs & {"gradients", "curvature"}:
        extras.append("a backward pass of the tail")
    if "moments" in row.needs and not route.closed:
        extras.append(f"{row.options.get('samples', 'several')} forward and backward passes of noisy copies")
    if row.probe is not None and not (route.closed and row.probe.where == "tail"):
        extras.append(f"one {'tail run' if row.probe.where == 'tail' else 'forward pass'} {row.probe.each}")
    return extras


def costs(row: Method) -> tuple[str, str]:
    """What a method costs beside one forward pass: on a linear head behind a global pooling, and elsewhere.

    An empty text says that it costs nothing; ``"-"`` that it is not defined there.
    """
    pooled = Tap("", LinearHead.identity(1))
    free, other = (Route(None, pooled, "", closed) for closed in (is_closed(row, pooled), False))
    elsewhere = "-" if "head" in row.needs else ", ".join(_extras(row, other))
    return ", ".join(_extras(row, free)), elsewhere


def obstacle(row: Method, tap: Tap, backend: Backend, aim: Target | None = None) -> str:
    """Why ``row`` cannot be computed at ``tap``; empty where it can."""
    if "head" in row.needs and not isinstance(tap.head, LinearHead):
        return tap.linear_obstacle
    if is_closed(row, tap, aim):
        return _lacking(row.needs - CLOSED, backend)
    missing = _lacking(_run_needs(row), backend)
    return missing and f"{missing} {_no_closed_form(tap)}"


def _run_needs(row: Method) -> frozenset[str]:
    """What the backend must give where the head does not."""
    needs = row.needs - {"moments"}
    return needs | {"gradients"} if "moments" in row.needs else needs


def _lacking(needs: frozenset[str], backend: Backend) -> str:
    missing = needs - backend.gives
    missing -= {"curvature"} if "gradients" in missing else set()
    words = {"gradients": "gradients of the network behind the layer", "tail": "runs of the network behind the layer"}
    named = " and ".join(words.get(need, need) for need in sorted(missing))
    return f"it needs {named}, which {backend.kind} models do not give." if missing else ""


def _no_closed_form(tap: Tap) -> str:
    return f"Nor is there a closed form: {tap.obstacle}" if tap.obstacle else ""


def is_closed(row: Method, tap: Tap, aim: Target | None = None) -> bool:
    """Whether a pooled head answers all that a method asks of the tail."""
    if tap.head is None or not row.needs & CLOSED:
        return False
    linear = isinstance(tap.head, LinearHead)
    if "moments" in row.needs:
        return linear and (aim is None or aim.linear)
    return "tail" not in row.needs or row.probe is None or _answers(row, linear)


def _answers(row: Method, linear: bool) -> bool:
    probe = row.probe
    return probe is not None and (probe.pooled is not None or (linear and probe.linear is not None))


def possible(backend: Backend, layer: str | None = None) -> dict[str, str]:
    """Every method's name with what stands in its way at ``layer`` (empty: nothing)."""
    tap = backend.tap(layer)
    return {name: obstacle(row, tap, backend) for name, row in METHODS.items()}


def make_plan(
    wanted: str | Method,
    backend: Backend,
    layers: Sequence[str | None] = (None,),
    *,
    aim: Any = None,
    options: Mapping[str, Any] | None = None,
    example: Any = None,
    distrust: str = "",
) -> Plan:
    """Choose the cheapest exact way to compute a method.

    Parameters
    ----------
    wanted : str or Method
        A name, ``"auto"``, or a row with its options set.
    backend : Backend
    layers : sequence of str or None
    aim : str, Target or callable, optional
        See :func:`camcore.targets.target`; the method's own where absent.
    options : mapping, optional
        Of the method.
    example : ndarray, optional
        A batch for backends that must run to understand a model.
    distrust : str
        Why the head is not to be relied on, where it did not reproduce the scores.

    Raises
    ------
    MethodNotPossible
        Saying what the method needs, why the model cannot give it, and which methods would work.
    InputError
        For an unknown method, layer, target or option.
    """
    rows = _rows(wanted, options or {})
    explained = [_target(row, aim) for row in rows]
    taps = [backend.tap(layer, example) for layer in layers]
    taps = [replace(tap, head=None, how="", obstacle=distrust) for tap in taps] if distrust else taps
    for row, goal in zip(rows, explained, strict=True):
        if not any(obstacle(row, tap, backend, goal) for tap in taps):
            routes = _at_once([_route(row, t, n, goal) for t, n in zip(taps, layers, strict=True)], row, backend)
            return Plan(row, routes, goal, alike(row, goal, routes, given=aim is not None))
    raise refusal(rows[-1], next(t for t in taps if obstacle(rows[-1], t, backend, explained[-1])), backend)


def _rows(wanted: str | Method, options: Mapping[str, Any]) -> list[Method]:
    if isinstance(wanted, Method):
        return [wanted.set(**options)]
    return [method(n) for n in AUTO] if wanted == "auto" and not options else [method(wanted, **options)]


def _target(row: Method, aim: Any) -> Target:
    if aim is None:
        return target(row.target)
    goal = target(aim)
    if goal.name != "logit" and not row.has_target:
        why = "is made of the weights of a class" if "head" in row.needs else "looks at no score"
        raise InputError(f"target {goal.name!r} has no effect on {row.name}, which {why}; take gradcam for it")
    return goal


def _route(row: Method, tap: Tap, layer: str | None, aim: Target) -> Route:
    easy = is_closed(row, tap, aim)
    if "model" in row.needs:
        return Route(layer, tap, "model runs", easy)
    if easy or not row.needs & CLOSED:
        return Route(layer, tap, "closed form", easy)
    return Route(layer, tap, "tail runs" if "tail" in row.needs else "gradient", False)


def _at_once(routes: Sequence[Route], row: Method, backend: Backend) -> tuple[Route, ...]:
    """Where one layer needs a backward pass, it gives the gradients of all."""
    easy = all(route.closed for route in routes) or not row.needs & {"gradients", "curvature", "moments"}
    if easy or not _run_needs(row) <= backend.gives:
        return tuple(routes)
    return tuple(replace(r, closed=False, way="gradient" if r.way == "closed form" else r.way) for r in routes)


def alike(row: Method, aim: Target, routes: Sequence[Route], *, given: bool) -> tuple[str, ...]:
    """The methods that are provably the same on this head, with this target.

    On a linear head behind a global average pooling whose features are not negative. With a target other than the
    score itself, only the methods that are made of its gradient stay together. Where no target was given, methods
    that would take another one by themselves are left out.
    """
    if not row.kin or not all(isinstance(r.tap.head, LinearHead) and r.closed | ("head" in row.needs) for r in routes):
        return ()
    plain = aim.name == "logit"
    kin = [r for r in METHODS.values() if r.kin == row.kin and r.name != row.name and (plain or _follows(r))]
    same = [r.name for r in kin if given or r.target == aim.name]
    return tuple(same) if plain or _follows(row) else ()


def _follows(row: Method) -> bool:
    """Whether the map is made of the gradient of the target, whatever that is."""
    return "gradients" in row.needs and "curvature" not in row.needs


def refusal(row: Method, tap: Tap, backend: Backend) -> MethodNotPossible:
    """The error for a method that cannot be computed."""
    why = obstacle(row, tap, backend)
    works = [n for n, r in METHODS.items() if not obstacle(r, tap, backend)]
    cure = f"Methods that work here: {', '.join(works)}." if works else "No method works on this model."
    kind = HeadNotFound if "head" in row.needs and not isinstance(tap.head, LinearHead) else MethodNotPossible
    return kind(f"{row.name} is not possible at {tap.layer!r}: {why} {cure}")
