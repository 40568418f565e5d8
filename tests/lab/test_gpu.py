"""A real GPU inside the fence: CUDA starts, compiled code runs, and its memory is seen. Needs nothing but Python and torch:

python -m pytest --noconftest tests/lab/test_gpu.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.fence import ABI, Fence, interpreter, private_network, system
from lab.gpus import Gauge, driver, gpu_name, query

CUDA = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
SEEN = bool(shutil.which("nvidia-smi")) and bool(query(CUDA, "--query-gpu=name"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SEEN, reason="no GPU here")]

TRAIN = """
import time, torch
x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
held = torch.empty(3 << 30, dtype=torch.uint8, device="cuda").fill_(1)
y = torch.compile(lambda a: (a @ a).relu().sum())(x)
host = torch.ones(1 << 20).pin_memory().cuda(non_blocking=True)
torch.cuda.synchronize()
print("DONE", y.isfinite().item() or True, flush=True)
time.sleep(2)
"""


def test_cuda_starts_inside_the_fence_of_training_and_its_memory_is_seen(tmp_path: Path) -> None:
    assert gpu_name(CUDA) != "unknown" and driver(CUDA)[:1].isdecimal()
    home = Path(os.path.expanduser("~"))
    covered = [Path("/tmp"), Path("/var/tmp"), Path("/run"), home]
    fence = Fence(
        [tmp_path], [*system(), *interpreter()], [home], gpu=True, apart=True, shared_memory=True, covered=covered
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": CUDA}
    env |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ}
    gauge, begun = Gauge(CUDA), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], cwd=tmp_path, env=env, preexec_fn=fence.enter, capture_output=True, text=True, timeout=300
    )
    fence.close()
    gauge.close()
    said = f"landlock {ABI}, own network {private_network()}, {time.monotonic() - begun:.1f} s, peak {gauge.peak}, {gauge.clock} MHz"
    assert "DONE" in done.stdout, f"{said}\n{done.stderr[-3000:]}"
    assert gauge.peak is not None and gauge.peak > 3 << 30, said
    assert gauge.clock is not None and 100 < gauge.clock < 5000, said
    print(said)
