"""List the methods: what each needs, costs, and its paper; or the ONNX operators
that gradients pass.

examples:
  camcore methods
  camcore methods gradcam++
  camcore methods --json
  camcore methods --ops
  camcore methods --ops Conv GridSample
"""

from __future__ import annotations

import argparse
from typing import Any

import camcore
from camcore.methods import METHODS, Method
from camcore.plan import costs
from camcore_tools.console import columns, print_json
from camcore_tools.operators import show_operators

SUMMARY = "the methods, what they need and cost, and their papers"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("name", nargs="*", metavar="NAME", help="tell all about these methods, or operators")
    parser.add_argument("--ops", action="store_true", help="the ONNX operators that have a derivative instead")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table of methods or of operators, or all about some of them."""
    if args.ops:
        return show_operators(args.name, json=args.json)
    rows = [camcore.method(name) for name in args.name] or list(METHODS.values())
    if args.json:
        print_json({row.name: describe(row) for row in rows})
    elif args.name:
        print("\n\n".join(_details(row) for row in rows))
    else:
        _print(rows)
    return 0


def describe(row: Method) -> dict[str, Any]:
    """A row as a plain dict."""
    pooled, elsewhere = costs(row)
    return {
        "summary": row.summary,
        "needs": sorted(row.needs),
        "cost on a pooled head": pooled or "nothing",
        "cost elsewhere": _none(elsewhere),
        "ReLU before the heatmap": row.rectifies,
        "explains": row.target if row.has_target else ("logit" if "head" in row.needs else "no score"),
        "options": dict(row.options),
        "same map on a pooled head": _same(row),
        "paper": row.paper,
    }


def _none(text: str) -> str:
    return {"": "nothing", "-": "not defined"}.get(text, text)


def _same(row: Method) -> list[str]:
    return [r.name for r in METHODS.values() if row.kin and r.kin == row.kin and r.name != row.name]


def _print(rows: list[Method]) -> None:
    print("Costs are those beside one forward pass; a pooled head is a linear one behind a\nglobal average pooling.\n")
    print(columns([line for row in rows for line in ((row.name, row.summary), ("", _facts(row)))]))


def _facts(row: Method) -> str:
    """``needs gradients; free on a pooled head, else a backward pass of the tail; arXiv:1610.02391``."""
    pooled, elsewhere = costs(row)
    needs = ", ".join(sorted(row.needs - {"features"})) or "features alone"
    if elsewhere == "-":
        cost = "free, on a pooled head only"
    elif pooled == elsewhere:
        cost = pooled or "free"
    else:
        cost = f"{pooled or 'free'} on a pooled head, else {elsewhere}"
    return f"needs {needs}; {cost}; {row.paper}"


def _details(row: Method) -> str:
    facts = [(name, _shown(value)) for name, value in describe(row).items()]
    return f"{row.name}\n{columns(facts)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v!r}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
