"""What an import costs, by the modules that it loads: figures, panels and solvers come when somebody uses them."""

import json
import subprocess
import sys

import glutils as gl

HEAVY = (
    "matplotlib", "ipywidgets", "IPython", "scipy", "sklearn", "skimage", "opacus", "botorch", "cma", "distributed",
    "dask", "torchvision", "torchmetrics", "lpips", "pandas", "PIL",
)  # fmt: skip
SCRIPT = """
import json, sys

def loaded():
    return [name for name in sys.argv[1:] if name in sys.modules]

found = {}
import glutils as gl
found["import"] = loaded()
gl.attacks, gl.data, gl.defenses, gl.federation, gl.labels, gl.latent, gl.models, gl.observe, gl.protocols
found["parts"] = loaded()
batch = gl.data.sample("digits", seed=0, device="cpu")
model, protocol = gl.models.build("mlp", batch), gl.protocols.FedSGD()
seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
result = gl.attack("fc_inversion", seen)
result = gl.attack("ig", gl.observe(model, protocol, seen.payload, batch, knows={"labels"}), iterations=2)
found["attack"] = loaded()
gl.score(result, batch)
from glutils.experiments import reconstruct
reconstruct("fc_inversion", "digits", reconstruct_num=1, folder=sys.argv[1], device="cpu", progress=False)
found["reconstruct"] = [name for name in ("ipywidgets", "IPython", "glutils.show", *loaded()) if name in sys.modules]

import glutils._torchvision as shim
assert not shim.prepare()  # done at import, and once only
import torch, torchvision, torchvision.models as models
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import resize
found["resized"] = resize(torch.zeros(3, 8, 8), [4, 4], antialias=True).shape
found["logits"] = models.resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32)).shape
print(json.dumps(found))
"""


def test_a_run_loads_neither_figures_nor_panels_and_torchvision_works_in_a_fresh_interpreter(tmp_path):
    """One new interpreter for both: most of what it costs is its start."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), *HEAVY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["import"] == [] and found["parts"] == []
    assert set(found["attack"]) <= {"sklearn", "scipy"}  # the digits are scikit-learn's, and read by its own function
    # structural similarity is torchmetrics's, which loads torchvision, SciPy and, where it is installed, matplotlib
    allowed = {"torchmetrics", "torchvision", "matplotlib", "scipy", "sklearn", "PIL", "pandas"}
    assert set(found["reconstruct"]) <= allowed
    assert found["resized"] == [3, 4, 4] and found["logits"] == [1, 1000]


def test_every_public_name_is_there():
    for name in gl.__all__:
        assert getattr(gl, name) is not None and name in dir(gl)
    for name in gl.experiments.__all__:
        assert getattr(gl.experiments, name) is not None and name in dir(gl.experiments)
    assert callable(gl.experiments.reconstruct) and callable(gl.experiments.defense_sweep)  # not the modules so called
    assert not hasattr(gl, "figures") and not hasattr(gl.experiments, "figures")
