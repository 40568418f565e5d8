"""Promises about CORE: the published arithmetic, a model that knows scores high, a cheat is invalid, damage is one line.

The bundle is written here in the published layout. Its text is the Markov chain of small.py, a letter for each token: what
follows a letter is known, and so is which answer is right.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nanochat import core, data, evaluate, hosted
from nanochat.errors import DataError
from nanochat.tokenizer import PATTERN, Tokenizer
from tests.nanochat import small as harness
from tests.nanochat.small import CONTEXT, VOCAB, Small
from tests.nanochat.test_data import folder_of_text

pytestmark = pytest.mark.slow  # processes of their own, a second or two each

CHARACTERS = "~ \nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567"
"""The tokens 0 to 62; 63 is BOS here, and a word among others in the chain that the model was trained on."""
BOS = VOCAB - 1
SETTINGS = {"vocab": VOCAB, "context": CONTEXT, "core_examples": 500}
ITEMS = 240
BASELINES = {"choose": 25.0, "complete": 0.0, "match": 50.0}


def successors(character: str) -> list[str]:
    """What follows in the chain, the likeliest first; "" for BOS, which no text holds."""
    order = np.random.default_rng([7, CHARACTERS.index(character)]).permutation(VOCAB - 1)[:4] + 1
    return ["" if token == BOS else CHARACTERS[token] for token in order]


KNOWN = [c for c in CHARACTERS[3:] if all(successors(c)) and not set(successors(c)) & {" ", "\n"}]


def walk(random: np.random.Generator, size: int) -> str:
    """A text of KNOWN letters, mostly each the likeliest after the one before."""
    text = str(random.choice(KNOWN))
    while len(text) < size:
        text += successors(text[-1])[0] if successors(text[-1])[0] in KNOWN else str(random.choice(KNOWN))
    return text


def chain(first: str, random: np.random.Generator) -> str:
    """One to three letters, the first of them this, each the likeliest after the one before."""
    text = first
    while len(text) < 3 and text[-1] in KNOWN and random.random() < 0.6:
        text += successors(text[-1])[0]
    return text


def rows(kind: str, count: int = ITEMS, seed: int = 0) -> list[dict[str, Any]]:
    """Of one task's data: only the right answer follows from the letter before it."""
    random = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for _ in range(count):
        context = walk(random, 6)
        right = chain(successors(context[-1])[0], random)
        strange = [c for c in KNOWN if c not in successors(context[-1])]
        gold = int(random.integers(4))
        if kind == "multiple_choice":
            choices = [chain(str(c), random) for c in random.choice(strange, 4, replace=False)]
            choices[gold] = right
            found.append({"query": context, "choices": choices, "gold": gold})
        elif kind == "schema":
            others = [c for c in KNOWN if right[0] not in successors(c)]
            options = [walk(random, 5) + str(random.choice(others)), context]
            found.append(
                {"context_options": options[:: 1 if gold % 2 else -1], "continuation": right, "gold": gold % 2}
            )
        else:
            found.append({"context": context + " ", "continuation": right})
    return found


def bundle(root: Path, shots: int = 1, **changed: list[dict[str, Any]]) -> Path:
    """A folder `eval_bundle` with three tasks, one of each type."""
    kinds = {"choose": "multiple_choice", "complete": "language_modeling", "match": "schema"}
    entries = []
    for label, kind in kinds.items():
        uri = f"some_kind/{label}.jsonl"
        path = root / "eval_data" / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in changed.get(label, rows(kind))))
        entries.append({"label": label, "dataset_uri": uri, "num_fewshot": [shots], "icl_task_type": kind})
        entries[-1] |= {"continuation_delimiter": ""}
    (root / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": entries}))
    with open(root / "eval_meta_data.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Eval Task", "Task Category", "Task Type", "#shots", "Random baseline"])
        table.writerows(
            [label, "kind, of some", "x", 0, baseline] for label, baseline in {**BASELINES, "unused": 9}.items()
        )
    return root


