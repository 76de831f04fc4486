"""What stands in a package for the Kernel Hub besides the kernels themselves."""

FRONT = '''"""Multipole attention in Triton: exact attention, k-means and MuSe, as operators of `torch.library`."""

from ._ops import ops
from .operators import attention, clusters, exact, muse, muse_attention, muse_causal

__all__ = ["attention", "clusters", "exact", "muse", "muse_attention", "muse_causal", "ops"]
'''

OPS = '''"""The namespace of this build's operators, which no other build has."""

import torch

_OPS_NAME = "{identifier}"

ops = getattr(torch.ops, _OPS_NAME)


def add_op_namespace_prefix(name: str) -> str:
    """The full name of an operator."""
    return f"{{_OPS_NAME}}::{{name}}"
'''

# Older loaders look for a folder of the kernel's name; what they find is the package around it.
INNER = '''"""The package around this folder, for loaders that look here."""

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).resolve().parents[1] / "__init__.py"
_name = f"{__name__}_of_{abs(hash(str(_path))):x}"
_spec = importlib.util.spec_from_file_location(_name, _path)
_module = sys.modules[_name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
globals().update({name: getattr(_module, name) for name in _module.__all__})
__all__ = _module.__all__
'''

BUILD = """[general]
name = "{name}"
version = {version}
edition = 5
license = "Apache-2.0"
backends = ["cuda"]

[general.hub]
repo-id = "{repo}"

[torch-noarch]
"""

FLAKE = """{{
  description = "{name}";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs =
    {{ self, kernel-builder }}:
    kernel-builder.lib.genKernelFlakeOutputs {{
      inherit self;
      path = ./.;
    }};
}}
"""

CARD = """---
library_name: kernels
license: apache-2.0
---

# {name}

Triton kernels of multipole_lab {release}: exact attention, and multipole semantic attention (MuSe, arXiv 2509.10406),
which expands far keys around the centroids of their clusters. On a GPU of compute capability 7.5 or later; fp16, bf16
and fp32, head sizes 16 to 256. Python 3.10 or later. Version {version}: names may still change.

```python
from kernels import get_kernel

kernel = get_kernel("{repo}", version={version}, trust_remote_code=True)
out = kernel.muse_attention(q, k, v, causal=True, clusters=64, near=4)  # q [B, Hq, N, D], k and v [B, Hk, N, D]
```

| name | what it is |
|---|---|
| `attention`, `muse_attention` | functions of q, k and v, differentiable; no padding |
| `exact`, `clusters`, `muse`, `muse_causal` | their operators, in `kernel.ops` too; one node each when compiled |

Errors and times, each with its machine, are in the lab's records (`data/benchmarks`). Gradients are first derivatives
in reverse mode; the choice of clusters is a constant.
"""

TEST = """import kernels
import pytest
import torch

kernel = kernels.get_kernel("{repo}", version={version}, trust_remote_code=True)


@pytest.mark.kernels_ci
@pytest.mark.parametrize("causal", [False, True])
def test_all_clusters_near_is_exact_attention(causal):
    q, k, v = (torch.randn(1, 2, 300, 64, device="cuda") for _ in "qkv")
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    got = kernel.muse_attention(q, k, v, causal, clusters=8, near=8, leaf=64)
    torch.testing.assert_close(kernel.attention(q, k, v, causal), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
"""
