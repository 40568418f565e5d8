"""What an experiment's code cannot reach: held-out text, the network, sockets of other programs; and that a run says so."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.fence import ABI, private_network
from lab.runspec import read_manifest
from tests.conftest import TOY
from tests.lab.conftest import Bench, first

pytestmark = pytest.mark.slow  # whole runs, most of a second each

Make = Callable[..., Bench]
fenced_only = pytest.mark.skipif(not ABI, reason="this kernel has no Landlock")
parted_only = pytest.mark.skipif(not private_network(), reason="this kernel grants no network of one's own")
STDLIB = Path(os.__file__).parent
HELD_OUT = [STDLIB / name for name in ("pydoc_data", "idlelib", "tkinter") if (STDLIB / name).is_dir()]


def masking(*places: Path) -> dict[str, str]:
    """A prepare command whose manifest masks these."""
    text = (TOY / "workspace" / "toy" / "prepare.py").read_text()
    assert text.count("manifest = {") == 1
    return {"toy/prepare.py": text.replace("manifest = {", f'manifest = {{"mask": {[*map(str, places)]!r}, ', 1)}


READ = """
import importlib, os
said = []
for place in PLACES:
    name = os.path.basename(place)
    for what in (lambda: importlib.import_module(name), lambda: open(os.path.join(place, '__init__.py')).read(1)):
        try:
            what()
            said.append('READ ' + name)
        except (ImportError, OSError) as error:
            said.append(type(error).__name__)
import json, pickle, subprocess, unittest, xml.dom.minidom  # neighbours of what is hidden
subprocess.run([__import__('sys').executable, '-c', 'import email'], check=True)
"""


@fenced_only
@pytest.mark.parametrize("who", ["training", "host"])
def test_held_out_modules_of_pythons_own_library_cannot_be_read_and_python_works_without_them(bench: Make, who: str) -> None:
    code = f"PLACES = {[*map(str, HELD_OUT)]!r}{READ}"
    refused = ["PermissionError"] * 2 * len(HELD_OUT)
    if who == "training":
        one = bench(committed={"toy/train.py": first(f"{code}print('SAID', *said)")}, pinned=masking(*HELD_OUT))
        result = one.run()
        assert (result["status"], result["sealed"], result["unsealed"]) == ("ok", True, "")
        assert f"SAID {' '.join(refused)}\n" in one.log()
    else:
        text = first(f"{code}import sys\nif 'toy.train' not in sys.orig_argv: raise RuntimeError(f'SAID {{said}}')", "toy/model.py")
        result = bench(committed={"toy/model.py": text}, pinned=masking(*HELD_OUT)).run()
        assert result["reason"].endswith(f"SAID {refused}")


def test_a_run_without_a_fence_is_unsealed_and_says_why(bench: Make) -> None:
    code = f"PLACES = {[*map(str, HELD_OUT)]!r}{READ}print('SAID', *said)"
    one = bench(committed={"toy/train.py": first(code)}, pinned=masking(*HELD_OUT))
    result = one.run(fenced=False)
    assert (result["status"], result["sealed"]) == ("ok", False) and "READ pydoc_data" in one.log()
    assert result["unsealed"] == "the kernel has no Landlock, so that nothing is hidden from training"


@fenced_only
def test_whether_held_out_text_is_hidden_is_tried_out_and_not_assumed(bench: Make, tmp_path: Path) -> None:
    own = tmp_path / "bench0" / "research" / ".org" / "runs" / "R0001" / "checkout" / "toy"  # where training may write
    result = bench(pinned=masking(*HELD_OUT, own)).run()
    assert (result["status"], result["sealed"]) == ("ok", False)
    assert result["unsealed"].startswith(f"training can read {own}/")


@fenced_only
def test_what_is_masked_and_not_there_seals_nothing_and_breaks_nothing(bench: Make, tmp_path: Path) -> None:
    result = bench(pinned=masking(tmp_path / "gone", Path("/usr/share/doc"))).run()
    assert (result["status"], result["sealed"]) == ("ok", True)


def test_a_manifest_that_was_edited_to_unmask_held_out_text_stops_the_run_which_is_lost(bench: Make) -> None:
    one = bench(pinned=masking(Path("/usr/share/doc")))
    pinned, path = read_manifest(one.home.data)[1], one.home.data / "manifest.json"
    assert one.run(manifest=pinned)["status"] == "ok"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mask": []}))
    result = one.run(manifest=pinned)
    assert result["status"] == "lost" and "manifest.json is not what was pinned" in result["reason"]


@fenced_only
def test_a_manifest_that_is_swapped_after_it_was_checked_unmasks_nothing(bench: Make, tmp_path: Path) -> None:
    path = tmp_path / "bench0" / "research" / ".org" / "data" / "manifest.json"
    swap = f"import pathlib\npathlib.Path({str(path)!r}).write_text('{{}}')"
    end = "import sys\nif 'toy.train' not in sys.orig_argv: raise RuntimeError(f'SAID {said}')"
    text = first(f"PLACES = {[*map(str, HELD_OUT)]!r}{READ}{end}", "toy/model.py")
    one = bench(committed={"toy/model.py": text}, pinned={"toy/feed.py": first(swap, "toy/feed.py"), **masking(*HELD_OUT)})
    before, pinned = read_manifest(one.home.data)
    result = one.run(manifest=pinned)
    assert path == one.home.data / "manifest.json" and path.read_text() == "{}", "the attack works"
    assert result["reason"].endswith(f"SAID {['PermissionError'] * 2 * len(HELD_OUT)}")
    assert result["hashes"]["corpus"] == before["corpus"]


@fenced_only
def test_more_masked_files_than_fit_into_a_command_are_all_masked(bench: Make, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        many = [Path(folder, f"{'held-out' * 8}-{number}") for number in range(3000)]
        for place in many:
            place.write_text("hush")
        result = bench(pinned=masking(*many)).run()
    assert (result["status"], result["sealed"]) == ("ok", True)


@fenced_only
def test_a_task_that_gives_training_its_data_is_unsealed(bench: Make) -> None:
    train = ["{python}", "-P", "-m", "toy.train", "--fd", "{feed}", "--seed", "{seed}", "--out", "{out}", "--data", "{data}"]
    result = bench(task={"train": train}).run()
    assert not result["sealed"] and result["unsealed"] == "the task gives training the folder with all its data"


CALL = """
import errno, socket
said = []
for family, kind, address in ADDRESSES:
    with socket.socket(family, kind) as caller:
        try:
            caller.connect(address)
            caller.send(b'do it')
            said.append('SENT')
        except OSError as error:
            said.append(errno.errorcode[error.errno])
