"""A task as types: `task.yaml` and its scale files, validated, with the field named when something is wrong.

Called by the laboratory (what to run, what may change) and by the sweep agents (which knobs exist). Imports nothing of ours.

A task is a folder: `task.yaml`, one `<scale>.yaml` for each scale, and a `workspace/` with the files agents see. Its commands
are argument lists in which these words in braces are replaced by the laboratory:

    {python}    the interpreter                    {data}       the folder that `prepare` filled
    {scale}     path of a JSON file: Scale.args    {seed}       integer, given by the laboratory
    {budget}    JSON: {"kind":..., "amount":...}   {out}        folder in which training leaves its checkpoint
    {feed}      file descriptor of a socket to the feeder (feed and train only)
    {gpus}      Scale.gpus (train only)
    {counts}    path the feeder writes its counts to (feed only)
    {checkout}  second clean checkout with the experiment's code (score only)
    {splits}    comma-separated, of search, audit, locked (score only)
    {result}    path the scorer writes its JSON to (score only)

`prepare`, `feed` and `score` run with only the protected files on their import path; `train` runs in a checkout of the
experiment with the protected files laid over it. What `train` prints is a log and never a result.

With Scale.launch its words come before those of `train`, and {feed} is 0: torchrun hands its standard input, and no other
descriptor, on to the processes it starts.

The scorer finds HOST_FENCE in its environment: a JSON list with one list of words for each of HOSTS model hosts, to put
before the command by which it starts the experiment's code (`[]` where the kernel has no Landlock). Such a process reads the
interpreter, {checkout} and {out}, neither {data} nor {result}, and writes only into a folder of its own, which is its HOME
and TMPDIR; two of them share nothing that either can write.

The manifest that `prepare` leaves may name `mask`, a list of absolute paths that hold held-out text: training and the
model hosts cannot read what lies there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

HERE = Path(__file__).resolve().parent
HOSTS = 2
"""Model hosts that the scorer may start, each in a fence of its own."""
UNITS = {"time": "s", "tokens": "tokens", "flops": "FLOPs", "steps": "steps"}
"""Kinds of budget and the unit of their amounts; `time` is seconds of training from the first batch on."""


class TaskError(ValueError):
    """A task that cannot be used. `str(error)` is one line: what, where, what to do."""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(Model):
    """The one number that counts."""

    name: str
    unit: str
    direction: Literal["minimize", "maximize"] = "minimize"


class Budget(Model):
    """What a run may spend, in UNITS[kind]. Tokens and steps are whole."""

    kind: Literal["time", "tokens", "flops", "steps"]
    amount: int | float = Field(gt=0)

    @field_validator("amount", mode="before")
    @classmethod
    def _number(cls, amount: Any) -> Any:
        if isinstance(amount, str):  # YAML reads 3e18 as a word
            amount = float(amount)
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount):
            raise ValueError("must be a positive number")
        return amount

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind") in ("tokens", "steps"):
            amount = given.get("amount")
            if isinstance(amount, float) and math.isfinite(amount):
                if not amount.is_integer():
                    raise ValueError(f"{amount:g} {given['kind']}: give a whole number")
                return {**given, "amount": int(amount)}
        return given

    def times(self, factor: float) -> Budget:
        amount = self.amount * factor
        return Budget(kind=self.kind, amount=max(1, round(amount)) if self.kind in ("tokens", "steps") else amount)

    def __str__(self) -> str:
        amount = f"{self.amount:,}" if isinstance(self.amount, int) and self.amount < 10**12 else f"{self.amount:.4g}"
        return f"{amount} {UNITS[self.kind]}"


class Target(Model):
    """Time to target: the metric of a run is what it spent to reach a value, and a run that misses it is invalid."""

    value: float = Field(allow_inf_nan=False)
    split: Literal["search", "audit", "core"] = "audit"
    """Where the value must be reached. `core`, a score of which more is better, needs a scorer that gives it."""
    cost: Literal["tokens", "flops", "seconds"]

    def metric(self) -> Metric:
        """The task's metric in place of the scorer's."""
        return Metric(name=f"{self.cost}_to_target", unit={"flops": "FLOPs"}.get(self.cost, self.cost))


class Knob(Model):
    """A module-level constant in an editable file that the sweep may turn."""

    name: str
    """The constant, as written in the source: `MATRIX_LR`."""
    file: str
    area: str
    """The part of the knob space it belongs to; the chief hands out areas."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[float | int | bool | str] | None = None
    why: str
    """The mechanism in a sentence: becomes part of a proposal."""

    @model_validator(mode="after")
    def _range(self) -> Knob:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give either `choices` or both `low` and `high`")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("`low` must be below `high`")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("a `log` knob needs `low` above zero")
        return self


