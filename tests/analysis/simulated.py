"""A platform that counts: cumulative readings by component, colour and pod, look by look. Knows nothing of the judge."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nexus_ops.analysis.judge import Plan
from nexus_ops.analysis.metrics import Rules
from nexus_ops.analysis.samples import Answer, Count, Level, Sample
from nexus_ops.topology import project_folder

RULES = Rules.load(project_folder() / "monitoring" / "analysis.yaml")
COUNTED = [metric.name for metric in RULES.counted()]
START = 1_000_000.0


def new_plan(*components: str, alpha: float = 0.01, **changes: object) -> Plan:
    """Green beside blue."""
    plan = Plan(RULES, components or ("risk-manager",), "green", "blue", alpha)
    return replace(plan, **changes)  # pyright: ignore[reportArgumentType]


@dataclass
class Platform:
    """Components with two pods per colour; ratios by (metric, component, colour), rates in requests a second."""

    components: tuple[str, ...] = ("risk-manager",)
    rate: float = 100.0
    share: float = 0.05
    """The candidate's share of the requests."""
    ratio: float = 0.005
    ratios: dict[tuple[str, str, str], float] = field(default_factory=dict)
    levels: dict[str, tuple[Level, ...]] = field(default_factory=dict)
    stage: str = "5"
    seed: int = 1
    time: float = START
    counts: dict[tuple[str, str, str, str], list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0.0])
    )
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        for metric in COUNTED:
            for component in self.components:
                for colour in ("blue", "green"):
                    for pod in "ab":
                        self.counts[metric, component, colour, f"{component}-{colour}-{pod}"] = [0.0, 0.0]
        quiet = {name: () for name, metric in RULES.metrics.items() if metric.kind in ("guardrail", "alert")}
        up = tuple(Level(c, colour, "", 2.0) for c in self.components for colour in ("blue", "green"))
        usual = {
            "portfolio-pnl": (Level("", "", "", 1200.0),),
            "portfolio-risk": (Level("", "", "", 35.0),),
            "no-pod-answers": up,
        }
        self.levels = quiet | usual | self.levels

    def count(self, requests: float, ratio: float) -> int:
        """Events among some requests: exact for few, normal for many."""
        if requests <= 200:
            return sum(self.rng.random() < ratio for _ in range(int(requests)))
        mean = requests * ratio
        return max(0, min(int(requests), round(self.rng.gauss(mean, (mean * (1 - ratio)) ** 0.5))))

    def look(self, seconds: float = 5.0) -> Sample:
        """Serve for some seconds, then be asked about everything."""
        self.time += seconds
        for (metric, component, colour, _), sums in self.counts.items():
            share = self.share if colour == "green" else 1 - self.share
            mean = self.rate * seconds * share / 2
            requests = int(mean) + (self.rng.random() < mean % 1)
            sums[0] += self.count(requests, self.ratios.get((metric, component, colour), self.ratio))
            sums[1] += requests
        return self.sample()

    def sample(self) -> Sample:
        answers = {
            metric: Answer(
                counts=tuple(
                    Count(component, colour, pod, *sums)
                    for (name, component, colour, pod), sums in self.counts.items()
                    if name == metric
                )
            )
            for metric in COUNTED
        }
        answers |= {name: Answer(levels=levels) for name, levels in self.levels.items()}
        return Sample(self.time, self.stage, answers)

    def looks(self, number: int, each: Callable[[Sample], Sample] = lambda sample: sample) -> list[Sample]:
        return [each(self.look()) for _ in range(number)]


def worse(
    ratio: float, metric: str = "request-errors", component: str = "risk-manager"
) -> dict[tuple[str, str, str], float]:
    """The candidate's own ratio of one metric."""
    return {(metric, component, "green"): ratio}
