"""The progress plot: every finished run a mark, the confirmed best a staircase, over the slot time that was spent.

Called by `lab.report` only. Drawn on matplotlib's Agg canvas without pyplot (no global state, display or downloads).
The choice that matters most: limits follow the baseline and the confirmed best, not the worst run; what lies beyond
them becomes an arrow at the edge and is counted, so that one diverged run does not flatten the picture.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.figures import Level
from lab.records import Experiment, Run
from lab.state import State
from lab.text import clean
from tasks.spec import Task

KINDS = {
    "bank": ("baseline bank", "s", "#7f7f7f", 26),
    "nominate": ("first run", "o", "#56b4e9", 26),
    "confirm": ("confirmation", "D", "#e69f00", 24),
    "control": ("cost control", "P", "#cc79a7", 54),
    "frontier": ("trunk's frontier", "X", "#f0e442", 54),
    "replicate": ("replication", "h", "#e69f00", 30),
    "parent": ("parent again", "v", "#009e73", 30),
    "audit": ("without an idea", "<", "#f0e442", 30),
}
"""Purpose -> label, marker, colour (Okabe and Ito's colour-blind-safe set), size. Shapes differ too, for grey print."""
BEST, FAILED, INK, PALE = "#0072b2", "#d55e00", "#222222", "#6b6b6b"
LABELS = 14
"""More promotions than this are named by their id alone."""


def what(experiment: Experiment, limit: int = 30) -> str:
    """What an experiment did, in a few words: its knobs when a machine set them, else its hypothesis."""
    knobs = ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in experiment.params.items()
    )
    return clean(knobs or experiment.hypothesis, limit)


def slot_seconds(runs: Sequence[Run], moments: Sequence[float]) -> list[float]:
    """Slot time spent by each of these moments (epoch seconds), summed over all slots, in seconds."""
    pairs = [(run.started, run.ended) for run in runs if run.started is not None and run.ended is not None]
    spent = np.zeros(len(moments))
    for sign, times in ((1, sorted(start for start, _ in pairs)), (-1, sorted(end for _, end in pairs))):
        sums = np.concatenate([[0.0], np.cumsum(np.asarray(times) - (times[0] if times else 0))])
        count = np.searchsorted(times, moments)
        spent += sign * (count * (np.asarray(moments) - (times[0] if times else 0)) - sums[count])
    return [float(value) for value in spent]


def offset(runs: Sequence[Run], split: str, other: str) -> float:
    """Mean of `split` - `other` over the runs that were scored on both; NaN when there is none."""
    both = [run.metric[split] - run.metric[other] for run in runs if split in run.metric and other in run.metric]
    return float(np.mean(both)) if both else math.nan


def limits(values: Sequence[float], levels: Sequence[Level], minimize: bool) -> tuple[float, float]:
    """Bounds of the metric's axis: all of the banks' means, and of the runs what lies near enough to be read."""
    inside = [value for value in values if math.isfinite(value)]
    if not inside and not levels:
        return 0.0, 1.0
    centre = levels[0].mean if levels else float(np.median(inside))
    quarter, three = np.quantile(inside, [0.25, 0.75]) if inside else (centre, centre)
    reach = max(three - quarter, abs(centre) * 1e-4, 1e-9) * 3
    low, high = quarter - reach, three + reach
    if levels:
        sigma = levels[0].sigma if math.isfinite(levels[0].sigma) else 0.0
        best = (min if minimize else max)(level.mean for level in levels)
        room = max(abs(centre - best), 6 * sigma, 1e-9)
        low, high = (low, min(high, centre + room)) if minimize else (max(low, centre - room), high)
        edges = [e for level in levels for e in (level.low, level.high) if abs(e - level.mean) < max(room, reach)]
        known = [*(level.mean for level in levels), *edges, centre - 2 * sigma, centre + 2 * sigma]
        low, high = min(low, *known), max(high, *known)
        shown = [value for value in inside if low <= value <= high] + known
    else:
        shown = [value for value in inside if low <= value <= high] or inside
    low, high = min(shown), max(shown)
    pad = (high - low) * 0.07 or abs(high) * 0.01 or 1.0
    return low - pad, high + pad