class Dial(Model):
    """The one size from which the rest of the baseline follows, as the scale's file sets it: trunk can be resized by it."""

    arg: str
    """Its name among Scale.args: `depth`."""
    settings: list[int | float] = Field(min_length=2)
    """Values at which the shipped code works, from small to large."""

    @field_validator("settings")
    @classmethod
    def _ascending(cls, settings: list[int | float]) -> list[int | float]:
        if any(not math.isfinite(one) for one in settings) or settings != sorted(set(settings)):
            raise ValueError("must be numbers from small to large, each once")
        return settings


class Scale(Model):
    """One size at which the task is run."""

    name: str
    title: str
    device: Literal["cpu", "cuda"]
    gpus: int = Field(default=1, ge=1, le=64)
    """GPUs of one run; more than one needs `launch`."""
    launch: list[str] = []
    """Words before the task's `train`, such as torchrun's."""
    threads: int = Field(default=1, ge=1)
    budget: Budget
    target: Target | None = None
    prepare_seconds: float = Field(default=1800, gt=0)
    deadline_seconds: float = Field(gt=0)
    """Training is killed after this many seconds of wall clock, whatever the code thinks."""
    score_seconds: float = Field(default=120, gt=0)
    memory_gib: float = Field(gt=0)
    disk_gib: float = Field(default=2, gt=0)
    """What training, and the scorer with its model hosts after it, may write into all their folders together."""
    args: dict[str, Any] = {}
    """Given to the task's own code as JSON: depth, context, vocabulary, ..."""
    next: str | None = None
    """The scale that survivors are carried to."""

    @model_validator(mode="after")
    def _consistent(self) -> Scale:
        if self.gpus > 1 and self.device != "cuda":
            raise ValueError(f"gpus: {self.gpus} needs `device: cuda`")
        if self.gpus > 1 and not self.launch:
            raise ValueError(f"gpus: {self.gpus} needs `launch`, the words that start one process a GPU (torchrun's)")
        if self.budget.kind == "time" and self.budget.amount >= self.deadline_seconds:
            raise ValueError("deadline_seconds must leave time for start-up beyond the budget")
        return self


class Task(Model):
    """A task with the scale that is in use."""

    name: str
    title: str
    metric: Metric
    reach: Metric | None = None
    """With a target: what the scorer measures, since `metric` is then the cost of reaching it."""
    editable: list[str]
    protected: list[str]
    prepare: list[str] = []
    feed: list[str] = []
    """Needed (`load`) for every budget but one of seconds, which the laboratory's own clock counts."""
    train: list[str]
    score: list[str]
    scale: Scale
    knobs: list[Knob] = []
    dial: Dial | None = None
    """None: trunk has no size to be turned up, and an idea that costs more is compared with more of the budget alone."""
    min_effect: float = Field(default=0.0, ge=0)
    """Smallest effect of interest, in the metric's unit."""
    brief: str = ""
    """What an agent is told about the task (Markdown)."""

    @field_validator("editable", "protected")
    @classmethod
    def _relative(cls, paths: list[str]) -> list[str]:
        for path in paths:
            parts = Path(path).parts
            if Path(path).is_absolute() or ".." in parts or ".git" in parts or ".org" in parts or not parts:
                raise ValueError(f"{path!r} must be a relative path inside the workspace")
        return paths

    @model_validator(mode="before")
    @classmethod
    def _aim(cls, given: Any) -> Any:
        """Put the cost in the place of the metric where the scale asks for time to target."""
        scale = given.get("scale") if isinstance(given, dict) else None
        wanted = scale.get("target") if isinstance(scale, dict) else None
        if wanted and not given.get("reach"):
            metric = Target.model_validate(wanted).metric().model_dump()
            return {**given, "reach": given.get("metric"), "metric": metric, "min_effect": 0.0}
        return given

    @model_validator(mode="after")
    def _apart(self) -> Task:
        both = set(self.editable) & set(self.protected)
        if both:
            raise ValueError(f"{sorted(both)[0]} is both editable and protected")
        for knob in self.knobs:
            if knob.file not in self.editable:
                raise ValueError(f"knob {knob.name}: {knob.file} is not among the editable files")
        if self.dial and self.setting not in self.dial.settings:
            raise ValueError(f"dial: scale {self.scale.name} sets {self.dial.arg} to {self.setting!r}, which is none of its settings")
        return self

    @property
    def setting(self) -> Any:
        """What the scale sets the dial to; None without a dial."""
        return self.scale.args.get(self.dial.arg) if self.dial else None

    def resized(self, setting: int | float) -> Task:
        """The same task with the dial at another setting. Raises ValueError without a dial."""
        if self.dial is None:
            raise ValueError(f"task {self.name} has no dial")
        args = {**self.scale.args, self.dial.arg: setting}
        return self.model_copy(update={"scale": self.scale.model_copy(update={"args": args})})

    def better(self, a: float, b: float) -> bool:
        """Is metric value `a` better than `b`?"""
        return a < b if self.metric.direction == "minimize" else a > b

    def areas(self) -> list[str]:
        """Areas of the knobs, in the order of first mention."""
        return list(dict.fromkeys(knob.area for knob in self.knobs))