"""


@fenced_only
@parted_only
@pytest.mark.parametrize("who", ["training", "host"])
def test_no_program_of_the_user_hears_a_datagram_or_a_socket_with_a_name(bench: Make, who: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as tmp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        listeners = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        names = [f"{tmp}/tmux", str(tmp_path / "in-home"), f"\0orgctl-test-{os.getpid()}-{who}"]
        for listener, name in zip(listeners, names, strict=True):
            listener.bind(name)
            listener.listen()
        addresses = [(socket.AF_INET.value, socket.SOCK_DGRAM.value, udp.getsockname())]
        addresses += [(socket.AF_UNIX.value, socket.SOCK_STREAM.value, name) for name in names]
        code = f"ADDRESSES = {addresses!r}{CALL}"
        expected = ["ENETUNREACH", "ENOENT", "ENOENT", "ECONNREFUSED"]
        if who == "training":
            one = bench(committed={"toy/train.py": first(f"{code}print('SAID', said)")})
            assert one.run()["status"] == "ok" and f"SAID {expected}" in one.log()
            one.run(fenced=False)
            assert f"SAID {['SENT'] * 4}" in one.log(), "the attack works"
        else:
            end = "import sys\nif 'toy.train' not in sys.orig_argv: raise RuntimeError(f'SAID {said}')"
            result = bench(committed={"toy/model.py": first(code + end, "toy/model.py")}).run()
            assert result["reason"].endswith(f"SAID {expected}")
        for listener in listeners:
            listener.close()


MEET = """
import os, sys, ctypes
if 'toy.train' not in sys.orig_argv:
    libc = ctypes.CDLL(None, use_errno=True)
    met = libc.shmget(KEY, 4096, 0o600) >= 0
    libc.shmget(KEY, 4096, 0o1600)
    home = os.environ['HOME']
    raise RuntimeError(f'SAID {met} {os.path.basename(home)} {os.listdir(home)}')
"""


@fenced_only
@parted_only
def test_two_model_hosts_of_one_run_have_nothing_in_common_that_they_can_write(bench: Make) -> None:
    """The toy's scorer starts one host a split; here each in a fence of its own, and both say what they found."""
    both = (TOY / "workspace" / "toy" / "score.py").read_text()
    for old, new in (
        ("    host = subprocess.run(", "    hosts = [subprocess.run("),
        ("        [*(fences[0] if fences else []),", "        [*fence,"),
        ("timeout=HOST_SECONDS,\n    )", "timeout=HOST_SECONDS,\n    ) for fence in fences]\n    host = hosts[0]"),
        ("said = host.stderr.strip().splitlines()", "said = [' AND '.join(h.stderr.split('\\n')[-2] for h in hosts)]"),
    ):
        assert both.count(old) == 1
        both = both.replace(old, new)
    key = int.from_bytes(os.urandom(3), "big")
    one = bench(committed={"toy/model.py": first(f"KEY = {key}{MEET}", "toy/model.py")}, pinned={"toy/score.py": both})
    result = one.run()
    first_said, second_said = (part.split("SAID ")[1].split() for part in result["reason"].split(" AND "))
    assert first_said[0] == second_said[0] == "False" and first_said[1] != second_said[1]
    assert first_said[2] == second_said[2] == "[]"


def test_a_run_says_how_large_what_it_left_and_its_source_are_and_what_scoring_took(bench: Make) -> None:
    one = bench()
    one.run()
    account = json.loads((one.folder / "result.json").read_text())["account"]
    editable = [one.home.root / path for path in one.task.editable]
    assert account["source_bytes"] == sum(path.stat().st_size for path in editable)
    out = one.folder / "out" / "weights.json"
    assert account["checkpoint_bytes"] == out.stat().st_size + len(out.name)
    assert 5e6 < account["score_memory_bytes"] < 2e8 and 0 < account["score_seconds"] < 20
