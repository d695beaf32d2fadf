"""What the learning rate is multiplied by: a pure function of the step, and of the evaluations made so far."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from launcher.config import schedules
from launcher.config.schedules import AnySchedule


def factor(schedule: AnySchedule, step: int, steps: int, history: Sequence[tuple[int, float]] = ()) -> float:
    """The factor at `step` (from 0) of `steps`. The warmup climbs from 1/n to 1. `history`: the evaluations made so
    far, each its step and a value of which less is better; those after `step` do not count."""
    warmup = count(schedule.warmup, steps)
    if step < warmup:
        return (step + 1) / warmup
    after, left = step - warmup, max(1, steps - warmup)
    done = min(1.0, after / left)
    match schedule:
        case schedules.Linear():
            return 1 - (1 - schedule.floor) * done
        case schedules.Cosine():
            return _cosine(1.0, schedule.floor, done)
        case schedules.CosineRestarts():
            period = max(1, count(schedule.period, steps))
            return _cosine(1.0, schedule.floor, _of_period(after, period, schedule.factor))
        case schedules.Polynomial():
            return float(schedule.floor + (1 - schedule.floor) * (1 - done) ** schedule.power)
        case schedules.WarmupStableDecay():
            begin = steps - round(schedule.decay * steps)
            return 1 - (1 - schedule.floor) * max(0.0, (step - begin) / max(1, steps - begin))
        case schedules.StepDecay():
            return float(schedule.gamma ** (step // schedule.every))
        case schedules.MultiStep():
            return float(schedule.gamma ** bisect_right([count(m, steps) for m in schedule.milestones], step))
        case schedules.Exponential():
            return float(schedule.gamma ** (after / schedule.every))
        case schedules.OneCycle():
            return _one_cycle(schedule, step, steps)
        case schedules.Plateau():
            return _plateau(schedule, [value for at, value in history if at <= step])
        case schedules.Constant():
            return 1.0


def count(span: float, steps: int) -> int:
    """The steps of a span of the run: a fraction of it, or their number."""
    return round(span * steps) if span < 1 else int(span)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def _line(start: float, end: float, done: float) -> float:
    return start + (end - start) * done


def _of_period(at: float, length: float, growth: float) -> float:
    """How far a step is in its period, where each is `growth` times as long as the one before."""
    if growth == 1:
        return at % length / length
    while at >= length:
        at, length = at - length, length * growth
    return at / length


def _one_cycle(schedule: schedules.OneCycle, step: int, steps: int) -> float:
    """As in torch's OneCycleLR the peak is one step before its share of the run is through."""
    anneal = _cosine if schedule.anneal == "cosine" else _line
    peak, last = max(0.0, schedule.peak_at * steps - 1), steps - 1
    if step < peak:
        return anneal(schedule.start_factor, 1.0, step / peak)
    return anneal(1.0, schedule.end_factor, min(1.0, (step - peak) / max(1e-9, last - peak)))


def _plateau(schedule: schedules.Plateau, values: Sequence[float]) -> float:
    """As torch's ReduceLROnPlateau goes from one evaluation to the next, in its relative mode. A best below 0, which is
    a value turned round, is made better by `threshold` downwards as well."""
    rate, best, bad, cooldown = 1.0, math.inf, 0, 0
    for value in values:
        if value < best * (1 - math.copysign(schedule.threshold, best)):
            best, bad = value, 0
        else:
            bad += 1
        if cooldown:
            cooldown, bad = cooldown - 1, 0
        if bad > schedule.patience:
            rate, cooldown, bad = max(schedule.floor, rate * schedule.factor), schedule.cooldown, 0
    return rate
