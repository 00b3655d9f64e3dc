"""Each callback asks for its own package, when it is imported and not before."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("lightning", "pytorch_lightning", "transformers", "tensorboard", "torch.utils.tensorboard")


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_imported_before_it_is_needed() -> None:
    names = "camcore, camcore_torch, camcore_torch.callbacks"
    assert fresh(f"import sys, {names}\nprint([n for n in {(*HEAVY, 'torch')} if n in sys.modules])") == "[]"
    modules = "camcore_torch.recorder, camcore_torch.callbacks.watching, camcore_torch.callbacks.tensorboard"
    assert fresh(f"import sys, {modules}\nprint([n for n in {HEAVY} if n in sys.modules])") == "[]"


@pytest.mark.parametrize(
    ("module", "absent", "text"),
    [
        ("lightning", ("lightning", "pytorch_lightning"), "PyTorch Lightning cannot be imported ("),
        ("huggingface", ("transformers",), "transformers cannot be imported ("),
    ],
)
def test_a_missing_package_is_an_answer(module: str, absent: tuple[str, ...], text: str) -> None:
    said = fresh(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"
        "from camcore import MissingPackage\n"
        f"try: import camcore_torch.callbacks.{module}\n"
        "except MissingPackage as error: print(error)"
    )
    assert said.startswith(text)
    assert said.endswith(f"pip install 'camcore[{module}]'")


def test_a_writer_of_ones_own_needs_no_tensorboard() -> None:
    said = fresh(
        "import sys\n"
        "sys.modules['tensorboard'] = None\n"
        "from camcore import MissingPackage\n"
        "from camcore_torch.callbacks.tensorboard import TensorBoardSink\n"
        "writer = object()\n"
        "assert TensorBoardSink(writer).writer is writer\n"
        "try: TensorBoardSink('runs')\n"
        "except MissingPackage as error: print(error)"
    )
    assert said.startswith("tensorboard cannot be imported (")
    assert said.endswith("pip install 'camcore[tensorboard]'")