def shipped() -> list[str]:
    """Names of the tasks that come with orgctl."""
    return sorted(path.parent.name for path in HERE.glob("*/task.yaml"))


def folder(task: str) -> Path:
    """The folder of a task: the name of a shipped one, or a path to a folder with `task.yaml`. Raises TaskError."""
    for candidate in (HERE / task, Path(task).expanduser()) if "/" not in task else (Path(task).expanduser(),):
        if (candidate / "task.yaml").is_file():
            return candidate.resolve()
    raise TaskError(f"unknown task {task!r}: not one of {', '.join(shipped())}, and no folder with a task.yaml")


def workspace(task_folder: Path) -> Path:
    """The files agents see. For the shipped nanochat in a source checkout they lie beside the rooms, not in the folder."""
    own = task_folder / "workspace"
    if own.is_dir():
        return own
    beside = task_folder.parent.parent / task_folder.name
    if task_folder.parent == HERE and beside.is_dir():
        return beside.parent
    raise TaskError(f"{task_folder} has no workspace/ folder: put the files that agents may read and edit there")


def workspace_files(task: Task, task_folder: Path) -> dict[str, bytes]:
    """Path in the workspace -> content, for the editable and protected files (and README.md, program.md beside task.yaml).

    Raises TaskError when one is missing.
    """
    source = workspace(task_folder)
    files: dict[str, bytes] = {}
    for path in [*task.editable, *task.protected]:
        try:
            files[path] = (source / path).read_bytes()
        except OSError as error:
            raise TaskError(
                f"{task_folder}/task.yaml names {path}, which cannot be read in {source}: {error.strerror}"
            ) from error
    return files


def load(task: str, scale: str | None = None) -> Task:
    """Read and validate a task by name or folder, at a scale (default: the first in its `scales` list).

    Raises TaskError naming file, line (for malformed YAML) or field.
    """
    where = folder(task)
    document = _yaml(where / "task.yaml")
    scales = document.pop("scales", None)
    if not isinstance(scales, list) or not scales or not all(isinstance(item, str) for item in scales):
        raise TaskError(f"{where}/task.yaml: scales: must be a list of names, each with a <name>.yaml beside it")
    chosen = scale or scales[0]
    if chosen not in scales:
        raise TaskError(f"task {document.get('name', task)} has no scale {chosen!r}: choose one of {', '.join(scales)}")
    scale_file = where / f"{chosen}.yaml"
    document["scale"] = {"name": chosen, **_yaml(scale_file)}
    following = document["scale"].get("next")
    if following is not None and following not in scales:
        raise TaskError(f"{scale_file}: next: no scale {following!r}: choose one of {', '.join(scales)}")
    try:
        read = Task.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "task"
        file = scale_file if field.startswith("scale") else where / "task.yaml"
        raise TaskError(f"{file}: {field}: {first['msg'].removeprefix('Value error, ')}") from error
    if not read.feed and read.scale.budget.kind != "time":
        raise TaskError(
            f"{where}/task.yaml: feed: nobody counts the {read.scale.budget} of {scale_file.name}, which training could exceed: add a"
            " command that hands out the data and counts it (docs/tasks.md), or give the scale a budget of kind time"
        )
    return read


def _yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file; TaskError with line and column when malformed."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise TaskError(f"{path}:{line} malformed YAML: {getattr(error, 'problem', error)}") from error
    except RecursionError:
        raise TaskError(f"{path}: nested too deep: a task's fields are at most a few levels deep") from None
    if not isinstance(value, dict):
        raise TaskError(f"{path}: must be a mapping of fields")
    return value