def progress(state: State, task: Task, split: str, levels: Sequence[Level]) -> bytes:
    """The plot as PNG (1600 x 920 pixels). `levels`: the steps of trunk that have a finished bank, on `split`."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change a report
        warnings.simplefilter("ignore")  # glyphs that the font lacks: texts are other people's
        matplotlib.rcParams.update({"font.size": 11, "axes.edgecolor": PALE, "text.parse_math": False})
        return _draw(state, task, split, levels)


def _draw(state: State, task: Task, split: str, levels: Sequence[Level]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.75), dpi=160, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.215, 0.895, 0.61))
    runs = sorted((run for run in state.runs.values() if run.ended is not None), key=lambda run: run.ended or 0.0)
    ends = [run.ended or 0.0 for run in runs]
    total = slot_seconds(runs, ends[-1:])[0] if runs else 0.0
    unit, seconds = ("hours", 3600.0) if total > 3 * 3600 else ("minutes", 60.0)
    x = [spent / seconds for spent in slot_seconds(runs, ends)]
    right = (total / seconds or 1.0) * 1.03
    minimize = task.metric.direction == "minimize"
    other = "search" if split == "audit" else "audit"
    shift = offset(runs, split, other)
    values = [_value(run, split, other, shift) for run in runs]
    low, high = limits(values, levels, minimize)
    if len(levels) > 1:  # room on the better side for the names of what was promoted
        low, high = (low - 0.2 * (high - low), high) if minimize else (low, high + 0.2 * (high - low))
    axes.set_xlim(-0.015 * right, right)
    axes.set_ylim(low, high)
    if levels:
        begins = [0.0, *(spent / seconds for spent in slot_seconds(runs, [level.time for level in levels[1:]]))]
        _stairs(axes, levels, begins, right)
        _names(canvas, axes, state, levels, begins, list(zip(x, values, strict=True)), minimize)
    else:
        axes.text(0.5, 0.5, "no finished baseline yet", transform=axes.transAxes, ha="center", color=PALE, fontsize=14)
    _marks(axes, runs, x, values, (low, high), minimize)
    _frame(figure, axes, state, task, split, levels, runs, x, unit, shift)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": "orgctl"})
    return image.getvalue()


def _value(run: Run, split: str, other: str, shift: float) -> float:
    """A run's metric on `split`, or on the other split moved to its level; NaN when it has none."""
    if run.status != "ok" or run.purpose == "carry":  # of another scale
        return math.nan
    return float(run.metric[split]) if split in run.metric else float(run.metric.get(other, math.nan)) + shift


def _marks(
    axes: Any, runs: Sequence[Run], x: Sequence[float], values: Sequence[float], bounds: tuple[float, float],
    minimize: bool,
) -> None:
    low, high = bounds
    edge = (high - low) * 0.024
    finite = [(run.purpose, a, v) for run, a, v in zip(runs, x, values, strict=True) if math.isfinite(v)]
    for purpose, (label, marker, colour, size) in KINDS.items():
        mine = [(a, v) for kind, a, v in finite if kind == purpose]
        if not mine:
            continue
        seen = [(a, v) for a, v in mine if low <= v <= high]
        axes.scatter(
            *(zip(*seen, strict=True) if seen else ((), ())), marker=marker, s=size, c=colour, linewidths=0.5,
            edgecolors="white", zorder=3, label=f"{label} ({len(mine)})",
        )
        for beyond, arrow, place in (
            ([a for a, v in mine if v > high], "^", high - 2.6 * edge),
            ([a for a, v in mine if v < low], "v", low + 2.6 * edge),
        ):
            axes.scatter(beyond, [place] * len(beyond), marker=arrow, s=48, c=colour, linewidths=0, zorder=3)
    outside = sum(1 for _, _, v in finite if not low <= v <= high)
    if outside:
        axes.scatter([], [], marker="^", s=48, c=PALE, linewidths=0, label=f"beyond the axis ({outside})")
    failed = [a for run, a in zip(runs, x, strict=True) if run.failed]
    if failed:
        place = high - edge if minimize else low + edge
        axes.scatter(
            failed, [place] * len(failed), marker="x", s=34, c=FAILED, linewidths=1.6, zorder=4, clip_on=False,
            label=f"failed ({len(failed)})",
        )


