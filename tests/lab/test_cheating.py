"""What an experiment's code cannot do: read keys or targets, change protected files, forge a result, touch others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import UserError
from lab.fence import ABI
from lab.overlay import lay_protected
from tests.lab.conftest import Bench, first

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
        assert set(seen) - {"LC_CTYPE", "LD_LIBRARY_PATH"} == ENVIRONMENT, log
        assert "hush" not in line
        assert Path(seen["HOME"]).is_relative_to(one.folder)


@fenced_only
def test_training_reads_no_keys_of_other_processes_or_the_users_home_and_no_targets(
    bench: Make, tmp_path: Path
) -> None:
    snoop = """
import glob
from pathlib import Path
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


@fenced_only
def test_the_scored_model_cannot_write_outside_the_scorers_folder(bench: Make) -> None:
    code = "import sys\nfrom pathlib import Path\nif 'toy.host' in sys.orig_argv:\n    Path(TARGET).write_text('gone')"
    one = bench()
    target = one.home.org / "ledger.db"
    two = bench(committed={"toy/model.py": first(code.replace("TARGET", repr(str(target))), "toy/model.py")})
    result = two.run()
    assert result["status"] == "invalid" and "Permission" in result["reason"]
    assert not target.exists()


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