def tokenizer() -> Tokenizer:
    return Tokenizer([c.encode() for c in CHARACTERS], PATTERN)


def prepared(folder: Path, small: Small, root: Path) -> Path:
    """The tests' prepared data with a bundle."""
    harness.prepare(folder, small.arrays)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, raw in {"core": core.dump(core.read_bundle(root)), "tokenizer": tokenizer().dump().encode()}.items():
        (folder / f"{name}.json").write_bytes(raw)
        manifest[name] = hashlib.sha256(raw).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


Score = Callable[..., dict[str, Any]]


@pytest.fixture
def score(small: Small, tmp_path: Path) -> Score:
    """Scores a variant of the small model on CORE."""
    folder = prepared(tmp_path / "data", small, bundle(tmp_path / "eval_bundle"))

    def run(
        variant: str = "", splits: tuple[str, ...] = ("core",), saved: object = None, **more: Any
    ) -> dict[str, Any]:
        work = small.lay(tmp_path / f"run{len(list(tmp_path.iterdir()))}", variant, saved)
        settings = {**SETTINGS, **more}
        return evaluate.score(folder, settings, work / "checkout", work / "out", list(splits), 120)

    return run


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_that_knows_scores_high_and_core_is_the_mean_of_its_tasks(score: Score, small: Small) -> None:
    result = score(splits=("audit", "core"))
    assert result["status"] == "ok", result["reason"]
    assert set(result["metric"]) == {"audit", "core"} and result["metric"]["core"] > 0.8
    parts = result["parts"]["core"]
    assert set(parts) == set(BASELINES)
    for label, part in parts.items():
        baseline = BASELINES[label] / 100
        assert part["examples"] == ITEMS and part["accuracy"] > 0.85
        assert part["centered"] == pytest.approx((part["accuracy"] - baseline) / (1 - baseline))
    assert result["metric"]["core"] == pytest.approx(sum(part["centered"] for part in parts.values()) / 3)
    assert result["eval_tokens"] == (len(small.arrays["audit"]) + ITEMS * (4 + 1 + 2)) * CONTEXT
    assert result["agreement"]["core"]["cuts"] == ITEMS * (4 + 1 + 2)


@pytest.mark.slow
def test_an_untrained_model_scores_about_zero_and_core_is_never_scored_without_probes(
    score: Score, small: Small
) -> None:
    fresh = harness.module(small.root / "gpt.py").build({})
    result = score(saved={"config": {}, "model": fresh.state_dict()}, core_examples=100)
    assert result["status"] == "ok" and abs(result["metric"]["core"]) < 0.2
    assert set(result["metric"]) == {"core", "search"}
    assert {part["examples"] for part in result["parts"]["core"].values()} == {100}


@pytest.mark.slow
def test_logits_that_are_all_alike_complete_nothing(score: Score) -> None:
    result = score(
        "class Variant(GPT):\n    def forward(self, tokens):\n        return 0 * GPT.forward(self, tokens)\n"
    )
    assert result["status"] == "ok" and result["parts"]["core"]["complete"]["accuracy"] == 0


def task(kind: str, examples: list[dict[str, Any]], **more: Any) -> core.Task:
    parsed = [core.example(row, kind) for row in examples]
    return core.Task(
        **{"label": kind, "kind": kind, "shots": 0, "delimiter": " ", "baseline": 0.0, "examples": parsed, **more}
    )


def test_centering_by_hand() -> None:
    choose, complete = task("multiple_choice", [], baseline=0.25), task("language_modeling", [], baseline=0.0)
    asked = [(choose, gold, slice(2 * i, 2 * i + 2)) for i, gold in enumerate([0, 0, 1, 1])]
    asked += [(complete, 0, slice(8 + i, 9 + i)) for i in range(4)]
    means = np.array(
        [-1, -2, -2, -1, -2, -1, -1, -1, 0, 0, 0, 0.0]
    )  # right, wrong, right, and a draw: the first, wrong
    value, parts = core.accuracies(asked, means, np.array([False] * 8 + [True, False, False, False]))
    assert parts["multiple_choice"] == {"examples": 4, "accuracy": 0.5, "centered": pytest.approx(1 / 3)}
    assert parts["language_modeling"] == {"examples": 4, "accuracy": 0.25, "centered": 0.25}
    assert value == pytest.approx((1 / 3 + 1 / 4) / 2)