def _stairs(axes: Any, levels: Sequence[Level], begins: Sequence[float], right: float) -> None:
    first = levels[0]
    axes.axhline(first.mean, color=PALE, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    axes.step(
        [*begins, right], [*(level.mean for level in levels), levels[-1].mean], where="post", color=BEST, linewidth=2.2,
        zorder=5, solid_joinstyle="miter", label="confirmed best",
    )
    ends = [*begins[1:], right]
    for level, begin, end in zip(levels, begins, ends, strict=True):
        if math.isfinite(level.low):
            axes.fill_between(
                [begin, end], level.low, level.high, color=BEST, alpha=0.15, linewidth=0, zorder=1,
                label="its 95 % interval" if level is first else None,
            )
    if math.isfinite(first.sigma):
        axes.axhspan(
            first.mean - first.sigma, first.mean + first.sigma, color=PALE, alpha=0.15, linewidth=0, zorder=0,
            label="first baseline ± sigma",
        )
    axes.scatter(
        begins[1:], [level.mean for level in levels[1:]], s=30, c="white", edgecolors=BEST, linewidths=1.6, zorder=6
    )


def _names(
    canvas: Any, axes: Any, state: State, levels: Sequence[Level], begins: Sequence[float],
    points: Sequence[tuple[float, float]], minimize: bool,
) -> None:
    """Name each promotion on the better side of its step: near it, clear of other names, over as few marks as may be.

    A name that finds no free place is left out; its ring on the staircase stays, and the page lists them all.
    """
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    point = canvas.figure.dpi / 72
    gap = 3 * point
    marks = axes.transData.transform([place for place in points if math.isfinite(place[1])] or [(0.0, 0.0)])
    taken: list[tuple[float, float, float, float]] = []
    for level, begin in list(zip(levels, begins, strict=True))[1:]:
        experiment = state.experiments.get(level.experiment)
        if experiment is None:
            continue
        text = experiment.id if len(levels) > LABELS else f"{experiment.id}  {what(experiment)}"
        text += " (reverted)" if experiment.reverted else ""
        label = axes.text(begin, level.mean, text, fontsize=9, color=INK, zorder=7, va="center")
        extent = label.get_window_extent(renderer)
        x, y = axes.transData.transform((begin, level.mean))
        best: tuple[float, tuple[float, float, float, float]] | None = None
        for away in range(22, 150, 10):
            for share in (0.5, 0.1, 0.9):
                left, middle = x - share * extent.width, y + (-away if minimize else away) * point
                box = (left, middle - extent.height / 2, left + extent.width, middle + extent.height / 2)
                if _meets(box, taken, gap) or not (frame.x0 < box[0] and box[2] < frame.x1):
                    continue
                if not frame.y0 + 4 * point < box[1] < box[3] < frame.y1 - 14 * point:
                    continue
                lead = (x - point, min(y, box[3]), x + point, max(y, box[1]))
                hidden = np.all((marks > np.subtract(box[:2], gap)) & (marks < np.add(box[2:], gap)), axis=1).sum()
                cost = float(hidden) * 40 + away + abs(share - 0.5) * 5 + 60 * _meets(lead, taken, 0)
                if best is None or cost < best[0]:
                    best = cost, box
        if best is None:
            label.remove()
            continue
        box = best[1]
        taken.append(box)
        back = axes.transData.inverted()
        label.set_position(back.transform((box[0], (box[1] + box[3]) / 2)))
        label.set_bbox({"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8})
        near = back.transform((min(max(x, box[0]), box[2]), box[3] if minimize else box[1]))
        axes.plot([begin, near[0]], [level.mean, near[1]], color=INK, linewidth=0.7, zorder=4)


def _meets(
    box: tuple[float, float, float, float], others: Sequence[tuple[float, float, float, float]], gap: float
) -> bool:
    return any(
        box[0] < other[2] + gap and other[0] < box[2] + gap and box[1] < other[3] + gap and other[1] < box[3] + gap
        for other in others
    )


def _frame(
    figure: Any, axes: Any, state: State, task: Task, split: str, levels: Sequence[Level], runs: Sequence[Run],
    x: Sequence[float], unit: str, shift: float,
) -> None:
    """Title, axes, legend and the line that says how the values were made comparable."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=PALE, labelcolor=INK)
    axes.ticklabel_format(axis="y", useOffset=False)
    arrow = "lower" if task.metric.direction == "minimize" else "higher"
    axes.set_ylabel(clean(f"{task.metric.name} ({task.metric.unit}), {split} split", 60))
    if not levels and not any(run.status == "ok" for run in runs):
        axes.set_yticks([])  # nothing was measured: no number may suggest otherwise
    slots = len({run.slot for run in runs if run.slot is not None})
    if runs:
        axes.set_xlabel(f"slot time spent ({unit}, over {slots} slot{'' if slots == 1 else 's'})")
    else:
        axes.set_xticks([])
    if runs:
        round_numbers = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
        step = next(size for size in round_numbers if len(runs) <= 10 * size)
        numbers = range(step, len(runs) + 1, step)
        top = axes.secondary_xaxis("top")
        top.set_xticks([x[number - 1] for number in numbers], [str(number) for number in numbers])
        top.tick_params(labelsize=8.5, colors=PALE, length=2, pad=1)
        top.spines["top"].set_visible(False)
        axes.text(1.0, 1.075, "runs finished", transform=axes.transAxes, ha="right", fontsize=8.5, color=PALE)
    figure.text(0.085, 0.945, clean(_headline(state, task, levels), 100), fontsize=14.5, fontweight="bold", color=INK)
    session = state.session
    facts = [
        f"{arrow} is better", f"{len(runs)} runs", f"{len(state.experiments)} ideas",
        clean(next((run.account["device"] for run in reversed(runs) if run.account.get("device")), session.get("device") or ""), 40),
        f"org {clean(session.get('org_hash', ''), 8).rstrip('…')}" if session.get("org_hash") else "",
    ]
    figure.text(0.085, 0.9, clean("  ·  ".join(fact for fact in facts if fact), 120), fontsize=10, color=PALE)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="lower center", ncols=5, fontsize=9, frameon=False, bbox_to_anchor=(0.53, 0.032),
                      columnspacing=1.6, handletextpad=0.5)
    if math.isfinite(shift) and any(run.metric and split not in run.metric for run in runs):
        other = "search" if split == "audit" else "audit"
        note = f"runs scored on {other} alone are moved by {shift:+.4g}, the banks' mean difference to {split}"
        figure.text(0.985, 0.012, note, ha="right", fontsize=7.5, color=PALE)


def _headline(state: State, task: Task, levels: Sequence[Level]) -> str:
    name = f"{task.name}, scale {task.scale.name}"
    if not levels:
        return f"{name}: no baseline yet"
    promoted = f"{len(state.promotions()) or 'none'} promoted"
    if levels[-1].commit != state.trunk:
        promoted += ", newest not measured yet"
    if len(levels) == 1:
        return f"{name}: baseline {levels[0].mean:.5g} {task.metric.unit}, {promoted}"
    first, last = levels[0].mean, levels[-1].mean
    digits = max(3, min(8, 2 - math.floor(math.log10(abs(last - first) or 1))))
    change = f" ({100 * (last - first) / abs(first):+.1f} %)" if first else ""
    return f"{name}: {first:.{digits}f} to {last:.{digits}f} {task.metric.unit}{change}, {promoted}"
