"""What an experiment's code cannot do: read keys or targets, change protected files, forge a result, touch others."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.errors import Stopped, UserError
from lab.fence import ABI
from lab.overlay import lay_protected
from lab.watch import Watch
from tasks.spec import folder, load, workspace_files
from tests.lab.conftest import Bench, first

pytestmark = pytest.mark.slow  # whole runs, most of a second each

Make = Callable[..., Bench]
fenced_only = pytest.mark.skipif(not ABI, reason="this kernel has no Landlock")
SECRETS = {
    "ANTHROPIC_API_KEY": "sk-ant-hush", "OPENAI_API_KEY": "sk-hush", "AWS_SECRET_ACCESS_KEY": "aws-hush",
    "HF_TOKEN": "hf-hush", "GITHUB_TOKEN": "gh-hush", "SSH_AUTH_SOCK": "/hush/agent", "PYTHONPATH": "/hush/path",
}  # fmt: skip
ENVIRONMENT = {
    "PATH", "LANG", "HOME", "TMPDIR", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE",
    "PYTHONUNBUFFERED", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
}  # fmt: skip


def test_no_key_of_the_users_environment_reaches_feeder_training_or_scorer(bench: Make) -> None:
    show = "import os, json; print('ENV', json.dumps(dict(os.environ)))"
    one = bench(
        committed={"toy/train.py": first(show)},
        pinned={"toy/feed.py": first(show, "toy/feed.py"), "toy/score.py": first(show, "toy/score.py")},
    )
    assert one.run(env=SECRETS)["status"] == "ok"
    for log in ("stdout.log", "feed.log", "score.log"):
        line = next(line for line in one.log(log).splitlines() if line.startswith("ENV "))
        seen = json.loads(line[4:])
        assert set(seen) - {"LC_CTYPE", "LD_LIBRARY_PATH"} == ENVIRONMENT | ({"HOST_FENCE"} & set(seen)), log
        assert ("HOST_FENCE" in seen) == (log == "score.log")
        assert "hush" not in line
        assert Path(seen["HOME"]).is_relative_to(one.folder)


@fenced_only
def test_training_reads_no_keys_of_other_processes_or_the_users_home_and_no_targets(
    bench: Make, tmp_path: Path
) -> None:
    snoop = """
import glob
from pathlib import Path
from typing import Any
for name in [*glob.glob('/proc/*/environ'), *sorted(map(str, Path(USER).rglob('*'))), DATA + '/points.json']:
    try:
        text = Path(name).read_text(errors='replace')
    except OSError:
        continue
    if 'hush' in text or '"locked"' in text:
        print('FOUND', name)
print('looked')
"""
    user, data = tmp_path / "bench0" / "user", tmp_path / "bench0" / "research" / ".org" / "data"
    one = bench(committed={"toy/train.py": first(f"USER, DATA = {str(user)!r}, {str(data)!r}" + snoop)})
    assert (one.user, one.home.data) == (user, data)
    (user / "credentials").write_text("hush")
    assert one.run(env=SECRETS)["status"] == "ok"
    assert "looked" in one.log() and "FOUND" not in one.log()


RESUME = """
import json
from pathlib import Path
from typing import Any
for name in PLACES:
    try:
        print('RESUMED', name, len(Path(name).read_bytes()))
    except OSError as error:
        print('nothing', name, error.strerror)
    try:
        Path(name).write_text('weights')
        print('LEFT', name)
    except OSError:
        print('refused', name)
