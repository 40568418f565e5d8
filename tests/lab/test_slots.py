"""Slots: what of this machine may be used, and what is free."""

from __future__ import annotations

import os

import pytest

from lab.errors import UserError
from lab.records import Run
from lab.slots import Slot, discover, free, usable_cores, visible


def running(slot: int, status: str = "running") -> Run:
    return Run(
        id=f"R{slot:04d}", experiment="", attempt=0, purpose="bank", commit="", seed=0, splits=[], budget={},
        agent="lab", home_slot=None, queued=0.0, status=status, slot=slot,
    )  # fmt: skip


def test_cpu_slots_are_two_to_four_and_each_gets_a_core_of_its_own_where_there_are_enough() -> None:
    slots, cores = discover("cpu"), usable_cores()
    assert 2 <= len(slots) <= 4 and [slot.index for slot in slots] == list(range(len(slots)))
    if len(cores) >= len(slots):
        assert sorted({core for slot in slots for core in slot.cpus or []}) == cores[: len(slots)]


def test_more_cpu_slots_than_cores_are_not_pinned() -> None:
    slots = discover("cpu", len(usable_cores()) + 1)
    assert len(slots) == len(usable_cores()) + 1
    assert all(slot.cpus is None and slot.cuda == "" for slot in slots)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_slots_use_only_the_cores_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert discover("cpu", 1) == [Slot(0, "cpu", [max(before)], "")]
        assert all(slot.cpus is None for slot in discover("cpu"))
    finally:
        os.sched_setaffinity(0, before)


def test_wanting_no_slot_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="at least 1"):
        discover("cpu", 0)


def test_a_machine_without_gpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match=r"no GPU found: nvidia-smi is missing; .*choose a cpu scale"):
        discover("cuda")


@pytest.mark.parametrize(
    ("allowed", "kept"),
    [
        ("0,2", ["0", "2"]), ("2, 0", ["2", "0"]), ("", []), ("-1", []), ("1,9,2", ["1"]), ("1,1", ["1"]),
        ("GPU-ab", ["GPU-ab"]),
    ],
)
def test_gpus_are_those_that_cuda_visible_devices_shows_as_cuda_reads_it(allowed: str, kept: list[str]) -> None:
    assert visible(allowed, ["0", "1", "2", "3"]) == kept


def test_a_slot_is_free_unless_a_run_is_running_on_it() -> None:
    slots = discover("cpu", 3)
    assert free(slots, []) == slots
    assert [slot.index for slot in free(slots, [running(1), running(0, "ok")])] == [0, 2]
