"""A run of several processes: torchrun before the training command, the feeder's socket at rank 0, and no network."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from lab.fence import ABI, private_network
from tests.lab.conftest import Bench, first

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not private_network(), reason="no network of one's own here")]

Make = Callable[..., Bench]
LAUNCH = [
    "{python}", "-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2",
    "--no-python",
]  # fmt: skip
ROOM = {"launch": LAUNCH, "memory_gib": 4, "deadline_seconds": 100}
GLOO = """
import os, socket, sys
import torch
import torch.distributed as dist
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
ranks = torch.tensor([1.0 + rank])
dist.all_reduce(ranks)
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.sendto(b"x", ("192.0.2.1", 9))
    outside = "OPEN"
except OSError as error:
    outside = error.strerror
try:
    socket.create_connection(("127.0.0.1", PORT), 5)
    outside += " and OPEN"
except OSError as error:
    outside += " and " + error.strerror
os.write(1, f"rank {rank} of {dist.get_world_size()} sum {ranks.item()} outside: {outside}\\n".encode())  # whole: both write
dist.barrier()
dist.destroy_process_group()
if rank:
    sys.exit()
"""


def test_torchrun_starts_two_processes_that_talk_to_each_other_and_to_nobody_else(bench: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = bench(committed={"toy/train.py": first(f"PORT = {server.getsockname()[1]}{GLOO}")}, scale=ROOM)
        result = one.run(seconds=120)
    log = one.log()
    assert (result["status"], result["reason"]) == ("ok", ""), log[-3000:]
    assert (result["account"]["tokens"], result["account"]["steps"]) == (4096, 256)
    closed = "outside: Network is unreachable and Connection refused"
    for rank in (0, 1):
        assert f"rank {rank} of 2 sum 3.0 {closed}" in log
    assert result["sealed"] is bool(ABI) and one.left() == []


def test_a_process_that_fails_ends_the_run_and_all_the_others(bench: Make) -> None:
    code = "import os, time\nif os.environ['RANK'] == '1': raise ValueError('rank 1 gives up')\ntime.sleep(60)"
    one = bench(committed={"toy/train.py": first(code)}, scale=ROOM)
    result = one.run(seconds=120)
    assert (result["status"], result["reason"]) == ("crashed", "exit code 1: ValueError: rank 1 gives up")
    assert result["account"]["train_seconds"] < 45 and one.left() == []
