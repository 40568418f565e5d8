"""CORE: the centered accuracy over the in-context-learning tasks of DCLM (Li et al. 2024, arXiv:2406.11794).

data.py keeps the published folder `eval_bundle` as core.json, evaluate.py has it scored by two model hosts. Notable choices:
- order and draws of examples, prompts and decisions are nanochat's, by whose count GPT-2 has 0.256525; but a prompt beyond the
  context loses its beginning, and few-shot examples are drawn from all examples even where only some are asked;
- host A sees each prompt whole and decides, host B sees it only up to a random place in its continuation: an answer that
  rests on the text to be predicted differs between them, however the model knows that it is asked for CORE;
- only the logits over a continuation are read: most of a row is what comes before, or padding.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.agreement import Disagreement, Tolerance, agreed, plans
from nanochat.errors import DataError
from nanochat.hosted import Host, kernel, together

SPLIT = "core"
KINDS = {
    "multiple_choice": "query, choices and gold",
    "schema": "context_options, continuation and gold",
    "language_modeling": "context and continuation",
}
"""Types of task, and what a row of their data holds. `gold` is the number of the right choice or context."""
ORDER_SEED = 1337  # of the order of a task's examples
SHOTS_SEED = 1234  # plus an example's number in that order: of the draw of what is shown before it


@dataclass(frozen=True)
class Task:
    label: str
    kind: str  # a key of KINDS
    shots: int  # solved examples before the one that is asked
    delimiter: str  # between a context and its continuation
    baseline: float  # accuracy of guessing, in [0, 1)
    examples: Sequence[Any]
    """In the order in which they are asked: (options, number of the right one); an option is (context, continuation)."""


# --- the bundle ------------------------------------------------------------------------------------------------------


def read_bundle(root: Path) -> list[Task]:
    """The tasks of a folder `eval_bundle`. Raises DataError: what is wrong, in which file and line."""
    import yaml  # here, since the scorer does without

    listing, table = root / "core.yaml", root / "eval_meta_data.csv"
    try:
        found, lines = yaml.safe_load(_text(listing)), _text(table).splitlines()
        baselines = {row.get("Eval Task"): row.get("Random baseline") for row in csv.DictReader(lines)}
    except (yaml.YAMLError, csv.Error) as error:
        file = table if isinstance(error, csv.Error) else listing
        raise DataError(f"{file} is malformed: {' '.join(str(error).split())}") from error
    named = found.get("icl_tasks") if isinstance(found, dict) else None
    if not isinstance(named, list) or not named:
        raise DataError(f"{listing}: icl_tasks must be a list of tasks")
    tasks: dict[str, Task] = {}
    for entry in named:
        try:
            task = _task(root, entry, baselines)
            if task.label in tasks:
                raise ValueError("another has the same label")
        except ValueError as error:
            raise DataError(f"{listing}: task {str(entry)[:60]}: {error}") from error
        tasks[task.label] = task
    return list(tasks.values())


def _task(root: Path, entry: Any, baselines: dict[Any, Any]) -> Task:
    """Raises ValueError about an entry of core.yaml, DataError about its data."""
    match entry:
        case {
            "label": str(label),
            "dataset_uri": str(uri),
            "icl_task_type": str(kind),
            "num_fewshot": [int(shots), *_],
        }:
            delimiter = entry.get("continuation_delimiter", " ")
        case _:
            raise ValueError("needs label, dataset_uri, icl_task_type and num_fewshot, a list of one number")
    if kind not in KINDS or shots < 0 or not isinstance(delimiter, str):
        raise ValueError(f"{kind}, {shots} shots, delimiter {delimiter!r}: the type must be one of {', '.join(KINDS)}")
    try:
        baseline = float(baselines[label]) / 100
    except (KeyError, TypeError, ValueError):
        baseline = math.nan
    if not 0 <= baseline < 1:
        raise ValueError("eval_meta_data.csv gives it no Random baseline from 0 to below 100 percent")
    path = root / "eval_data" / uri
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"dataset_uri {uri} leads out of the bundle, which alone is hidden from training")
    examples = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        try:
            if line.strip():
                examples.append(example(json.loads(line), kind))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    if len(examples) <= shots:
        raise DataError(f"{path} holds {len(examples)} examples: too few to show {shots} before another")
    random.Random(ORDER_SEED).shuffle(examples)
    return Task(label, kind, shots, delimiter, baseline, examples)


def example(row: Any, kind: str) -> tuple[list[tuple[str, str]], int]:
    """(options, number of the right one) of a row of data; an option is (context, continuation). Raises ValueError."""
    match kind, row:
        case "multiple_choice", {"query": context, "choices": [*continuations], "gold": gold}:
            contexts = [context]
        case "schema", {"context_options": [*contexts], "continuation": continuation, "gold": gold}:
            continuations = [continuation]
        case "language_modeling", {"context": str(context), "continuation": continuation}:
            contexts, continuations, gold = [context.strip()], [continuation], 0
        case _:
            raise ValueError(f"must be an object with {KINDS[kind]}")
    if not all(type(text) in (str, int, float) for text in (*contexts, *continuations)):
        raise ValueError("a context or a continuation is no text")
    options = list(itertools.product(map(str, contexts), map(str, continuations)))
    if type(gold) is not int or not 0 <= gold < len(options):
        raise ValueError(f"gold is {gold!r:.40}: must be the number of an option, from 0 to {len(options) - 1}")
    if not all(map(any, options)):
        raise ValueError("an option without any text")
    return options, gold


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): core_path must be a whole eval_bundle") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {raw[: error.start].count(10) + 1}: not UTF-8") from error


def dump(tasks: list[Task]) -> bytes:
    """JSON of which `load` makes the same tasks."""
    return json.dumps([asdict(task) for task in tasks]).encode()


def load(path: Path) -> list[Task]:
    """Read what `dump` gave."""
    return [Task(**task) for task in json.loads(path.read_bytes())]


# --- prompts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """What the hosts are asked: a row for each option of each example, and last a row of BOS alone."""

    tokens: np.ndarray
    """uint16 (rows + 1, context + 1): BOS, the end of the prompt, padding of BOS, which no causal model sees."""
    begin: np.ndarray  # (rows,): where in a row its continuation begins, 1 or more
    size: np.ndarray  # (rows,): tokens of the continuation, 1 or more
    asked: list[tuple[Task, int, slice]]  # of each example its task, which option is right, and its rows


def texts(task: Task, number: int) -> list[str]:
    """The prompts of an example, one for each option. After the only one of language modelling comes the same without its
    continuation, so that it can be told where that begins."""
    drawn = random.Random(SHOTS_SEED + number).sample(range(len(task.examples) - 1), task.shots)
    solved = [task.examples[i + (i >= number)] for i in drawn]
    shown = "".join(f"{task.delimiter.join(options[gold])}\n\n" for options, gold in solved)
    options, _ = task.examples[number]
    without = [(shown + options[0][0] + task.delimiter).strip()] if task.kind == "language_modeling" else []
    return [shown + task.delimiter.join(option) for option in options] + without


def starts(kind: str, ids: Sequence[np.ndarray]) -> list[int]:
    """Where the continuation begins among the tokens of each of an example's prompts: behind what all of them begin with; of a
    schema, with what all of them end with. At least the last token belongs to it."""
    if kind == "schema":
        shared = max(1, _common([one[::-1] for one in ids]))
        return [len(one) - shared for one in ids]
    shared = _common(ids)
    return [min(shared, len(one) - 1) for one in ids]


def _common(ids: Sequence[np.ndarray]) -> int:
    """How many tokens all of these begin with."""
    size = min(map(len, ids))
    differ = np.any([one[:size] != ids[0][:size] for one in ids], axis=0)
    return int(differ.argmax()) if differ.any() else size


def lay_out(tasks: list[Task], tokenizer: Any, context: int, most: int) -> Prompts:
    """The prompts of the first `most` examples of each task, which is a sample: their order is random."""
    rows, begin, size, asked = [], [], [], []
    for task in tasks:
        prompts = [texts(task, number) for number in range(min(most, len(task.examples)))]
        encoded = iter(tokenizer.encode_many([text for part in prompts for text in part]))
        for (options, gold), part in zip(task.examples, prompts, strict=False):
            ids = list(itertools.islice(encoded, len(part)))
            asked.append((task, gold, slice(len(rows), len(rows) + len(options))))
            for one, start in list(zip(ids, starts(task.kind, ids), strict=True))[: len(options)]:
                kept = one[-context:]
                begin.append(1 + max(0, start - (len(one) - len(kept))))
                size.append(1 + len(kept) - begin[-1])
                rows.append(kept)
    tokens = np.full((len(rows) + 1, context + 1), tokenizer.bos, dtype=np.uint16)
    for row, kept in enumerate(rows):
        tokens[row, 1 : 1 + len(kept)] = kept
    return Prompts(tokens, np.array(begin), np.array(size), asked)


# --- answers ---------------------------------------------------------------------------------------------------------


Parts = dict[str, dict[str, float]]
"""Of each task by its label: "examples", how many were asked, "accuracy" and "centered", both at most 1."""


def score(hosts: list[Host], prompts: Prompts, largest: int, tolerance: Tolerance) -> tuple[float, Parts, Any]:
    """(CORE, its parts, what `agreed` says), in batches of at most `largest` rows. Raises InvalidModel, Disagreement."""
    rows, context = len(prompts.begin), prompts.tokens.shape[1] - 1
    room = int(prompts.size.max()) + 1  # beyond every continuation, and so beyond every cut
    chance = np.random.default_rng()  # unseeded: nobody can know what is cut where, and CORE does not depend on it
    a, b = (replace(plan, donors=np.full(rows, rows)) for plan in plans([rows], context, largest, chance))
    cuts = chance.integers(1, prompts.size + 1)
    shown = replace(a, cuts=np.full(rows, context)), replace(b, cuts=prompts.begin - 1 + cuts)
    logs, likeliest = np.zeros((2, rows, room), dtype=np.float32), np.ones((2, rows, room), dtype=bool)
    read = kernel(context, hosts[0].vocab)

    def ask(number: int) -> None:
        for part in shown[number].batches:
            hosts[number].ask(shown[number].inputs(prompts.tokens, part))
            for place, row in enumerate(part):
                begin, size = int(prompts.begin[row]), int(prompts.size[row])
                targets, top = prompts.tokens[row, begin : begin + size], likeliest[number, row, :size]
                first = place * context + begin - 1
                logs[number, row, :size] = read(hosts[number].logits, targets, hosts[number].vocab, first, top)

    together(hosts, ask)
    try:
        scored, agreement = agreed(logs, (replace(a, cuts=np.full(rows, room)), replace(b, cuts=cuts)), tolerance)
    except Disagreement as error:
        raise Disagreement(f"CORE: {error}") from error
    value, parts = accuracies(prompts.asked, scored.sum(1, dtype=np.float64) / prompts.size, likeliest[0].all(1))
    return value, parts, agreement


def accuracies(asked: list[tuple[Task, int, slice]], means: np.ndarray, likeliest: np.ndarray) -> tuple[float, Parts]:
    """(CORE, its parts) from each row's mean log-probability of its continuation, and whether every token of that was the
    likeliest."""
    parts = {}
    for task, examples in itertools.groupby(asked, key=lambda one: one[0]):
        right = [
            bool(likeliest[rows].all() if task.kind == "language_modeling" else means[rows].argmax() == gold)
            for _, gold, rows in examples
        ]
        accuracy = sum(right) / len(right)
        centered = (accuracy - task.baseline) / (1 - task.baseline)
        parts[task.label] = {"examples": len(right), "accuracy": accuracy, "centered": centered}
    return sum(part["centered"] for part in parts.values()) / len(parts), parts
