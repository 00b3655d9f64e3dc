"""Train a small network here and now, watch where it looks, export it, explain it in ONNX Runtime, and show it all.

Nothing is downloaded: the pictures, five kinds of merchandise, are drawn. It takes about a minute on a laptop,
and ends with a page to open in the browser.

examples:
  camcore demo --open
  camcore demo --quick -o /tmp/demo          fewer pictures and epochs, a poorer network
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from camcore.errors import InputError, MissingPackage
from camcore.results import ResultFolder
from camcore_tools.console import note, print_json
from camcore_tools.merchandise import KINDS
from camcore_tools.threads import let_threads_rest

if TYPE_CHECKING:
    from camcore_onnx.report import Report
    from torch import nn

    from camcore_tools.demo.measure import Data
    from camcore_tools.demo.summary import Record
    from camcore_tools.demo.watch import Trained

SUMMARY = "train a small network here and now, watch its CAMs, export, explain in ONNX Runtime, make a page of it"


class Scale(NamedTuple):
    """How large the demo is."""

    pictures: Mapping[str, int]  # of each kind, for each use
    epochs: int
    batch: int


FULL = Scale({"training": 300, "validation": 40, "gallery": 4}, epochs=16, batch=32)
QUICK = Scale({"training": 80, "validation": 8, "gallery": 2}, epochs=16, batch=16)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "-o", "--output", default="camcore-demo", metavar="DIR", help="folder for all of it (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of pictures, weights and training (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help=f"passes over the pictures ({FULL.epochs})")
    parser.add_argument(
        "--threads", type=int, default=2, metavar="N", help="another number trains other weights (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer pictures and epochs: some seconds, a poorer network"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it all; 1 if the exported model does not give the same numbers."""
    _check(args)
    folder = Path(args.output)
    results = ResultFolder(folder / "explained", alpha="heat")  # complains before there is anything to lose
    let_threads_rest()
    _need_packages()
    try:
        record = _demonstrate(args, folder, results)
    except OSError as error:  # a full disk, a folder taken away
        raise InputError(str(error)) from error
    print_json(record.document()) if args.json else print(record.summary())
    if args.open:
        _open(folder / "index.html")
    return 0 if record.passed else 1


def _check(args: argparse.Namespace) -> None:
    for name, least in (("seed", 0), ("epochs", 1), ("threads", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}; expected {least} or more")


def _need_packages() -> None:
    from camcore_onnx.running.packages import need

    for package in ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript"):
        try:
            need(package)
        except ImportError as error:
            raise MissingPackage(
                f"the demo needs {package}, which cannot be imported: pip install 'camcore[all]'"
            ) from error


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        note(f"no browser could be started; the page is {page}")


def _demonstrate(args: argparse.Namespace, folder: Path, results: ResultFolder) -> Record:
    """All steps in their order."""
    from camcore_tools.demo.measure import draw_data, measure
    from camcore_tools.demo.summary import Record
    from camcore_tools.demo.write import write_everything

    start = time.monotonic()
    note("[1/5] drawing pictures of five kinds of merchandise")
    scale = QUICK if args.quick else FULL
    scale = scale._replace(epochs=args.epochs or scale.epochs)
    data = draw_data(**scale.pictures, seed=args.seed)
    with _threads(args.threads):
        trained = _trained(data, scale, args.seed)
        report = _exported(trained.network, folder / "model.onnx")
        note(f"[4/5] explaining {len(data.validation.labels)} validation pictures in ONNX Runtime and in PyTorch")
        findings = measure(trained.network, report.path, data, threads=args.threads)
    note(f"[5/5] writing {folder / 'index.html'}")
    record = Record(folder, args.seed, len(data.training.labels), trained, report, findings)
    write_everything(record, data, results)
    note(f"      all done in {time.monotonic() - start:.0f} s\n")
    return record


def _trained(data: Data, scale: Scale, seed: int) -> Trained:
    from camcore_tools.demo.watch import train_and_record

    note(f"[2/5] training a small residual network: {len(data.training.labels)} pictures, {scale.epochs} epochs")
    trained = train_and_record(data, epochs=scale.epochs, batch=scale.batch, seed=seed)
    note(f"      {trained.seconds:.0f} s; {trained.accuracy:.1%} of the validation pictures right")
    return trained


def _exported(network: nn.Module, path: Path) -> Report:
    import camcore_torch

    from camcore_tools.demo.measure import RULE, SIDE

    note(f"[3/5] exporting it to {path}")
    return camcore_torch.export(network, (1, 3, SIDE, SIDE), path, labels=KINDS, preprocess=RULE)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads, and then on as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
