"""What a canary is judged by, as monitoring/analysis.yaml declares it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nexus_ops.documents import first_error, read_yaml, unknown_key
from nexus_ops.errors import PermanentError

Criticality = Literal["critical", "normal"]
WEIGHTS: Mapping[Criticality, float] = {"critical": 2.0, "normal": 1.0}
"""How the evidence of a metric counts beside that of others."""

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
Query = Annotated[str, Field(min_length=1, max_length=2000)]
Seconds = Annotated[float, Field(ge=0, le=7 * 86400)]
Alpha = Annotated[float, Field(gt=0, le=0.2)]


class RulesError(PermanentError):
    """monitoring/analysis.yaml says something that cannot be meant; names the file, the metric and what is allowed."""


class Declaration(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Material(Declaration):
    """What a pass excludes: the candidate's rate is neither `ratio` times the stable's nor above `floor`.

    One of the two is enough: a service without any error has no ratio, and a bad stable colour is above every floor.
    """

    ratio: Annotated[float, Field(gt=1, le=100)]
    floor: Annotated[float, Field(gt=0, lt=1)]


class Metric(Declaration):
    """What all kinds have."""

    name: Name
    criticality: Criticality


class Ratio(Metric):
    """Events among requests, both cumulative counters by component, colour and pod."""

    kind: Literal["ratio"]
    events: Query
    total: Query
    material: Material

    def queries(self) -> Mapping[str, str]:
        return {"events": self.events, "total": self.total}


class Latency(Metric):
    """Requests over the objective, from a histogram's buckets. The objective must be one of their bounds."""

    kind: Literal["latency"]
    buckets: Query
    objective_seconds: Annotated[float, Field(gt=0)]
    objectives: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """By component, where another objective holds."""
    material: Material

    def queries(self) -> Mapping[str, str]:
        return {"buckets": self.buckets}

    def objective(self, component: str) -> float:
        return self.objectives.get(component, self.objective_seconds)


class Guardrail(Metric):
    """A plain limit. Of the platform it counts only where it is worse than when the rollout began."""

    kind: Literal["guardrail"]
    scope: Literal["platform", "colour"]
    query: Query
    above: float | None = None
    below: float | None = None
    for_seconds: Seconds = 0.0
    worse_than_stable: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Of a colour: no breach below so many times the stable colour's value; 0: not compared."""
    watch: bool = True
    """Whether it takes a release back in the watch, too, when what breaks it may be another load than the day's before."""

    @model_validator(mode="after")
    def _one_limit(self) -> Guardrail:
        if (self.above is None) == (self.below is None):
            raise ValueError("exactly one of 'above' and 'below' is to be given")
        if self.worse_than_stable and self.scope == "platform":
            raise ValueError("worse_than_stable needs scope: colour; the platform has no colours")
        if self.worse_than_stable and self.above is None:
            raise ValueError("worse_than_stable needs 'above': it is a multiple of the stable colour's value")
        return self

    def queries(self) -> Mapping[str, str]:
        return {"query": self.query}

    def breached(self, value: float) -> bool:
        return value > self.above if self.above is not None else value < (self.below or 0.0)

    @property
    def watched(self) -> bool:
        """Whether it holds in the watch, where the stable colour serves nothing that could be compared."""
        return self.watch and not self.worse_than_stable

    def worse(self, value: float, reference: float) -> bool:
        """Than the platform was when the rollout began, or than the stable colour is."""
        limit = reference * (self.worse_than_stable or 1.0)
        return value > limit if self.above is not None else value < limit


class Alert(Metric):
    """Firing alerts of the candidate's colour, or of no colour; an empty answer means that none fires."""

    kind: Literal["alert"]
    query: Query
    ignore: tuple[str, ...] = ()

    def queries(self) -> Mapping[str, str]:
        return {"query": self.query}


Declared = Annotated[Ratio | Latency | Guardrail | Alert, Field(discriminator="kind")]
Counted = Ratio | Latency


class Rules(Declaration):
    """All of monitoring/analysis.yaml."""

    alpha: Alpha
    watch_alpha: Alpha
    horizon_seconds: Annotated[float, Field(gt=0, le=7 * 86400)]
    watch_seconds: Annotated[float, Field(gt=0, le=7 * 86400)]
    look_seconds: Annotated[float, Field(gt=0, le=600)]
    history_seconds: Annotated[float, Field(gt=0, le=86400)] = 1800
    """So much of the stable colour's past is read before anything is compared."""
    components: Annotated[tuple[Name, ...], Field(min_length=1)]
    metrics: Mapping[str, Declared]

    @model_validator(mode="after")
    def _meaningful(self) -> Rules:
        if not self.counted():
            raise ValueError("metrics: at least one of kind ratio or latency is needed, or nothing is ever compared")
        for metric in self.counted():
            for text in metric.queries().values():
                if "rate(" in text or "increase(" in text:
                    raise ValueError(
                        f"metrics.{metric.name}: raw counters are needed, not rate() or increase(): {text}"
                    )
        return self

    @property
    def horizon(self) -> int:
        """The horizon in looks."""
        return max(1, round(self.horizon_seconds / self.look_seconds))

    @property
    def watch_horizon(self) -> int:
        """The length of the watch after promotion in looks."""
        return max(1, round(self.watch_seconds / self.look_seconds))

    def counted(self) -> tuple[Counted, ...]:
        """The metrics that the sequential tests compare."""
        return tuple(metric for metric in self.metrics.values() if isinstance(metric, Ratio | Latency))

    def shares(self, components: Iterable[str]) -> dict[tuple[str, str], float]:
        """By metric and component: its weight in the rollout's evidence; one in all."""
        raw = {(metric.name, name): WEIGHTS[metric.criticality] for metric in self.counted() for name in components}
        whole = sum(raw.values())
        return {key: weight / whole for key, weight in raw.items()}

    @staticmethod
    def parse(document: Any, source: str = "analysis.yaml") -> Rules:
        """The rules in a document; `RulesError` names the first thing that is wrong with it."""
        if not isinstance(document, dict) or not isinstance(document.get("metrics"), dict):
            raise RulesError("no mapping with the key 'metrics'.", target=source)
        metrics: dict[str, Any] = document["metrics"]
        for name, entry in metrics.items():
            if not isinstance(entry, dict):
                raise RulesError(f"metrics.{name}: no mapping.", target=source)
        named = {name: {**entry, "name": name} for name, entry in metrics.items()}
        try:
            return Rules.model_validate({**document, "metrics": named})
        except ValidationError as error:
            raise RulesError(_problem(error), target=source) from None

    @staticmethod
    def load(path: Path) -> Rules:
        """The rules in a file."""
        return Rules.parse(read_yaml(path), str(path))


def _problem(error: ValidationError) -> str:
    first = first_error(error)
    kinds: dict[str, type[Declaration]] = {"ratio": Ratio, "latency": Latency, "guardrail": Guardrail, "alert": Alert}
    parts, model = [str(part) for part in first["loc"]], Rules
    if len(parts) > 2 and parts[0] == "metrics" and parts[2] in kinds:
        model = kinds[parts.pop(2)]
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = model.model_fields if len(parts) in (1, 3) else ()  # not those of what is nested in it
        return f"{'.'.join(parts)}: {unknown_key(parts[-1], (name for name in known if name != 'name'))}"
    if first["type"] == "union_tag_not_found":
        what = f"'kind' is missing; allowed: {', '.join(kinds)}"
    where = ".".join(parts)
    return f"{where}: {what}." if where else f"{what}."
