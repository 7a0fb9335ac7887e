"""The watch after a promotion: the new colour alone serves, and is compared with the old one's last hours.

The old colour's looks are replayed beside the new ones, each of them once: as though it were still serving. Then the
same tests apply. What they cannot cancel any more are ups and downs that both would have shared; the plan's `history`
should therefore be of the same hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nexus_ops.analysis.samples import Answer, Count, Sample


def beside_history(samples: Sequence[Sample], past: Sequence[Sample], *, stable: str) -> list[Sample]:
    """The watch's looks with the old colour's readings of the past beside them.

    The first look of the watch meets the first of the past, and each later one the past look that is as far from it in
    time. After the end of the past its last look is repeated: nothing was served since, and so there is no more evidence.
    """
    if not samples or not past:
        return list(samples)
    began, old_began = samples[0].time, past[0].time
    found: list[Sample] = []
    at = 0
    for sample in samples:
        while at + 1 < len(past) and past[at + 1].time - old_began <= sample.time - began:
            at += 1
        found.append(joined(sample, past[at], stable))
    return found


def joined(sample: Sample, old: Sample | None, stable: str) -> Sample:
    """A look of the watch with the old colour's readings of the past in place of its present ones; None: there are none."""
    answers = dict(sample.answers)
    for name, answer in sample.answers.items():
        before = old.answers.get(name) if old else None
        replayed = tuple(count for count in before.counts if count.colour == stable) if before else ()
        if answer.problem is None and (answer.counts or replayed):
            live: tuple[Count, ...] = tuple(count for count in answer.counts if count.colour != stable)
            answers[name] = Answer(counts=live + replayed, levels=answer.levels)
    return replace(sample, answers=answers)
