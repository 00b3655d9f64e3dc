"""Each callback asks for its own package, when it is imported and not before."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("lightning", "pytorch_lightning", "transformers", "tensorboard", "torch.utils.tensorboard")

WITHOUT = f"""
import json, sys
import camcore_torch.callbacks.tensorboard
from camcore import MissingPackage

told = {{"loaded": [name for name in {HEAVY} if name in sys.modules]}}
sys.modules.update(dict.fromkeys({HEAVY}))
writer = object()
assert camcore_torch.callbacks.tensorboard.TensorBoardSink(writer).writer is writer

def lightning():
    import camcore_torch.callbacks.lightning
def huggingface():
    import camcore_torch.callbacks.huggingface
def tensorboard():
    camcore_torch.callbacks.tensorboard.TensorBoardSink("runs")

for use in (lightning, huggingface, tensorboard):
    try:
        use()
    except MissingPackage as error:
        told[use.__name__] = str(error)
print(json.dumps(told))
"""


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_of_the_callbacks_imports_nothing_heavy() -> None:
    names = "camcore, camcore_torch, camcore_torch.callbacks"
    assert fresh(f"import sys, {names}\nprint([n for n in {(*HEAVY, 'torch')} if n in sys.modules])") == "[]"


def test_a_missing_package_is_an_answer() -> None:
    told = json.loads(fresh(WITHOUT))
    assert told.pop("loaded") == []
    names = {"lightning": "PyTorch Lightning", "huggingface": "transformers", "tensorboard": "tensorboard"}
    assert told.keys() == names.keys()
    for extra, text in told.items():
        assert text.startswith(f"{names[extra]} cannot be imported (")
        assert text.endswith(f": pip install 'camcore[{extra}]'")