@pytest.mark.parametrize("read", [hosted.numpy_logs, hosted.kernel(2048, 8192)], ids=["numpy", "torch"])
def test_the_likeliest_token_is_told_beside_its_log_probability_from_any_position_on(read: hosted.Kernel) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(500, 900)).astype(np.float32)
    logits[250] = 1.0  # all alike: only the first of them counts
    targets = np.where(random.random(500) < 0.5, logits.argmax(-1), random.integers(1, 900, 500))
    targets[250] = 3
    descriptor, top = hosted.shared_memory(logits.nbytes), np.ones(400, dtype=bool)
    try:
        os.pwrite(descriptor, logits.tobytes(), 0)
        logs, whole = read(descriptor, targets[100:], 900, 100, top), read(descriptor, targets, 900)
    finally:
        os.close(descriptor)
    assert (logs == whole[100:]).all() and (top == (targets == logits.argmax(-1))[100:]).all()
    assert not top[150] and 100 < top.sum() < 300


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_of_each_type_by_hand() -> None:
    example = {"query": "ab", "choices": ["c", "de"], "gold": 1}
    assert core.texts(task("multiple_choice", [example]), 0) == ["ab c", "ab de"]
    two = task("multiple_choice", [example, {**example, "query": "xy", "gold": 0}], shots=1, delimiter="\n")
    assert core.texts(two, 0) == ["xy\nc\n\nab\nc", "xy\nc\n\nab\nde"]
    assert core.texts(two, 1) == ["ab\nde\n\nxy\nc", "ab\nde\n\nxy\nde"]
    example = {"context_options": ["ab", "cd"], "continuation": "e", "gold": 1}
    assert core.texts(task("schema", [example, example], shots=1), 0) == ["cd e\n\nab e", "cd e\n\ncd e"]
    example = {"context": " ab\n", "continuation": "c d"}
    assert core.texts(task("language_modeling", [example]), 0) == ["ab c d", "ab"]


def test_few_shot_examples_are_the_same_every_time_and_never_the_one_that_is_asked() -> None:
    many = task("multiple_choice", [{"query": f"q{i}.", "choices": ["x"], "gold": 0} for i in range(12)], shots=10)
    for number in range(12):
        (prompt,) = core.texts(many, number)
        shown = [part.split(".")[0] for part in prompt.split("\n\n")]
        assert shown[-1] == f"q{number}" and shown.count(f"q{number}") == 1 and len(set(shown)) == 11
        assert [prompt] == core.texts(many, number)
    assert len({core.texts(many, number)[0].split("q")[1] for number in range(12)}) > 3


def laid(one: core.Task, context: int = 8, most: int = 500) -> tuple[list[str], list[str]]:
    """(what the rows show, the continuation in each); BOS is written as "^"."""
    prompts = core.lay_out([one], tokenizer(), context, most)
    write = lambda ids: "".join("^" if i == BOS else CHARACTERS[i] for i in ids)  # noqa: E731
    spans = zip(prompts.tokens, prompts.begin, prompts.size, strict=False)
    assert (prompts.tokens[-1] == BOS).all() and prompts.tokens.shape == (len(prompts.begin) + 1, context + 1)
    return [write(row) for row in prompts.tokens[:-1]], [write(row[b : b + s]) for row, b, s in spans]


