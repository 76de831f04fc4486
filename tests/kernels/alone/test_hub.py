"""The package for the Kernel Hub: by its loader's own checks, loaded and used where the library cannot be imported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import multipole_lab as ml
from multipole_lab import cli
from multipole_lab.kernels.hub import package

HELPERS = Path(__file__).resolve().parents[2] / "helpers"

USE = """
import sys
from pathlib import Path

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "multipole_lab":
            raise ImportError(name)

sys.meta_path.insert(0, Hidden())
sys.path.append({helpers!r})
import torch
from kernels import get_local_kernel
from surroundings import quick_interpreter

if not torch.cuda.is_available():
    quick_interpreter.install()
kernel = get_local_kernel(Path({build!r}))
given = torch.load({given!r})
q, k, v = (x.requires_grad_() for x in given)
out = kernel.muse_attention(q, k, v, causal=True, clusters=3, near=1, leaf=6)
grads = torch.autograd.grad(out.square().sum(), (q, k, v))
torch.save([x.detach().cpu() for x in (out, *grads)], {got!r})
assert kernel.ops.muse_causal.default and not any(name.startswith("multipole_lab") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return package.write_package(
        tmp_path_factory.mktemp("hub") / "package", "somebody/multipole-kernels", "0.0"
    )


def test_it_is_loaded_and_right_without_the_library(folder, tmp_path):
    pytest.importorskip("kernels._rust", reason="a loader of the Hub that takes a folder is needed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, heads, 12, 16, generator=g).to(device) for heads in (2, 1, 1)]
    torch.save(inputs, tmp_path / "given.pt")
    code = USE.format(
        helpers=str(HELPERS),
        build=str(folder / "build" / package.VARIANT),
        given=str(tmp_path / "given.pt"),
        got=str(tmp_path / "got.pt"),
    )
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=settings
    )
    assert done.returncode == 0, done.stderr
    q, k, v = (x.requires_grad_() for x in inputs)
    out = ml.MuSe(clusters=3, near=1, leaf=6, backend="torch")(q, k, v, causal=True)
    expected = (out, *torch.autograd.grad(out.square().sum(), (q, k, v)))
    for mine, theirs in zip(torch.load(tmp_path / "got.pt"), expected, strict=True):
        torch.testing.assert_close(mine, theirs.detach().cpu(), rtol=1e-4, atol=1e-5)


def test_the_loader_reads_what_is_said_of_the_build(folder):
    rust = pytest.importorskip("kernels._rust", reason="a loader of the Hub with these checks is needed")
    build = folder / "build" / package.VARIANT
    known = rust.Metadata.read_from_file(build / "metadata.json")
    assert (known.name.python_name, known.version) == (package.MODULE, package.VERSION)
    known.digest.validate(rust.Digest.hash_variant(rust.DigestAlgorithm.SHA256, build))
    assert rust.Build.open(folder).general.backends == [known.backend.backend_type]
    assert f'"{known.id}"' in (build / "_ops.py").read_text(encoding="utf-8")


def test_it_imports_itself_by_relative_names_and_else_only_what_the_hub_allows(folder):
    allowed = {*sys.stdlib_module_names, "torch", "triton"}
    for path in (folder / "build").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] in allowed, path


def test_the_same_kernels_give_the_same_bytes(folder, tmp_path):
    again = package.write_package(tmp_path / "again", "somebody/multipole-kernels", "0.0")
    assert contents(again) == contents(folder)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_it_and_refuses_what_it_cannot_use(tmp_path, capsys):
    assert cli.main(["kernels", "--hub", str(tmp_path / "new"), "--repo", "somebody/x"]) == 0
    assert 'repo-id = "somebody/x"' in (tmp_path / "new" / "build.toml").read_text(encoding="utf-8")
    assert cli.main(["kernels", "--hub", str(tmp_path / "new")]) == 2
    assert "not empty; name a new folder" in capsys.readouterr().err
    assert cli.main(["kernels", "--hub", str(tmp_path / "other"), "--repo", "x"]) == 2
    assert "repo is 'x'; OWNER/NAME is needed" in capsys.readouterr().err
