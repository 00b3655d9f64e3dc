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
CLOSED = frozenset({"gradients", "curvature", "moments", "contributions", "tail"})


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
        layer; ``"contributions"``: by a DeepLIFT pass of that; ``"tail runs"``: by running it; ``"model runs"``: by
        running the whole network.
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
        Methods that give the same raw map here, up to a positive factor and a constant; see :func:`alike`.
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
    if "contributions" in row.needs and not route.closed:
        extras.append("a DeepLIFT pass of the tail")
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
    if "contributions" in row.needs and aim is not None and not aim.linear:
        return (
            f"it shares the target out among the channels by DeepLIFT, which does so for the scores and what is linear "
            f"in them; {aim.name!r} is not. Take target 'logit', 'difference' or 'finer'."
        )
    if "second_weight" in row.needs - backend.gives:
        return f"it needs the weight of a second classifier, and this model has none. {row.cure}".rstrip()
    if is_closed(row, tap, aim):
        return _lacking(row.needs - CLOSED - {"images"}, backend)
    if tap.no_gradient and _run_needs(row) & {"gradients", "curvature"}:
        return f"{tap.no_gradient.rstrip('.')}. {_no_closed_form(row, tap, aim)}".strip()
    missing = _lacking(_run_needs(row), backend)
    return f"{missing} {_no_closed_form(row, tap, aim)}".strip() if missing else ""


def _run_needs(row: Method) -> frozenset[str]:
    """What the backend must give where the head does not."""
    needs = row.needs - {"images", "moments"}
    return needs | {"gradients"} if "moments" in row.needs else needs


def _lacking(needs: frozenset[str], backend: Backend) -> str:
    missing = needs - backend.gives
    missing -= {"curvature"} if "gradients" in missing else set()
    words = {
        "gradients": "gradients of the network behind the layer",
        "contributions": "DeepLIFT passes through the network behind the layer",
        "tail": "runs of the network behind the layer",
        "model": "runs of the whole network",
    }
    named = " and ".join(words.get(need, need) for need in sorted(missing))
    return f"it needs {named}, which {backend.kind} models do not give." if missing else ""


def _no_closed_form(row: Method, tap: Tap, aim: Target | None) -> str:
    """Why the head does not help; empty where it could not in any case."""
    if not row.needs & CLOSED:
        return ""
    why = tap.linear_obstacle
    if not why and aim is not None and not aim.linear:
        why = f"the slopes of the target {aim.name!r} change with the image."
    return f"Nor is there a closed form: {why}" if why else ""


def is_closed(row: Method, tap: Tap, aim: Target | None = None) -> bool:
    """Whether a pooled head answers all that a method asks of the tail."""
    if tap.head is None or not row.needs & CLOSED:
        return False
    linear = isinstance(tap.head, LinearHead)
    if row.needs & {"moments", "contributions"}:
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
    rows = _rows(wanted, options or {}, aim)
    explained = [_target(row, aim) for row in rows]
    taps = [backend.tap(layer, example) for layer in layers]
    taps = [replace(tap, head=None, how="", obstacle=distrust) for tap in taps] if distrust else taps
    for row, goal in zip(rows, explained, strict=True):
        if not any(obstacle(row, tap, backend, goal) for tap in taps):
            routes = _at_once([_route(row, t, n, goal) for t, n in zip(taps, layers, strict=True)], row, backend)
            return Plan(row, routes, goal, alike(row, goal, routes, given=aim is not None))
    last, goal = rows[-1], explained[-1]
    raise refusal(last, next(t for t in taps if obstacle(last, t, backend, goal)), backend, goal)


def _rows(wanted: str | Method, options: Mapping[str, Any], aim: Any) -> list[Method]:
    """The methods to try, best first."""
    if isinstance(wanted, Method):
        return [wanted.set(**options)]
    if wanted != "auto":
        return [method(wanted, **options)]
    if options:
        raise InputError(f"options {sorted(options)} are of one method; name it, since method 'auto' has none")
    rows = [method(name) for name in AUTO]
    return [row for row in rows if aim is None or target(aim).plain or row.has_target]