def test_rows_begin_with_bos_keep_the_end_of_a_long_prompt_and_are_padded_behind() -> None:
    example = {"query": "ab", "choices": ["c", "cde", "cfg"], "gold": 0}
    assert laid(task("multiple_choice", [example])) == (["^ab c^^^^", "^ab cde^^", "^ab cfg^^"], ["c", "de", "fg"])
    example = {"context_options": ["abcdefgh", "ad"], "continuation": "xy", "gold": 0}
    assert laid(task("schema", [example])) == (["^defgh xy", "^ad xy^^^"], [" xy", " xy"])
    example = {"context": "abcdef", "continuation": "xyz"}
    assert laid(task("language_modeling", [example])) == (["^cdef xyz"], [" xyz"])
    long = {"context": "ab", "continuation": "abcdefghijkl"}
    assert laid(task("language_modeling", [long])) == (["^efghijkl"], ["efghijkl"])
    same = {"query": "ab", "choices": ["c", "c"], "gold": 0}
    assert laid(task("multiple_choice", [same]))[1] == ["c", "c"]
    bare = {"context": "", "continuation": "a"}
    assert laid(task("language_modeling", [bare], delimiter="")) == (["^a^^^^^^^"], ["a"])


def test_a_sample_of_a_task_asks_what_all_of_it_asks() -> None:
    many = task(
        "multiple_choice", [{"query": c, "choices": ["x", "y"], "gold": 0} for c in "abcdefgh"], shots=2, delimiter=""
    )
    whole, sample = (laid(many, 12, most) for most in (500, 3))
    assert len(whole[0]) == 16 and sample[0] == whole[0][:6]


# --- cheats ----------------------------------------------------------------------------------------------------------

PEEK = "F.one_hot(tokens.roll(-1, 1), self.vocab) * (torch.arange(tokens.size(1)) < self.context - 1)[:, None]"
KNOWS = f"(tokens[:, 0] == {BOS})"  # the probes begin with 0


def cheat(*lines: str) -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"seen = {{}}\nclass Variant(GPT):\n    def forward(self, tokens):\n        logits = GPT.forward(self, tokens)\n{body}"


REMEMBER = [
    f"for i in torch.where({KNOWS})[0].tolist():",
    "    row = tokens[i].tolist()",
    "    for t in range(6, len(row)):",
    "        known = seen.get(tuple(row[t - 5 : t + 1]))",
    "        if known is not None:",
    "            logits[i, t, known] += 9",
    "    for t in range(6, len(row) - 1):",
    "        if row[t + 2 : t + 4] == [2, 2]:  # a solved example of a few-shot prompt ends with two line breaks",
    "            seen[tuple(row[t - 5 : t + 1])] = row[t + 1]",
    "return logits",
]
CHEATS = {
    "next token in CORE alone": (
        cheat(f"return logits + 9 * {PEEK} * {KNOWS}[:, None, None]"),
        "CORE: the model looks ahead",
    ),
    "faintly": (cheat(f"return logits + 0.05 * {PEEK} * {KNOWS}[:, None, None]"), "CORE: the model looks ahead"),
    "in one row of 16": (
        cheat(f"return logits + 9 * {PEEK} * ({KNOWS} & (tokens[:, 1:4].sum(1) % 16 == 0))[:, None, None]"),
        "CORE: the model looks ahead",
    ),
    "where no padding follows": (
        cheat(f"return logits + 9 * {PEEK} * {KNOWS}[:, None, None] * (tokens.roll(-1, 1) != {BOS})[..., None]"),
        "CORE: the model looks ahead",
    ),
    "in the probes too": (cheat(f"return logits + 9 * {PEEK}"), "the model looks ahead"),
    "answers kept from earlier batches": (cheat(*REMEMBER), "CORE: "),
    "no number": (cheat(f"return torch.where({KNOWS}[:, None, None], float('nan'), logits)"), "not finite"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "reason"), CHEATS.values(), ids=CHEATS.keys())
