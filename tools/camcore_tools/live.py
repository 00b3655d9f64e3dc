"""A page on this machine with a stream and, over it, the heatmap of the best class or of one that you click.

examples:
  camcore live model.onnx
  camcore live model.onnx --source holiday.mp4 --method layercam
  camcore live model.onnx --source photos/ --labels names.txt --no-browser
  camcore live --torch torchvision.models:resnet18 --weights w.safetensors --classes "tabby, tabby cat"
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.engine import Explainer
from camcore.errors import InputError, MissingPackage
from camcore_tools.console import Progress, columns, note, safe
from camcore_tools.explainers import open_explainers
from camcore_tools.explaining.options import add_method_options, add_preprocess_options
from camcore_tools.sources import add_model_options, open_model

if TYPE_CHECKING:
    from camcore_tools.serving.explaining import Model

SUMMARY = "camera, video or pictures in the browser, with the heatmap over them"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_options(parser)
    parser.add_argument(
        "--source", default="camera", metavar="WHAT", help="camera (default), a video file, or a folder of pictures"
    )
    parser.add_argument(
        "--classes", metavar="CLASS", help="explain this class at first, an index or a name; the best one where absent"
    )
    add_method_options(parser, several=False)
    add_preprocess_options(parser)
    parser.add_argument(
        "--independent", action="store_true", default=None, help="each class has a probability of its own (multi-label)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (%(default)s: this machine only; 0.0.0.0: the network)",
    )
    parser.add_argument("--port", type=int, default=8400, metavar="N", help="0 takes a free one (%(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    _need_aiohttp()
    from camcore_tools.serving import app, guard, media, running
    from camcore_tools.serving.explaining import Model

    source = media.open_source(args.source)
    with running.listen(args.host, args.port) as taken:
        explainer = _explainer(args)
        with Progress(1, "first picture") as bar:
            explainer.report = lambda done, total: bar.step(0, f"{done}/{total} runs")
            model = Model(explainer)
        outside = not running.is_loopback(taken)
        door = guard.Guard(args.host, outside, secrets.token_urlsafe(16) if outside else "")
        index = None if args.classes in (None, "top1") else _class_index(model, args.classes)
        application = app.make_app(model, source, door, title=_title(args), class_index=index)
        urls = running.addresses(taken, door.prefix)

        def begun() -> None:
            _tell(urls, args, model, str(source))
            if not args.no_browser:
                running.open_browser(urls[0])

        if outside:
            _warn(source, args.port or 8400)
        running.serve(application, taken, begun)
    return 0


def _need_aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise MissingPackage(f"camcore live needs aiohttp ({error}): pip install 'camcore[live]'") from error


def _explainer(args: argparse.Namespace) -> Explainer:
    explainers = open_explainers(args, open_model(args))
    if len(explainers) > 1:
        raise InputError(f"--method {args.method}: the page shows one method at a time; give one")
    return next(iter(explainers.values()))


def _class_index(model: Model, text: str) -> int:
    """An index or a name, as the model knows it."""
    from camcore.scores import choose_classes

    wanted: Any = int(text) if text.isdigit() else text
    found = choose_classes(model.first.scores, wanted, model.first.class_names)
    if found.shape != (1, 1):
        raise InputError(f"--classes {text}: the page shows one class at a time; give an index or a name")
    return int(found[0, 0])


def _title(args: argparse.Namespace) -> str:
    return safe(args.torch.rpartition(":")[2] if args.torch else Path(args.model).name)


def _tell(urls: list[str], args: argparse.Namespace, model: Model, source: str) -> None:
    info, first = model.info, model.first
    height, width = info["size"]
    took = model.seconds
    rows = [
        ("model", f"{_title(args)}, {info['classes']} classes, input {height} x {width}"),
        ("method", f"{first.method} at {first.layer} on {first.device}, {_duration(took)} for the first picture"),
        ("source", source),
    ]
    print(f"camcore live: {' or '.join(urls)}   (Ctrl-C ends it)")
    print(columns(rows), flush=True)


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _warn(source: Any, port: int) -> None:
    from camcore_tools.serving.media import Camera

    note(
        "warning: anybody on the network who has the address below can send pictures to this model"
        + ("" if isinstance(source, Camera) else " and see those of --source")
    )
    if isinstance(source, Camera):
        note(
            "note: browsers give their camera to pages of their own machine only; on another one run "
            f"ssh -L {port}:127.0.0.1:{port} THIS-MACHINE, with --host 127.0.0.1 here"
        )