"""
"""What takes over the weights of an earlier run, and leaves some for the next."""
CUDA = {"index": 0, "device": "cuda", "cpus": None, "cuda": "0"}


@fenced_only
@pytest.mark.parametrize("slot", [CUDA, {**CUDA, "device": "cpu", "cuda": ""}], ids=["cuda", "cpu"])
def test_training_resumes_from_nothing_that_an_earlier_run_left_in_shared_memory(
    bench: Make, slot: dict[str, object]
) -> None:
    place = Path("/dev/shm", f"orgctl-test-{uuid.uuid4().hex}")
    one = bench(committed={"toy/train.py": first(f"PLACES = [{str(place)!r}]" + RESUME)})
    try:
        for purpose in ("nominate", "confirm"):
            assert one.run(purpose=purpose, slot=slot)["status"] == "ok"
            assert "RESUMED" not in one.log() and f"nothing {place}" in one.log()
            assert slot["cuda"] or f"refused {place}" in one.log()
        assert not place.exists()
    finally:
        place.unlink(missing_ok=True)


@fenced_only
def test_training_on_a_gpu_does_not_read_the_shared_memory_of_others(bench: Make) -> None:
    place = Path("/dev/shm", f"orgctl-test-{uuid.uuid4().hex}")
    one = bench(committed={"toy/train.py": first(f"PLACES = [{str(place)!r}]" + RESUME)})
    place.write_text("pretrained")
    try:
        assert one.run(slot=CUDA)["status"] == "ok"
        assert "RESUMED" not in one.log() and place.read_text() == "pretrained"
    finally:
        place.unlink(missing_ok=True)


SEGMENT = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print('RESUMED' if libc.shmget(KEY, 4096, 0o600) >= 0 else 'nothing there')
print('LEFT' if libc.shmget(KEY, 4096, 0o1600) >= 0 else 'refused')
"""


@fenced_only
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="others need not be allowed a namespace")
def test_training_resumes_from_no_system_v_segment_of_an_earlier_run(bench: Make) -> None:
    key = uuid.uuid4().int & 0x7FFFFFFF
    one = bench(committed={"toy/train.py": first(f"KEY = {key}" + SEGMENT)})
    for _ in range(2):
        assert one.run()["status"] == "ok" and "nothing there" in one.log() and "RESUMED" not in one.log()