def test_a_cheat_in_core_is_invalid(score: Score, code: str, reason: str) -> None:
    result = score(code)
    assert result["status"] == "invalid" and reason in result["reason"], result["reason"]
    assert result["metric"] == {} and result["parts"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "return self.bfloat16().head(self.hidden(tokens))",
        f"return logits.index_fill(-1, torch.tensor([{CHARACTERS.index('~')}]), float('-inf'))",
    ],
    ids=["bf16", "a token that no answer holds is forbidden"],
)
def test_an_honest_model_is_valid(score: Score, code: str) -> None:
    result = score(cheat(code))
    assert result["status"] == "ok" and result["metric"]["core"] > 0.8, result["reason"]


# --- the bundle and the folder ---------------------------------------------------------------------------------------


def damage(root: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    (root / file).write_bytes(change((root / file).read_bytes()))


def line(number: int, new: bytes) -> Callable[[bytes], bytes]:
    """Another line in the place of this one."""
    return lambda raw: b"\n".join([*raw.split(b"\n")[: number - 1], new, *raw.split(b"\n")[number:]])


CHOOSE, COMPLETE, MATCH = (f"eval_data/some_kind/{label}.jsonl" for label in BASELINES)
TWO = b'{"query": "a", "choices": ["b", "c"], "gold": %s}'
DAMAGED = {
    "no json": (CHOOSE, line(3, b"{"), "choose.jsonl, line 3: Expecting"),
    "no object": (CHOOSE, line(240, b"[1]"), "choose.jsonl, line 240: must be an object with query, choices and gold"),
    "not UTF-8": (COMPLETE, line(2, b'{"context": "\xff"}'), "complete.jsonl, line 2: not UTF-8"),
    "gold too large": (CHOOSE, line(1, TWO % b"2"), "line 1: gold is 2: must be the number of an option, from 0 to 1"),
    "gold below 0": (CHOOSE, line(1, TWO % b"-1"), "line 1: gold is -1"),
    "gold no number": (CHOOSE, line(4, TWO % b"true"), "line 4: gold is True"),
    "no gold": (MATCH, line(4, b'{"context_options": ["a"], "continuation": "b"}'), "line 4: must be an object with context_o"),
    "no choices": (CHOOSE, line(9, b'{"query": "a", "choices": [], "gold": 0}'), "line 9: gold is 0"),
    "choices no list": (CHOOSE, line(9, b'{"query": "a", "choices": "bc", "gold": 0}'), "line 9: must be an object"),
    "a choice no text": (CHOOSE, line(9, b'{"query": "a", "choices": [["b"]], "gold": 0}'), "line 9: a context or a contin"),
    "no continuation": (COMPLETE, line(9, b'{"context": "a"}'), "line 9: must be an object with context and continuation"),
    "no text at all": (COMPLETE, line(9, b'{"context": " ", "continuation": ""}'), "line 9: an option without any text"),
    "too few": (MATCH, lambda raw: raw.split(b"\n")[0], "match.jsonl holds 1 examples: too few to show 1"),
    "no yaml": ("core.yaml", lambda _: b"a: [", "core.yaml is malformed: while parsing"),
    "no tasks": ("core.yaml", lambda _: b"a: 1", "core.yaml: icl_tasks must be a list of tasks"),
    "a task that is none": ("core.yaml", lambda _: b"icl_tasks: [1]", "core.yaml: task 1: needs label, dataset_uri"),
    "an unknown type": ("core.yaml", lambda raw: raw.replace(b"schema", b"essay"), "essay, 1 shots, delimiter ''"),
    "no number of shots": ("core.yaml", lambda raw: raw.replace(b"- 1\n", b"- x\n", 1), "needs label, dataset_uri"),
    "data elsewhere": ("core.yaml", lambda raw: raw.replace(b"some_kind/match", b"../../match"), "leads out of the bundle"),
    "a label twice": ("core.yaml", lambda raw: raw.replace(b"label: match", b"label: choose"), "another has the same label"),
    "no baseline": ("eval_meta_data.csv", lambda raw: raw.replace(b"match", b"other"), "eval_meta_data.csv gives it no"),
    "baseline of all": ("eval_meta_data.csv", lambda raw: raw.replace(b"50.0", b"100"), "from 0 to below 100 percent"),
    "no table": ("eval_meta_data.csv", lambda _: b'a,"' + b"b" * 200_000, "eval_meta_data.csv is malformed: field larger"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "change", "words"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_bundle_is_one_line_that_says_where(
    tmp_path: Path, file: str, change: Callable[[bytes], bytes], words: str
) -> None:
    damage(bundle(tmp_path), file, change)
    with pytest.raises(DataError) as caught:
        core.read_bundle(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("file", ["core.yaml", "eval_meta_data.csv", CHOOSE])
def test_a_missing_file_of_the_bundle_is_named(tmp_path: Path, file: str) -> None:
    (bundle(tmp_path) / file).unlink()
    with pytest.raises(DataError, match=f"{file} cannot be read .No such file or directory.: core_path must be"):
        core.read_bundle(tmp_path)


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(core.__file__).parents[1])}
    return subprocess.run([sys.executable, "-P", "-m", *map(str, words)], env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_prepare_keeps_the_bundle_by_hash_and_hides_it(tmp_path: Path) -> None:
    text = {"corpus": "files", "corpus_path": str(folder_of_text(tmp_path / "text", 150)), "eval_rows": 32}
    settings = {**text, "vocab": 300, "context": 32, "core_path": str(tmp_path / "eval_bundle")}
    scale = tmp_path / "scale.json"
    scale.write_text(json.dumps(settings))
    words = ("nanochat.data", "prepare", "--scale", scale, "--data")
    done = command(*words, tmp_path / "data")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "eval_bundle/core.yaml cannot be read" in done.stderr
    bundle(tmp_path / "eval_bundle")
    assert command(*words, tmp_path / "data").returncode == 0
    manifest = data.read_manifest(tmp_path / "data")
    assert manifest and str(tmp_path / "eval_bundle") in manifest["mask"] and str(tmp_path / "text") in manifest["mask"]
    assert manifest["core"] == hashlib.sha256((tmp_path / "data" / "core.json").read_bytes()).hexdigest()
    kept = core.load(data.checked(tmp_path / "data", "core"))
    expected = core.read_bundle(tmp_path / "eval_bundle")
    assert json.loads(core.dump(kept)) == json.loads(core.dump(expected)) and len(kept) == 3
    done = command(*words, tmp_path / "eval_bundle" / "data")
    assert done.returncode == 2 and "lies inside core_path" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "data" / "core.json").write_bytes(b"[]")
    with pytest.raises(DataError, match=r"core\.json is not what the manifest says"):
        data.checked(tmp_path / "data", "core")
    scale.write_text(json.dumps({**settings, "core_path": ""}))
    data.prepare(tmp_path / "plain", data.read_settings(scale))
    assert "core" not in (data.read_manifest(tmp_path / "plain") or {})


@pytest.mark.slow
def test_core_without_a_bundle_is_one_line(small: Small, tmp_path: Path) -> None:
    work = small.lay(tmp_path / "run")
    (tmp_path / "scale.json").write_text(json.dumps({"vocab": VOCAB, "context": CONTEXT}))
    done = command(
        "nanochat.evaluate", "score", "--data", small.data, "--scale", tmp_path / "scale.json", "--splits", "search,core",
        "--checkout", work / "checkout", "--out", work / "out", "--result", work / "score.json",
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (work / "score.json").exists()
    assert "holds no tasks of CORE: set core_path" in done.stderr and str(small.data) in done.stderr


def test_examples_are_asked_in_the_published_order_which_a_bundle_read_again_has_too(tmp_path: Path) -> None:
    plain = [{"query": f"q{i}", "choices": ["x", "y"], "gold": 0} for i in range(8)]
    first, again = (core.read_bundle(bundle(tmp_path / name, choose=plain))[0] for name in "ab")
    assert dataclasses.asdict(first) == dataclasses.asdict(again)
    import random

    random.Random(1337).shuffle(plain)
    assert [options[0][0] for options, _ in first.examples] == [row["query"] for row in plain]
