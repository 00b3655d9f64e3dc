"""The ``camcore`` command: parse, dispatch, turn errors into one line and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

import camcore
from camcore.errors import CamError
from camcore.labels import harmless

__all__ = ["COMMANDS", "main"]

COMMANDS = (
    *("demo", "train", "evaluate", "augment", "pictures"),
    *("methods", "inspect", "explain", "export", "verify", "live", "bench", "doctor"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0 if all that was asked for was done, 1 for a failed verification, 2 for wrong arguments or unusable input.
    """
    arguments = _parsed(argv)
    command: ModuleType = import_module(f"camcore_tools.{arguments.command}")
    try:
        status: int = command.run(arguments)
        sys.stdout.flush()
    except CamError as error:
        print(f"camcore {arguments.command}: {harmless(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"camcore {arguments.command}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `camcore ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What is unknown is told by the command, whose --help has what is known."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command = f"{parser.prog} {arguments.command}"
        words = harmless(" ".join(unknown))
        parser.exit(2, f"{command}: unrecognized arguments: {words}; {command} --help shows what can be given\n")
    return arguments


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of two dozen options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help shows what can be given\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="camcore",
        description="Class activation maps of any classifier, in PyTorch and in plain ONNX Runtime.",
        epilog="camcore COMMAND --help shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"camcore {camcore.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"camcore_tools.{name}")
        sub = commands.add_parser(
            name, help=module.SUMMARY, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