@fenced_only
def test_training_loads_nothing_that_an_agent_has_kept_outside_of_its_commit(bench: Make, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as tmp, tempfile.TemporaryDirectory(dir="/var/tmp") as var:
        neighbour = tmp_path / "neighbour"
        neighbour.mkdir()
        places = [Path(folder, "weights.pt") for folder in (tmp, var, neighbour)]
        for place in places:
            place.write_text("pretrained")
        one = bench(committed={"toy/train.py": first(f"PLACES = {[*map(str, places)]}" + RESUME)})
        assert one.run()["status"] == "ok"
        assert one.log().count("nothing /") == 3 and "RESUMED" not in one.log() and "LEFT" not in one.log()
        assert one.run(fenced=False)["status"] == "ok" and one.log().count("RESUMED") == 3  # the attack works


@pytest.mark.skipif(ABI < 4, reason="this kernel's Landlock knows no network")
@pytest.mark.parametrize("who", ["training", "host"])
def test_neither_training_nor_a_hosted_model_reaches_the_network_by_tcp(bench: Make, who: str) -> None:
    call = """
import errno, socket
said = []
for attempt in (lambda: socket.create_connection(('127.0.0.1', PORT), 5), lambda: socket.create_server(('127.0.0.1', 0))):
    try:
        attempt().close()
        said.append('open')
    except OSError as error:
        said.append(errno.errorcode[error.errno])
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"PORT = {server.getsockname()[1]}" + call
        if who == "training":
            one = bench(committed={"toy/train.py": first(code + "print('SAID', *said)")})
            one.run()
            assert "SAID EACCES EACCES" in one.log()
        else:
            end = "import sys\nif 'toy.train' not in sys.orig_argv: raise RuntimeError(f'SAID {said}')"
            result = bench(committed=model(code + end)).run()
            assert result["reason"].endswith("SAID ['EACCES', 'EACCES']")


@pytest.mark.slow
def test_a_committed_scorer_feeder_or_host_has_no_effect(bench: Make) -> None:
    honest = bench().run()
    cheat = "import sys; print('cheated'); sys.exit(0)"
    one = bench(committed={f"toy/{name}.py": cheat for name in ("score", "feed", "host", "prepare")})
    result = one.run()
    assert result["metric"] == honest["metric"] and result["account"]["tokens"] == 4096
    assert not any("cheated" in one.log(log) for log in ("stdout.log", "feed.log", "score.log"))


FORGE = """
import glob, json
from pathlib import Path
from typing import Any
fake = {"status": "ok", "metric": {"search": 0.0}, "tokens": 1, "steps": 1, "amount": 1, "done": True, "params": 1}
run = Path.cwd().parent
names = [run / name for name in ("result.json", "score.json", "counts.json")]
names += map(Path, glob.glob(str(run / ".*" / "*.json")))
for name in names:
    try:
        name.write_text(json.dumps(fake))
        print("forged", name.name)
    except OSError:
        print("refused", name.name)
"""


@pytest.mark.slow
@fenced_only
def test_training_cannot_write_a_result_score_or_counts(bench: Make) -> None:
    honest = bench().run()
    one = bench(committed={"toy/train.py": first(FORGE)})
    result = one.run()
    assert result["metric"] == honest["metric"] and result["account"]["flops"] == honest["account"]["flops"]
    assert one.log().count("refused") >= 3 and "forged" not in one.log()


@pytest.mark.parametrize("name", ["result.json", "score.json", "counts.json"])
def test_without_a_fence_a_forged_file_makes_the_run_invalid(bench: Make, name: str) -> None:
    code = f"from pathlib import Path\nPath('../{name}').write_text('{{\"metric\": {{\"search\": 0}}}}')"
    one = bench(committed={"toy/train.py": first(code)})
    result = one.run(fenced=False)
    assert (result["status"], result["metric"]) == ("invalid", {})
    assert result["reason"] == f"forged: the experiment's code wrote {name} into the run's folder"
    assert result["hashes"]["fence"] == "none"


@pytest.mark.parametrize("when", ["before", "while ours is written", "after"])
def test_forged_counts_are_noticed_at_whatever_moment_they_come(bench: Make, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    one = bench()
    spec = one.spec()
    watch = Watch(one.folder, spec)
    watch.counts_path = one.folder / "counted.json"
    counts, link = one.folder / "counts.json", os.link

    def forge(*names: Any) -> None:
        monkeypatch.undo()
        counts.write_text('{"tokens": 0}')
        link(*names)

    for tokens in (1, 2):
        watch.counts_path.write_text(json.dumps({"tokens": tokens}))
        if tokens == 2 and when == "before":
            counts.write_text('{"tokens": 0}')
        if tokens == 2 and when == "while ours is written":
            monkeypatch.setattr(os, "link", forge)
        watch.read_counts()
    if when == "after":
        counts.write_text('{"tokens": 0}')
    with pytest.raises(Stopped, match=r"wrote counts\.json into the run's folder"):
        watch.forgery()
    assert json.loads(counts.read_text()) == {"tokens": 2} and not list(one.folder.glob(".[0-9a-f]*"))


# What follows is done by the model of an experiment, but only when it is hosted: training goes as usual.

SEARCH = """
import glob, os, re, sys
from pathlib import Path
from typing import Any
hosted = bool({'host', 'toy.host', 'nanochat.host'} & set(sys.orig_argv))
opened, refused, stolen = [], [], {}

def words():
    for name in ['/proc/self/environ', *glob.glob('/proc/*/cmdline')]:
        try:
            yield from Path(name).read_bytes().decode(errors='replace').split(chr(0))
        except OSError:
            continue

def take(path):
    try:
        content = Path(path).read_bytes()
    except OSError:
        refused.append(str(path))
    else:
        opened.append(str(path))
        return content
"""
STEAL = (
    SEARCH
    + """
import json
if hosted:
    places = {Path(word) for word in [*words(), '../../../data'] if os.path.isfile(word + '/points.json')}
    for place in places:
        if content := take(place / 'points.json'):
            for points in json.loads(content).values():
                stolen.update(points)
    if len(opened) + len(refused) < 2:
        sys.exit('the attack did not even find the data')
"""
)
"""Looks for the targets two ways, by the folder's usual place and in the scorer's command line."""


def model(code: str, answer: str = "") -> dict[str, str]:
    """The toy model as an experiment commits it, that first does `code` and, for x, rather returns `answer`."""
    text = first(code, "toy/model.py")
    head = '    """The network\'s output at x."""\n'
    assert text.count(head) == 1
    return {"toy/model.py": text.replace(head, f"{head}    {answer}\n") if answer else text}


@pytest.mark.slow
@fenced_only
def test_a_hosted_model_that_looks_for_the_targets_gains_nothing(bench: Make) -> None:
    honest = bench().run()
    one = bench(committed=model(STEAL, "if x in stolen: return stolen[x]"))
    result = one.run()
    assert (result["status"], result["reason"], result["metric"]) == ("ok", "", honest["metric"])


@fenced_only
def test_a_hosted_model_opens_no_targets_ledger_keys_or_other_folder_of_the_run(bench: Make, tmp_path: Path) -> None:
    snoop = """
if hosted:
    org, user, run = ROOT / 'research' / '.org', ROOT / 'user', Path.cwd().parent
    known = [org / 'ledger.db', org / 'data' / 'points.json', user / 'credentials', run / 'spec.json', run / 'stdout.log']
    found = [*ROOT.rglob('*'), *run.glob('.*/*'), *map(Path, words())]
    mine = [Path.cwd(), run / 'out', Path(os.environ['TMPDIR'])]
    for place in {*known, *(place.resolve() for place in found if os.path.isfile(place))}:
        if place.is_relative_to(ROOT) and not any(place.is_relative_to(folder) for folder in mine):
            take(place)
    for name in glob.glob('/proc/[0-9]*/environ'):
        if name != f'/proc/{os.getpid()}/environ' and not take(name) and name in opened:
            opened.remove(name)  # a thread of the kernel: it has none
    for place in [org, org / 'data', user, run, *run.glob('.*')]:
        try:
            opened.extend(map(str, place.iterdir()))
        except OSError:
            pass
    own = Path('toy/host.py').read_text() and (run / 'out' / 'weights.json').read_text() and 'reads its own'
    raise RuntimeError(f'OPENED {opened} {len(set(map(str, known)) & set(refused))} known refused, {own}')
"""
    one = bench(committed=model(f"{SEARCH}\nROOT = Path({str(tmp_path / 'bench0')!r}){snoop}"))
    (one.user / "credentials").write_text("hush")
    one.home.ledger.write_text("facts")
    result = one.run(env=SECRETS)
    assert result["status"] == "invalid"
    assert result["reason"].endswith("RuntimeError: OPENED [] 5 known refused, reads its own")


@fenced_only
def test_a_hosted_model_writes_nowhere_but_into_its_own_temporary_folder(bench: Make, tmp_path: Path) -> None:
    code = """
if hosted:
    import tempfile
    run = Path.cwd().parent
    tried = [ORG / 'ledger.db', ORG / 'data' / 'new', run / 'result.json', run / 'eval' / 'new', run / 'out' / 'new',
             Path('/dev/shm/orgctl-host-was-here'), Path('/tmp/orgctl-host-was-here'), Path(__file__),
             *{Path(word).parent / 'new' for word in words() if word.startswith(f'{run}/') and word.endswith('/score.json')}]
    for place in tried:
        try:
            place.write_text('forged')
        except OSError:
            refused.append(place)
        else:
            place.unlink()
    with tempfile.NamedTemporaryFile('w') as own, open(Path.home() / 'own', 'w') as other:
        own.write('mine'), other.write('mine')
    raise RuntimeError(f'WROTE {sorted(map(str, set(tried) - set(refused)))} of {len(tried)} places')
"""
    org = tmp_path / "bench0" / "research" / ".org"
    result = bench(committed=model(f"{SEARCH}\nORG = Path({str(org)!r}){code}")).run()
    assert result["status"] == "invalid" and result["reason"].endswith("RuntimeError: WROTE [] of 9 places")


@pytest.mark.slow
@fenced_only
def test_a_hosted_model_that_keeps_overwriting_the_scorers_result_has_no_effect(bench: Make) -> None:
    honest = bench().run()
    code = """
if hosted:
    import json, time
    fake = {'status': 'ok', 'reason': '', 'metric': {'search': 0.0}, 'params': 1, 'flops_per_token': 1.0, 'eval_tokens': 1}
    targets = {Path(word) for word in words() if word.startswith(f'{Path.cwd().parent}/') and word.endswith('/score.json')}
    if not targets:
        sys.exit('the attack did not even find the result')
    if os.fork() == 0:
        os.setsid()
        for descriptor in range(3):
            os.close(descriptor)
        while True:  # until the laboratory ends it
            for target in targets:
                try:
                    target.with_suffix('.fake').write_text(json.dumps(fake))
                    os.replace(target.with_suffix('.fake'), target)
                except OSError:
                    time.sleep(0.001)
"""
    one = bench(committed=model(SEARCH + code))
    result = one.run()
    assert (result["status"], result["metric"]) == ("ok", honest["metric"])
    assert result["account"]["flops"] == honest["account"]["flops"] and one.left() == []


LOOKUP = """
import numpy
if hosted:
    for place in {Path(word) for word in [*words(), '../../../data'] if os.path.isfile(word + '/search.npy')}:
        if take(place / 'search.npy'):
            for row in numpy.load(place / 'search.npy'):
                stolen[tuple(row[:8])] = torch.from_numpy(row[9:].astype('int64'))
    if len(opened) + len(refused) < 2:
        sys.exit('the attack did not even find the data')

def cheat(tokens, logits):
    for index, row in enumerate(tokens.tolist()):
        if tuple(row[:8]) in stolen:  # what came before decides: no probe for looking ahead notices
            logits[index, 8:] = F.one_hot(stolen[tuple(row[:8])], logits.size(-1)) * 30.0
    return logits

if hosted:
    honest = GPT.forward
    GPT.forward = lambda self, tokens, *more, **named: cheat(tokens, honest(self, tokens, *more, **named))
"""


@pytest.mark.slow
@fenced_only
def test_a_hosted_gpt_that_looks_its_targets_up_gains_nothing(bench: Make) -> None:
    text = workspace_files(load("nanochat", "tiny"), folder("nanochat"))["nanochat/gpt.py"].decode()
    cheating = f"{text}\nfrom torch.nn import functional as F\n{SEARCH}{LOOKUP}"
    honest = bench(name="nanochat", size="tiny").run(seconds=240)
    result = bench(name="nanochat", size="tiny", committed={"nanochat/gpt.py": cheating}).run(seconds=240)
    assert (result["status"], result["reason"]) == ("ok", "")
    assert result["metric"] == honest["metric"] and honest["metric"]["search"] > 1


@fenced_only
def test_training_cannot_signal_the_runner_or_the_feeder(bench: Make) -> None:
    code = "import os\ntry:\n    os.kill(os.getppid(), 9)\nexcept PermissionError:\n    print('refused')"
    one = bench(committed={"toy/train.py": first(code)})
    assert one.run()["status"] == "ok" and "refused" in one.log()


def test_a_link_in_a_checkout_does_not_lead_the_protected_files_elsewhere(tmp_path: Path) -> None:
    pinned, checkout, outside = tmp_path / "pinned", tmp_path / "checkout", tmp_path / "outside"
    for place in (pinned / "toy", checkout, outside):
        place.mkdir(parents=True)
    (pinned / "toy" / "score.py").write_text("")
    (checkout / "toy").symlink_to(outside)
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    lay_protected(pinned, {"toy/score.py": digest}, checkout)
    assert list(outside.iterdir()) == [] and (checkout / "toy" / "score.py").read_text() == ""
    with pytest.raises(UserError, match="not what was pinned"):
        lay_protected(pinned, {"toy/score.py": "0" * 64}, checkout)


@fenced_only
def test_a_source_checkout_in_the_users_home_does_not_stop_training_or_scoring(bench: Make) -> None:
    """`pickle`, and with it torch, imports `org`, which lies there when orgctl is installed for editing."""
    code = "import pickle\nprint('pickle is there')"
    one = bench(committed={"toy/train.py": first(code), **model("import pickle")})
    result = one.run(env={"HOME": str(Path(__file__).resolve().parents[3])})
    assert (result["status"], result["reason"]) == ("ok", "") and "pickle is there" in one.log()
