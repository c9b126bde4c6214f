"""The rules that find faults in a run's logged metrics: one for each fault, with its warning in plain words.

Each rule names the likely cause and the settings to try, in backticks. Bounds of single metrics are those of
`runs.metrics.METRICS`, so that a warning, a board and the documentation agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from focus_agents.monitoring.curves import WINDOW, Curves, Facts, Line

LEAST_RISE = 0.2
"""So much more of the answers than at the run's start are a shortcut's before it is told of."""
FLAT_LINES = 50
"""Lines at the start and at the end that are compared where a curve should rise."""
FLAT_GAIN = 0.01
"""A mean IoU that has risen less than this is flat."""
FALL = 0.1
"""How far a mean IoU falls below its best before it is told of, where chance does not move it as far."""
FEWEST_GROUPS_AT_ONCE, MOST_AT_ONCE, LEAST_AT_START = 12, 0.5, 0.1
"""A share that jumps from below the last to above the second, over so many groups, is no chance."""
FEWEST_GROUPS = 24
"""Groups that a share of answers is taken of, over as many lines as that needs."""
MOST_ERRORS = 4.0
"""Standard errors by which two shares differ by chance, in a run of thousands of lines."""
WAIT_SHARE = 0.75
"""Part of an iteration, of sampling and learning, that one of the two takes while the other waits."""
MOST_RESTARTS = 3
"""Of the processes of one role, within a window."""

Rule = Callable[[Curves, Facts], str | None]


def _silent_groups(curves: Curves, facts: Facts) -> str | None:
    if (share := curves.lasting("zero_variance_rate")) is None:
        return None
    return (
        f"in {share:.0%} of the groups all answers earn the same, so they teach nothing: the reward does not tell the "
        "answers apart, or the policy always says the same; try a `reward` with a graded term such as iou, a higher "
        "`temperature`, a larger `group_size`, or `zero_variance` refill"
    )


def _no_gradient(curves: Curves, facts: Facts) -> str | None:
    values = curves.values("grad_norm", curves.num_needed)
    if len(values) < curves.num_needed or any(value > 0 for value in values):
        return None
    silent = curves.mean("zero_variance_rate", curves.num_needed)
    reason = "nothing that is trained takes part in the loss; look at `lora_rank` and `freeze_vision`"
    if silent is not None and silent > 0.99:
        reason = "every group earns the same for all of its answers; try another `reward` or a higher `temperature`"
    return f"the gradient is 0, so nothing is learned from here on: {reason}"


def _format_without_iou(curves: Curves, facts: Facts) -> str | None:
    form, iou = curves.mean("format_rate", FLAT_LINES), curves.mean("miou", FLAT_LINES)
    gain = curves.rise("miou", first=FLAT_LINES, last=FLAT_LINES)
    if not _is_late(curves, facts) or form is None or iou is None or gain is None:
        return None
    if form < 0.95 or gain >= FLAT_GAIN or iou > 0.9:
        return None
    return (
        f"{form:.0%} of the answers have the format, and their mean IoU has not risen ({gain:+.3f} since the start): "
        "the format's reward is used up and the IoU's is not found; try another weight or an IoU term that gives "
        "credit for near misses (giou, diou) in `reward`, a larger `group_size`, or a higher `lr`"
    )


def _is_late(curves: Curves, facts: Facts) -> bool:
    """Return whether enough of a run is over for a curve to have risen; the learning rate itself rises at first."""
    return curves.num_lines >= max(2 * FLAT_LINES, min(0.35 * facts.length, 10 * FLAT_LINES))


def _worse_answers(curves: Curves, facts: Facts) -> str | None:
    now = curves.mean("miou")
    if curves.num_lines < 2 * WINDOW or now is None:
        return None
    # Of so many means the best and the worst are this far apart by chance, and one more as the scatter is a guess.
    num_errors = 2 * math.sqrt(2 * math.log(curves.num_lines)) + 1
    by_chance = num_errors * curves.scatter("miou") / math.sqrt(WINDOW)
    if curves.best_miou - now < max(FALL, by_chance):
        return None
    return (
        f"the mean IoU of the sampled answers has fallen from {curves.best_miou:.3f} to {now:.3f}: the reward pays for "
        "something else, or the steps are too large; look at samples/, and try another `reward`, a lower `lr`, or a "
        "`kl_coeff` above 0"
    )


def _whole_image(curves: Curves, facts: Facts) -> str | None:
    name, what, term = "whole_image_rate", "are the whole image", "whole_image"
    if (sudden := _sudden(curves, facts, name)) is not None:
        return _shortcut_message(*sudden, what, term)
    return _shortcut(curves, facts, name, what, term)


def _copies(curves: Curves, facts: Facts) -> str | None:
    return _shortcut(curves, facts, "copy_rate", "repeat a support box", "copy")


def _shortcut(curves: Curves, facts: Facts, name: str, what: str, term: str) -> str | None:
    """Return a share of answers that rises above the run's start; the start has the right answers among them, too."""
    needed = -(-FEWEST_GROUPS // max(1, facts.num_groups))
    first, last = min(FLAT_LINES, max(3, needed)), min(FLAT_LINES, max(10, needed))
    rise, now = curves.rise(name, first=first, last=last), curves.mean(name, last)
    start = curves.mean_of_start(name, first)
    if rise is None or now is None or start is None:
        return None
    num_last = min(last, curves.num_lines - first)
    error = math.hypot(*(_error(share, num * facts.num_groups) for share, num in ((start, first), (now, num_last))))
    if rise <= max(LEAST_RISE, MOST_ERRORS * error):
        return None
    return _shortcut_message(now, rise, what, term)


def _shortcut_message(now: float, rise: float, what: str, term: str) -> str:
    return (
        f"{now:.0%} of the answers {what}, {100 * rise:.0f} points more than at the start: the policy earns without "
        f"looking; add the term {term} to `reward`, as in iou:1,format:0.5,{term}:0.5, or set a `kl_coeff` above 0"
    )


def _sudden(curves: Curves, facts: Facts, name: str) -> tuple[float, float] | None:
    """Return (the share now, its rise) where half of the answers of a few lines do what next to none did at the start.

    A policy that collapses within a few lines is past it before a longer window shows a rise that is no chance.
    """
    num = max(3, -(-FEWEST_GROUPS_AT_ONCE // max(1, facts.num_groups)))
    now, start, rise = curves.mean(name, num), curves.mean_of_start(name, num), curves.rise(name, first=num, last=num)
    if now is None or start is None or rise is None or now < MOST_AT_ONCE or start > LEAST_AT_START:
        return None
    return now, rise


def _error(share: float, number: int) -> float:
    """Return the standard error of a share of so many; of none or of all, too, that of one more."""
    likely = (share * number + 1) / (number + 2)
    return math.sqrt(likely * (1 - likely) / number)


def _no_format(curves: Curves, facts: Facts) -> str | None:
    pairs = list(zip(curves.values("parse_rate"), curves.values("format_rate"), strict=False))
    if len(pairs) < curves.num_needed or (len(pairs) < 10 and any(form >= 0.1 for _, form in pairs)):
        return None
    parsed, form = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    if parsed <= 0.9 or form >= 0.1:
        return None
    return (
        f"{parsed:.0%} of the answers hold a box and {form:.0%} have the answer format: text stands around it, or the "
        "answer does not end; raise the weight of format in `reward`, give `max_completion_tokens` room, or set "
        "`constrained`"
    )


def _truncated(curves: Curves, facts: Facts) -> str | None:
    if (share := curves.lasting("truncated_rate")) is None:
        return None
    return (
        f"{share:.0%} of the answers are cut before their end: the format does not fit, or the policy does not stop; "
        "raise `max_completion_tokens`, or set a `truncation_penalty`"
    )


def _failed(curves: Curves, facts: Facts) -> str | None:
    if (share := curves.lasting("failed_rate")) is None:
        return None
    return (
        f"{share:.1%} of the answers raised an exception where they were read or paid, and count as unreadable: a "
        "fault of your own `reward` or parser, whose message stands in samples/"
    )


def _no_entropy(curves: Curves, facts: Facts) -> str | None:
    if (entropy := curves.lasting("entropy")) is None:
        return None
    return (
        f"the entropy of the answers is gone ({entropy:.3f} nats a token): the policy says one thing only, and groups "
        "will have nothing to compare; try a lower `lr`, a higher `temperature`, a larger `clip_high`, or a `kl_coeff` "
        "above 0; earlier checkpoints of the run still explore"
    )


def _far_from_reference(curves: Curves, facts: Facts) -> str | None:
    if (kl := curves.lasting("kl")) is None:
        return None
    return (
        f"the policy is {kl:.2f} nats a token from the one it started from: it has left what it knew; raise `kl_coeff`,"
        " or lower `lr`"
    )


def _ratio(curves: Curves, facts: Facts) -> str | None:
    ratio, clipped = curves.lasting("ratio"), curves.lasting("clip_fraction")
    if ratio is None and clipped is None:
        return None
    seen = f"the mean probability ratio is {ratio:.2f}" if ratio is not None else f"{clipped:.0%} of tokens are clipped"
    return (
        f"{seen}: the policy moves too far within an iteration for its samples to count; lower `lr` or `num_passes`, "
        "or take more groups into a step by `groups_per_step`"
    )


def _sampler_gap(curves: Curves, facts: Facts) -> str | None:
    if (gap := curves.lasting("sampler_gap")) is None:
        return None
    return (
        f"samplers and learners differ by {gap:.2f} nats a token on the same answers, so gradients are biased: another "
        "precision, or weights that are an update old; try `precision` fp32, or `rollout_correction` token_tis"
    )


def _learners_wait(curves: Curves, facts: Facts) -> str | None:
    if (share := _sampling_share(curves, facts)) is None:
        return None
    if share <= (0.5 if facts.is_async else WAIT_SHARE):
        return None
    more = "" if facts.is_async else ", or sample during the learning by `async_steps` 1"
    return (
        f"the learners wait for the samplers in {share:.0%} of the time: raise `num_env_runners`{more}, or lower "
        "`max_completion_tokens`"
    )


def _samplers_wait(curves: Curves, facts: Facts) -> str | None:
    share = _sampling_share(curves, facts)
    # Where both work at one time, sampling that nobody waits for is as it should be.
    if share is None or facts.is_async or 1 - share <= WAIT_SHARE:
        return None
    return (
        f"the samplers wait for the learners in {1 - share:.0%} of the time: raise `num_learners`, give processes from "
        "`num_env_runners` to them, or sample during the learning by `async_steps` 1"
    )


def _sampling_share(curves: Curves, facts: Facts) -> float | None:
    """Return the part of sampling and learning that is sampling, where processes can move from one to the other."""
    if not facts.num_samplers and not facts.num_learners:
        return None
    # The first iteration compiles and fills caches.
    sampling, learning = (
        curves.mean(f"seconds_{what}", min(WINDOW, curves.num_lines - 1)) for what in ("sampling", "learning")
    )
    if sampling is None or learning is None or curves.num_lines < 5 or sampling + learning <= 0:
        return None
    return sampling / (sampling + learning)


def _restarts(curves: Curves, facts: Facts) -> str | None:
    found = []
    for name, what, setting in (
        ("sampler_restarts", "samplers", "num_env_runners"),
        ("learner_restarts", "learners", "micro_batch_groups"),
        ("worker_restarts", "workers", "micro_batch_size"),
    ):
        counts = curves.values(name)  # so far
        earlier = counts[0] if counts and curves.num_lines > WINDOW else 0.0
        if counts and counts[-1] - earlier >= MOST_RESTARTS:
            found.append((f"{counts[-1] - earlier:.0f} restarts of {what}", setting))
    if not found:
        return None
    seen = " and ".join(text for text, _ in found)
    settings = " and ".join(f"`{setting}`" for _, setting in found)
    return (
        f"{seen} in {min(WINDOW, curves.num_lines)} {facts.counter}s: processes die again and again, most often for "
        f"want of memory; lower {settings}, and read the end of their logs, which `config.json` names"
    )


def _not_finite(curves: Curves, facts: Facts) -> str | None:
    lost = not any(_is_finite(curves.last, name) for name in ("loss", "lm_loss"))
    skipped = curves.values("skipped_steps", 2)
    num = skipped[-1] - skipped[0] if len(skipped) == 2 else sum(skipped)
    if not lost and num <= 0:
        return None
    seen = "the loss is not a finite number" if lost else f"{num:.0f} steps were skipped, whose loss was not finite"
    return f"{seen}: numbers overflow; lower `lr` or `grad_clip`, or try `precision` fp32"


def _is_finite(line: Line, name: str) -> bool:
    value = line.get(name)
    return value is not None and math.isfinite(value)


def _support_mass(curves: Curves, facts: Facts) -> str | None:
    start, now = curves.mean_of_start("support_mass", 10), curves.mean("support_mass", FLAT_LINES)
    reached = curves.mean("past_margin", FLAT_LINES) or 0.0
    if not _is_late(curves, facts) or "attention_loss" not in curves.last or start is None or now is None:
        return None
    if now > 1.05 * start or reached > 0.9:
        return None
    return (
        f"the attention on the support boxes does not rise (S {start:.3f} at the start, {now:.3f} now): the attention "
        "loss has no effect; raise `beta` or `lr`, or choose other `attention_layers` or another `attention_target`"
    )


def _validation_falls(curves: Curves, facts: Facts) -> str | None:
    scores = curves.validations
    if len(scores) < 3:
        return None
    best = max(range(len(scores)), key=lambda index: scores[index][0])
    top, (now, line) = scores[best][0], scores[-1]
    least = max(0.03, 1 / math.sqrt(facts.num_validation_episodes))  # what chance moves it by
    if best > len(scores) - 3 or any(top - score < least for score, _ in scores[-2:]):
        return None
    is_supervised = facts.counter == "step"
    name, does = ("loss", "falls") if is_supervised else ("reward", "rises")
    before, after = scores[best][1].get(name), line.get(name)
    if before is not None and after is not None and (after >= before if is_supervised else after <= before):
        return None
    advice = "stop earlier by `patience`, take checkpoints/best" if is_supervised else "look at the terms of `reward`"
    return (
        f"the validation's mean IoU has fallen from {top:.3f} to {now:.3f}, while the {name} {does}: what is learned "
        f"does not hold for other episodes; {advice}, or lower `lr`"
    )


RULES: Mapping[str, Rule] = {
    "silent_groups": _silent_groups,
    "no_gradient": _no_gradient,
    "format_without_iou": _format_without_iou,
    "worse_answers": _worse_answers,
    "whole_image": _whole_image,
    "copies": _copies,
    "no_format": _no_format,
    "truncated": _truncated,
    "failed_answers": _failed,
    "no_entropy": _no_entropy,
    "far_from_reference": _far_from_reference,
    "ratio": _ratio,
    "sampler_gap": _sampler_gap,
    "learners_wait": _learners_wait,
    "samplers_wait": _samplers_wait,
    "restarts": _restarts,
    "not_finite": _not_finite,
    "support_mass": _support_mass,
    "validation_falls": _validation_falls,
}
"""By kind; a rule returns what to say while something is wrong, and else None."""
