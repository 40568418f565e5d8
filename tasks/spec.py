"""A task as types: `task.yaml` and its scale files, validated, with the field named when something is wrong.

Called by the laboratory (what to run, what may change) and by the sweep agents (which knobs exist). Imports nothing of ours.

A task is a folder: `task.yaml`, one `<scale>.yaml` for each scale, and a `workspace/` with the files agents see. Its commands
are argument lists in which these words in braces are replaced by the laboratory:

    {python}    the interpreter                    {data}       the folder that `prepare` filled
    {scale}     path of a JSON file: Scale.args    {seed}       integer, given by the laboratory
    {budget}    JSON: {"kind":..., "amount":...}   {out}        folder in which training leaves its checkpoint
    {feed}      file descriptor of a socket to the feeder (feed and train only)
    {counts}    path the feeder writes its counts to (feed only)
    {checkout}  second clean checkout with the experiment's code (score only)
    {splits}    comma-separated, of search, audit, locked (score only)
    {result}    path the scorer writes its JSON to (score only)

`prepare`, `feed` and `score` run with only the protected files on their import path; `train` runs in a checkout of the
experiment with the protected files laid over it. What `train` prints is a log and never a result.

The scorer finds HOST_FENCE in its environment: a JSON list of words to put before the command by which it starts the
experiment's code (`[]` where the kernel has no Landlock). Such a process reads the interpreter, {checkout} and {out},
neither {data} nor {result}, and writes only into a folder of its own, which is its HOME and TMPDIR.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

HERE = Path(__file__).resolve().parent


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
    """What a run may spend."""

    kind: Literal["tokens", "steps"]
    amount: int = Field(gt=0)

    def times(self, factor: float) -> Budget:
        return Budget(kind=self.kind, amount=max(1, round(self.amount * factor)))


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


class Scale(Model):
    """One size at which the task is run."""

    name: str
    title: str
    device: Literal["cpu", "cuda"]
    threads: int = Field(default=1, ge=1)
    budget: Budget
    deadline_seconds: float = Field(gt=0)
    """Training is killed after this many seconds of wall clock, whatever the code thinks."""
    score_seconds: float = Field(default=120, gt=0)
    memory_gib: float = Field(gt=0)
    args: dict[str, Any] = {}
    """Given to the task's own code as JSON: depth, context, vocabulary, ..."""
    next: str | None = None
    """The scale that survivors are carried to."""


class Task(Model):
    """A task with the scale that is in use."""

    name: str
    title: str
    metric: Metric
    editable: list[str]
    protected: list[str]
    prepare: list[str] = []
    feed: list[str] = []
    train: list[str]
    score: list[str]
    scale: Scale
    knobs: list[Knob] = []
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

    @model_validator(mode="after")
    def _apart(self) -> Task:
        both = set(self.editable) & set(self.protected)
        if both:
            raise ValueError(f"{sorted(both)[0]} is both editable and protected")
        for knob in self.knobs:
            if knob.file not in self.editable:
                raise ValueError(f"knob {knob.name}: {knob.file} is not among the editable files")
        return self

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
    try:
        return Task.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "task"
        file = scale_file if field.startswith("scale") else where / "task.yaml"
        raise TaskError(f"{file}: {field}: {first['msg'].removeprefix('Value error, ')}") from error


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
    if not isinstance(value, dict):
        raise TaskError(f"{path}: must be a mapping of fields")
    return value
