"""Train a classifier on a folder of class folders, record where it looks
meanwhile, export the best one and verify it.

The run folder has config.json, split.json (the pictures of both sides),
metrics.csv (losses and top-1, 3, 5 an epoch), checkpoints/ (safetensors),
trunk.safetensors (with --freeze: what is not learned), last.safetensors (to go
on with), recording/ and recording.npz (the maps of all frames), shown by
timeline.html, training.gif, training.webp, filmstrip.png, drift.png and
drift.json, then model.onnx and summary.json.

A run that was broken off at any moment goes on with --resume, and ends with
the same weights as if nothing had happened. It keeps its options; only DATA,
--keep, --export, --masks, --device and --threads may be others. A run that is
done gets no more epochs: start a new one with the same options and
--weights RUN/checkpoints/epoch-0012.safetensors.

examples:
  fine-tune on few pictures, with the maps of every step in a film:
    camcore train merchandise/ --arch resnet18 --every 1 -o run
  the small network from scratch, with its maps after 5 and after 50 epochs:
    camcore train cifar/ --size 32 --epochs 50 --strip 5,50 -o run
  cut a network, add a convolution of 1024 maps and pooling:
    camcore train photos/ --arch googlenet --cut inception4e --head conv1024
  only a new head, with ReCAM:
    camcore train flowers/ --arch vgg16 --head maps --freeze --recam self
    camcore evaluate camcore-run
  find the learning rate; with and without ReCAM:
    camcore train photos/ --grid lr=1e-4,1e-3 --grid method=cam,recam -o runs
  after a kill:
    camcore train -o run --resume
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError, MissingPackage
from camcore_tools.console import note, print_json, safe
from camcore_tools.threads import let_threads_rest
from camcore_tools.training.options import add_options, job_from, options_given

if TYPE_CHECKING:
    from camcore.preprocess import Preprocess
    from camcore_tools.training.job import Job
    from camcore_tools.training.pictures import Split

SUMMARY = "train a classifier on a folder of pictures, watch where it looks, export and verify it"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    from camcore_tools.training.grid import axis

    parser.add_argument("-o", "--output", default="camcore-run", metavar="RUN", help="the run folder (%(default)s)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in that folder, if there is one; not for more epochs, see above",
    )
    parser.add_argument(
        "--grid",
        action="append",
        type=axis,
        default=[],
        metavar="NAME=V,V",
        help="train once for each value of any option, each in a folder of its own; several make all combinations",
    )
    parser.add_argument("--json", action="store_true", help="print summary.json instead of a summary")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train; 1 if the training diverges or the exported model fails its verification."""
    let_threads_rest()
    _need_packages()
    with _warnings_as_notes(), _said_what_to_do(args.output):
        return _grid(args) if _is_grid(args) else _single(args)


def _is_grid(args: argparse.Namespace) -> bool:
    from camcore_tools.training.run_folder import RunFolder

    return bool(args.grid) or (args.resume and (Path(args.output) / RunFolder.GRID).is_file())


def _single(args: argparse.Namespace) -> int:
    from camcore_tools.training.loop import Diverged
    from camcore_tools.training.report import print_run

    folder = Path(args.output)
    job = _job(options_given(args), folder, resume=args.resume)
    try:
        document = _trained(job, folder)
    except Diverged as error:
        print(f"camcore train: {error}", file=sys.stderr)
        return 1
    print_json(document) if args.json else print_run(document)
    return 0 if document["model"] is None or document["model"]["passed"] else 1


def _job(given: Mapping[str, Any], folder: Path, *, resume: bool) -> Job:
    """A new job for a new folder; that of the folder, if it may and can go on."""
    from camcore_tools.training.run_folder import RunFolder
    from camcore_tools.training.runs import open_run

    run = RunFolder(folder)
    if not resume:
        run.refuse_if_used()
    if (folder / run.CONFIG).exists():
        return open_run(folder).job.changed(given)
    if resume and "data" not in given:
        raise InputError(f"there is no run in {folder}; expected the folder of one with -o, or DATA to begin one there")
    return job_from(given)


def _trained(job: Job, folder: Path, label: str = "training", pictures: Any = None) -> dict[str, Any]:
    import torch

    from camcore_tools.training.material import open_split
    from camcore_tools.training.session import carry_out

    before = torch.get_num_threads()
    torch.set_num_threads(job.settings.threads or before)
    try:
        return carry_out(job, folder, command=sys.argv, label=label, pictures=pictures or open_split)
    finally:
        torch.set_num_threads(before)


# ---- many


def _grid(args: argparse.Namespace) -> int:
    from camcore_tools.training.grid import combinations, grid_table, run_grid
    from camcore_tools.training.run_folder import RunFolder

    run = RunFolder(Path(args.output))
    if not args.resume:
        run.refuse_if_used()
    axes, given = _grid_asked(args, run.path)
    grid = combinations(axes, given)
    run.prepare()
    run.write_json(run.GRID, {"axes": [[one.name, list(one.values)] for one in axes], "given": dict(given)})
    shared = _Shared()
    rows = run_grid(grid, run.path, lambda job, folder, label: _trained(job, folder, label, shared))
    if args.json:
        print_json({"run": str(run.path), "trainings": rows})
    else:
        print(grid_table(rows))
        print(f"{safe(run.path / 'grid.csv')} has this table; each folder beside it is a run")
    return 0 if not any("error" in row for row in rows) else 1


def _grid_asked(args: argparse.Namespace, folder: Path) -> tuple[Sequence[Any], dict[str, Any]]:
    """What is said now, on top of what was said when the grid was begun."""
    from camcore_tools.training.grid import Axis
    from camcore_tools.training.run_folder import RunFolder
    from camcore_tools.training.runs import read_json

    given, path = options_given(args), folder / RunFolder.GRID
    if not (args.resume and path.is_file()):
        return args.grid, given
    stored = read_json(path)
    try:
        axes = [Axis(str(name), tuple(map(str, values))) for name, values in stored["axes"]]
        given = {**stored["given"], **given}
        given |= {"size": tuple(given["size"])} if "size" in given else {}
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error!r}; give all options again") from error
    return args.grid or axes, given


class _Shared:
    """The pictures of the last job, for the next one of the same."""

    def __init__(self) -> None:
        self._key: Any = None
        self._split: Split | None = None

    def __call__(self, job: Job, rule: Preprocess, data: str) -> Split:
        from camcore_tools.training.material import open_split

        key = (data, rule, job.split, job.settings.seed)
        if self._split is None or self._key != key:
            self._key, self._split = key, open_split(job, rule, data)
        return self._split


# ---- before and after


def _need_packages() -> None:
    from camcore_onnx.running.packages import need

    for package in ("torch", "torchvision", "safetensors", "onnx", "onnx_ir", "onnxruntime", "onnxscript"):
        try:
            need(package)
        except ImportError as error:
            raise MissingPackage(
                f"training needs {package}, which cannot be imported: pip install 'camcore[all]'"
            ) from error


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Such as of a frame that could not be written: a line each, without lines of code."""
    before = warnings.showwarning
    warnings.showwarning = lambda message, *args, **options: note(f"warning: {safe(message)}")
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def _said_what_to_do(output: str) -> Iterator[None]:
    """A training that is broken off can go on."""
    again = f"camcore train -o {safe(output)} --resume"
    try:
        yield
    except BrokenPipeError:  # `camcore train ... | head`
        raise
    except OSError as error:
        raise InputError(f"{error.strerror or error}; when that is mended, go on with: {again}") from error
    except KeyboardInterrupt:
        note(f"to go on: {again}")
        raise
