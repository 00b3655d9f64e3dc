"""The table of derivatives, as ``camcore methods --ops`` shows it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError, suggest
from camcore_tools.console import columns, print_json

if TYPE_CHECKING:
    from camcore_onnx.gradients.table import Rule

__all__ = ["show_operators"]

_OLDEST = 9


def show_operators(names: Sequence[str], *, json: bool) -> int:
    """Print the operators that gradients pass: all, or what there is to know of some.

    Raises
    ------
    MissingPackage
        If the packages for ONNX models are not there.
    InputError
        For operators without a derivative.
    """
    from camcore_onnx.running.packages import need

    need()
    from camcore_onnx.gradients.table import rules

    table = [_entry(rule) for rule in rules()]
    document: dict[str, Any] = {"operators": table, "written out": _written_out(table), "flat": _flat()}
    if names:
        found = {name: _named(name, document) for name in names}
        entries = [entry for those in found.values() for entry in those]
        print_json(entries) if json else print("\n\n".join(_details(entry) for entry in entries))
        _refuse([name for name, those in found.items() if not those], document)
    elif json:
        print_json(document)
    else:
        _print(document)
    return 0


def _entry(rule: Rule) -> dict[str, Any]:
    return {
        "operator": rule.op,
        "domain": rule.domain or "ai.onnx",
        "family": rule.home,
        "opset": rule.since,
        "derivative": "approximate" if rule.approximate else "exact",
        "why": rule.approximate or None,
        "inputs": None if rule.inputs is None else list(rule.inputs),
    }


def _written_out(table: Sequence[dict[str, Any]]) -> list[str]:
    """Fused and quantised operators that are replaced by those of the table."""
    from camcore_onnx.unfold import FORMS, REFUSED

    known = {(entry["domain"], entry["operator"]) for entry in table}
    forms = {
        op for (domain, op), write in FORMS.items() if write not in REFUSED and (domain or "ai.onnx", op) not in known
    }
    return sorted(forms, key=str.lower)


def _flat() -> list[str]:
    from camcore_onnx.gradients.table import FLAT

    return sorted(FLAT)


def _named(name: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of one operator; several where it is in several domains."""
    found = [entry for entry in document["operators"] if entry["operator"].lower() == name.lower()]
    for kind, told in (
        ("written out", "as the operators it is short for"),
        ("flat", "zero: its output does not change, or not continuously, with its input"),
    ):
        found += [{"operator": op, "derivative": told} for op in document[kind] if op.lower() == name.lower()]
    return found


def _refuse(names: Sequence[str], document: dict[str, Any]) -> None:
    """The error for operators that nothing is known of."""
    if not names:
        return
    known = [*(e["operator"] for e in document["operators"]), *document["written out"], *document["flat"]]
    listed, several = ", ".join(map(repr, names)), len(names) > 1
    raise InputError(
        f"no derivative is known of the operator{'s' if several else ''} {listed}. "
        f"{'' if several else suggest(names[0], known) + ' '}The README shows how to add one; layers behind "
        f"{'them' if several else 'it'} have gradients without"
    )


def _details(entry: dict[str, Any]) -> str:
    inputs = entry.get("inputs", ())
    facts = {**entry, "inputs": "all that hold floats" if inputs is None else ", ".join(map(str, inputs))}
    facts["opset"] = f"{entry['opset']} or later" if "opset" in entry else ""
    return f"{entry['operator']}\n" + columns([(k, v) for k, v in facts.items() if k != "operator" and v])


def _print(document: dict[str, Any]) -> None:
    table = document["operators"]
    _say(
        "A gradient at a layer of an ONNX file needs a derivative of each operator between the layer and the scores. "
        f"These have one, from opset {_OLDEST} on, or from the number behind the @; * is not exact."
    )
    print()
    print(columns([(family, _listed(table, family)) for family in dict.fromkeys(sorted(e["family"] for e in table))]))
    reasons: dict[str, list[str]] = {}
    for entry in table:
        if entry["why"]:
            reasons.setdefault(entry["why"], []).append(entry["operator"])
    for why, ops in reasons.items():
        print()
        _say(f"* {', '.join(dict.fromkeys(ops))}: {why}.")
    print()
    _say(f"Fused and quantised ones are written out in these first: {', '.join(document['written out'])}.")
    print()
    _say(f"Zero, for their output does not change continuously: {', '.join(document['flat'])}.")
    print()
    _say(
        "To add one: a function with @rule(...) of camcore_onnx.gradients.table, in a package with an entry point of "
        "the group camcore.onnx_gradients; the README has it in ten lines."
    )


def _listed(table: Sequence[dict[str, Any]], family: str) -> str:
    own = [entry for entry in table if entry["family"] == family]
    return ", ".join(dict.fromkeys(_marked(entry) for entry in own))


def _marked(entry: dict[str, Any]) -> str:
    since = f"@{entry['opset']}" if entry["opset"] > _OLDEST else ""
    domain = "" if entry["domain"] in ("ai.onnx", "com.microsoft") else f"{entry['domain']}:"
    return f"{domain}{entry['operator']}{since}{'' if entry['derivative'] == 'exact' else '*'}"


def _say(text: str) -> None:
    print(textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False))