def _target(row: Method, aim: Any) -> Target:
    if aim is None:
        return target(row.target)
    goal = target(aim)
    if not goal.plain and not row.has_target:
        why = "is made of the weights of a class" if "head" in row.needs else "looks at no score"
        raise InputError(f"target {goal.name!r} has no effect on {row.name}, which {why}; take gradcam for it")
    return goal


def _route(row: Method, tap: Tap, layer: str | None, aim: Target) -> Route:
    easy = is_closed(row, tap, aim)
    if "model" in row.needs:
        return Route(layer, tap, "model runs", easy)
    if easy or not row.needs & CLOSED:
        return Route(layer, tap, "closed form", easy)
    ways = {"tail": "tail runs", "contributions": "contributions"}
    return Route(layer, tap, next((way for need, way in ways.items() if need in row.needs), "gradient"), False)


def _at_once(routes: Sequence[Route], row: Method, backend: Backend) -> tuple[Route, ...]:
    """Where one layer needs a backward pass, it gives the gradients of all."""
    easy = all(route.closed for route in routes) or not row.needs & {"gradients", "curvature", "moments"}
    if easy or not _run_needs(row) <= backend.gives:
        return tuple(routes)
    return tuple(replace(r, closed=False, way="gradient" if r.way == "closed form" else r.way) for r in routes)


def alike(row: Method, aim: Target, routes: Sequence[Route], *, given: bool = False) -> tuple[str, ...]:
    """The methods that are provably the same at one layer with a linear head.

    That is: behind a global average pooling, for features that are not negative, up to a positive factor and a
    constant. For a target other than the score they are fewer: those that can explain it, and for one that is not
    linear in the scores those that are made of its gradient alone.

    Parameters
    ----------
    row : Method
    aim : Target
    routes : sequence of Route
        Several layers are scaled before they are joined, so no two methods are the same there.
    given : bool
        Whether the target is the user's, and so that of every method; else each has its own.
    """
    if not row.kin or len(routes) != 1 or not _follows(row, aim):
        return ()
    if not isinstance(routes[0].tap.head, LinearHead) or not (routes[0].closed or "head" in row.needs):
        return ()
    return tuple(
        other.name
        for other in METHODS.values()
        if other.kin == row.kin
        and other.name != row.name
        and (given or target(other.target).name == aim.name)
        and _follows(other, aim)
    )


def _follows(row: Method, aim: Target) -> bool:
    """Whether a method stays with its kin for this target."""
    if aim.plain:
        return True
    return row.has_target and (aim.linear or ("gradients" in row.needs and "curvature" not in row.needs))


def refusal(row: Method, tap: Tap, backend: Backend, aim: Target | None = None) -> MethodNotPossible:
    """The error for a method that cannot be computed."""
    why = obstacle(row, tap, backend, aim)
    works = [n for n, r in METHODS.items() if not obstacle(r, tap, backend, None if aim is None else target(r.target))]
    cure = f"Methods that work here: {', '.join(works)}." if works else "No method works on this model."
    cure = f"{_reachable(row, tap, backend)}{cure}"
    kind = HeadNotFound if "head" in row.needs and not isinstance(tap.head, LinearHead) else MethodNotPossible
    return kind(f"{row.name} is not possible at {tap.layer!r}: {why} {cure}")


def _reachable(row: Method, tap: Tap, backend: Backend) -> str:
    """The layers that have a gradient, where this one lacks it."""
    if not tap.no_gradient or not _run_needs(row) & {"gradients", "curvature"}:
        return ""
    others = [e.name for e in backend.layers() if not backend.tap(e.name).no_gradient]
    return f"Layers with a gradient: {', '.join(others)}. " if others else "No layer of known size has a gradient. "
