"""The worst submissions in one folder with good ones: each gets what it earned, and none stops another's grading."""

import json

from submissions import small_master, write

from multipole_lab.course.grading import batch
from multipole_lab.course.sandbox import session

BAD = {
    "abort": "import os\ndef weights(q, k, scale):\n    os.abort()",
    "crash": "import ctypes\ndef weights(q, k, scale):\n    ctypes.string_at(0)",
    "exit": "import os\nos._exit(0)",
    "forbidden": "def weights(q, k, scale):\n    return getattr(torch, 'soft' + 'max')(scale * q @ k.T, 1)",
    "forged": "def weights(q, k, scale):\n    print('5.0', flush=True)\n    return torch.zeros(len(q), len(k))",
    "fork": "import os\ndef weights(q, k, scale):\n    while True: os.fork()",
    "kill": "import os\ndef weights(q, k, scale):\n    os.kill(-1, 9)\n    os.kill(os.getppid(), 9)",
    "memory": "def weights(q, k, scale):\n    return torch.ones(10**11)",
    "surrogate": "def weights(q, k, scale):\n    raise ValueError('\\ud800 and \\x1b[2J')",
    "wide": "def weights(q, k, scale):\n    return ['x' * 1000] * 100_000",
}


def test_bad_submissions_in_a_batch_cost_themselves_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "load_master", lambda name, folder=None: small_master(("A1.1",), 2))
    monkeypatch.setattr(session, "CELL_SECONDS", 2.0)
    for name, source in BAD.items():
        write(tmp_path / "in" / name / "A1.ipynb", {"A1-1": source})
        write(tmp_path / "in" / f"{name}-and-good" / "A1.ipynb")
    done = batch.grade_folder(tmp_path / "in", tmp_path / "out")
    assert done.failures == []
    results = [json.loads(path.read_text()) for path in done.results]
    earned = {result["student"]: result["earned"] for result in results}
    assert earned == dict.fromkeys(BAD, 0) | {f"{name}-and-good": 5 for name in BAD}
    assert all(item["reason"] or item["tests"] for result in results for item in result["items"])
