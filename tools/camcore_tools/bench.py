"""Time this library beside what a user would pick instead: one process, alternating, medians, ratios.

Random weights, the calls back to back as a user makes them. Peers that are not installed are left out.
``camcore bench methods`` compares the methods, and each with the passes that it is made of; ``camcore bench gradients``
gradients in ONNX Runtime with its plain forward pass and with PyTorch; ``camcore bench recorder`` a step of a training
with a recorder beside one without; ``camcore bench deploy`` a model with its map inside beside the plain one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from camcore.errors import InputError, MissingPackage
from camcore_tools.console import Progress, columns, print_json
from camcore_tools.timing import Run, alternate

SUMMARY = "time this library beside plain inference and other CAM libraries"
NETWORKS = ("resnet50", "mobilenet_v2")
BATCHES = (1, 8)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "what",
        nargs="?",
        choices=("networks", "methods", "gradients", "recorder", "deploy"),
        default="networks",
        help="(%(default)s)",
    )
    parser.add_argument(
        "--networks", metavar="A,B", help=f"torchvision names ({','.join(NETWORKS)}); deploy also takes .onnx files"
    )
    parser.add_argument("--batches", metavar="A,B", help="batch sizes (1,8; on cuda 1,32,256)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="for every library (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="medians of this many (%(default)s)")
    deploy = parser.add_argument_group("deploy")
    deploy.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, tensorrt ... (%(default)s)")
    deploy.add_argument("--classes", default="top5,all", metavar="A,B", help="of the maps inside (%(default)s)")
    deploy.add_argument("--method", default="auto", help="of the maps inside (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    if args.what == "deploy" or args.device != "cpu":
        return _deploy(args)
    try:
        import torch
        import torchvision
    except ImportError as error:
        raise MissingPackage(f"camcore bench needs PyTorch ({error}): pip install 'camcore[all]'") from error
    torch.set_num_threads(args.threads)
    if args.what != "networks":
        return {"methods": _methods, "gradients": _gradients, "recorder": _recorder}[args.what](args)
    rows: list[dict[str, Any]] = []
    for name in (args.networks or ",".join(NETWORKS)).split(","):
        if not hasattr(torchvision.models, name):
            raise InputError(f"--networks {name!r}: torchvision has no such network; try {', '.join(NETWORKS)}")
        model = getattr(torchvision.models, name)(weights=None).eval()
        rows += _network(name, model, _batches(args) or list(BATCHES), args)
    matrix = all_classes(args.rounds)
    document = {"threads": args.threads, "rounds": args.rounds, "rows": rows, "all classes": matrix}
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0


def _methods(args: argparse.Namespace) -> int:
    from camcore_tools.bench_methods import measure, print_table

    tables = measure(args.rounds, args.threads)
    if args.json:
        print_json({"threads": args.threads, "rounds": args.rounds, **tables})
    else:
        print(f"{args.threads} threads, medians of alternating calls; ratio to the first line of each table")
        print_table(tables)
    return 0


def _gradients(args: argparse.Namespace) -> int:
    from camcore_tools.bench_gradients import LAYERS, measure, print_table

    networks = args.networks.split(",") if args.networks else list(LAYERS)
    unknown = [name for name in networks if name not in LAYERS]
    if unknown:
        raise InputError(f"--networks {unknown[0]!r}: gradients are timed of {', '.join(LAYERS)}")
    rows = measure(networks, _batches(args) or list(BATCHES), args.rounds, args.threads)
    if args.json:
        print_json({"threads": args.threads, "rounds": args.rounds, "rows": rows})
    else:
        print(f"{args.threads} threads, medians of alternating calls; ratio to the plain forward in ONNX Runtime")
        print_table(rows)
    return 0


def _recorder(args: argparse.Namespace) -> int:
    from camcore_tools.bench_recorder import measure, print_table

    table = measure(args.rounds)
    if args.json:
        print_json({"threads": args.threads, "rounds": args.rounds, **table})
    else:
        print(f"{args.threads} threads, medians of {args.rounds} alternating rounds; small network, batch 32, 64 x 64")
        print("pixels, 12 pictures watched; ratio to a step without a recorder\n")
        print_table(table)
    return 0


def _deploy(args: argparse.Namespace) -> int:
    from camcore_tools.bench_deploy import measure, print_table

    if args.what not in ("deploy", "networks"):
        raise InputError(f"--device {args.device}: only `camcore bench deploy` runs there, not {args.what}")
    rows = measure(
        (args.networks or ",".join(NETWORKS)).split(","),
        _batches(args),
        rounds=args.rounds,
        threads=args.threads,
        device=args.device,
        classes=args.classes.split(","),
        method=args.method,
    )
    if args.json:
        print_json({"device": args.device, "threads": args.threads, "rounds": args.rounds, "rows": rows})
    else:
        where = f"{args.threads} threads" if args.device == "cpu" else f"{args.device}, images there already"
        print(f"{where}, medians of alternating calls; ratio to the plain model,")
        print("images a second, and what the session returns for each image")
        print_table(rows)
    return 0


def _batches(args: argparse.Namespace) -> list[int] | None:
    """The sizes given, if any."""
    if args.batches is None:
        return None
    try:
        sizes = [int(part) for part in args.batches.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise InputError(f"--batches {args.batches!r}; expected whole numbers of at least 1, such as 1,8")
    return sizes


def _network(name: str, model: Any, batches: list[int], args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with TemporaryDirectory() as folder, Progress(len(batches) * args.rounds, f"timing {name}") as bar:
        path = Path(folder) / "model.onnx"
        path.write_bytes(_plain_onnx(model))
        for batch in batches:
            images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
            seconds = alternate(_onnx_runs(path, images, args.threads), args.rounds)
            seconds |= alternate(_torch_runs(model, images), args.rounds, bar)
            rows.append({"network": name, "batch": batch, **_ratios(seconds)})
    return rows


def _plain_onnx(model: Any) -> bytes:
    from camcore_torch.exporting import to_onnx

    return to_onnx(model, (1, 3, 224, 224), exporter="torchscript")


def _onnx_runs(path: Path, images: Any, threads: int) -> dict[str, Run]:
    """Plain ONNX Runtime and camcore on the same file."""
    from camcore_onnx.running.runtime import make_session

    import camcore

    session = make_session(str(path), device="cpu", threads=threads)
    feed = {session.get_inputs()[0].name: images}
    explainer = camcore.explainer(path, device="cpu", threads=threads)
    return {
        "onnxruntime": lambda: session.run(None, feed),
        "camcore onnx, top 5": lambda: explainer(images, "top5"),
    }


def _torch_runs(model: Any, images: Any) -> dict[str, Run]:
    """Plain PyTorch, camcore, and the peers that are installed."""
    import torch

    import camcore

    tensor = torch.from_numpy(images)
    explainer = camcore.explainer(model)

    def forward() -> Any:
        with torch.no_grad():
            return model(tensor)

    runs: dict[str, Run] = {"torch": forward, "camcore torch, top 5": lambda: explainer(images, "top5")}
    layer = explainer.plan.tap.layer
    layer = layer if layer in dict(model.named_modules()) else "features"
    return runs | _grad_cam(model, layer, tensor) | _torchcam(model, layer, tensor)


def _grad_cam(model: Any, layer: str, tensor: Any) -> dict[str, Run]:
    """pytorch-grad-cam has no plain CAM; its Grad-CAM is the same map on these heads, up to scale."""
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError:
        return {}
    target = model.get_submodule(layer)

    def explain() -> Any:  # hooks stay in the model while the object lives, so it is made anew
        with GradCAM(model=model, target_layers=[target]) as cam:
            return cam(input_tensor=tensor, targets=None)

    return {"pytorch-grad-cam, top 1": explain}


def _torchcam(model: Any, layer: str, tensor: Any) -> dict[str, Run]:
    """torchcam takes networks with exactly one linear layer."""
    try:
        from torch import nn
        from torchcam.methods import CAM
    except ImportError:
        return {}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if len(linear) != 1:
        return {}

    def explain() -> Any:
        with CAM(model, target_layer=layer, fc_layer=linear[0]) as extractor:
            scores = model(tensor)
            return extractor(scores.argmax(1).tolist(), scores)

    return {"torchcam, top 1": explain}


def _ratios(seconds: dict[str, float]) -> dict[str, Any]:
    ort, torch = seconds["onnxruntime"], seconds["torch"]
    base = {name: ort if "onnx" in name else torch for name in seconds}
    return {
        "ms": {name: round(value * 1e3, 2) for name, value in seconds.items()},
        "ratio": {name: round(value / base[name], 3) for name, value in seconds.items()},
    }


def all_classes(rounds: int) -> dict[str, float]:
    """Maps of 1000 classes from (32, 2048, 7, 7) features beside one matrix product of that size."""
    import camcore

    generator = np.random.default_rng(0)
    features = generator.standard_normal((32, 2048, 7, 7), np.float32)
    weight = generator.standard_normal((1000, 2048), np.float32)
    flat = np.ascontiguousarray(features.reshape(32, 2048, 49).transpose(1, 0, 2).reshape(2048, -1))
    head = camcore.LinearHead(weight)
    seconds = alternate({"matmul": lambda: np.matmul(weight, flat), "cam": lambda: camcore.cam(features, head)}, rounds)
    return {**{k: round(v * 1e3, 2) for k, v in seconds.items()}, "ratio": round(seconds["cam"] / seconds["matmul"], 3)}


def _print(d: dict[str, Any]) -> None:
    print(f"{d['threads']} threads, medians of {d['rounds']} alternating calls; ratio to the plain forward pass")
    for row in d["rows"]:
        print(f"\n{row['network']}, batch {row['batch']}")
        print(columns([(n, f"{ms:9.2f} ms", f"{row['ratio'][n]:7.3f} x") for n, ms in row["ms"].items()]))
    m = d["all classes"]
    print("\nmaps of 1000 classes from (32, 2048, 7, 7) features")
    print(
        columns(
            [
                ("np.matmul of that size", f"{m['matmul']:9.2f} ms", ""),
                ("camcore.cam", f"{m['cam']:9.2f} ms", f"{m['ratio']:7.3f} x"),
            ]
        )
    )
