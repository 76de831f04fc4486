"""A machine without Triton, as every one that runs no Linux: everything in torch works, kernels say what they need."""

import subprocess
import sys

SCRIPT = """
import importlib.abc, sys

class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gone())

import torch
from transformers import LlamaConfig, LlamaForCausalLM
import multipole_lab as ml
from multipole_lab.lessons.step_times import step_times
from multipole_lab.decoding.settings import Settings

q, k, v = torch.randn(3, 1, 2, 70, 16)
for method in (ml.MuSe(clusters=4, leaf=16), ml.Centroid(clusters=4, leaf=16), ml.Window(size=8), ml.TopK(keys=4)):
    method(q, k, v, causal=True)
sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=20)
model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
cache = ml.MultipoleCache(block=16, interval=4, recent=4, sinks=2, dense_until=0)
model.generate(torch.zeros(1, 40, dtype=torch.long), past_key_values=cache, max_new_tokens=4, do_sample=False)
print(cache.report())
step_times(q, k, v, Settings(block=16, interval=4, recent=4, sinks=2), repeats=1)
try:
    ml.MuSe(clusters=4, backend="triton")(q, k, v)
except ImportError as error:
    print(error)
assert "triton" not in sys.modules
"""


def test_everything_in_torch_works_and_a_kernel_names_the_package():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("a Triton kernel needs triton: pip install triton")
