"""What must hold before anything changes; all of it is looked at, and all that is missing is said at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nexus_ops.clusters.apply import foreign_objects
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import Kind
from nexus_ops.clusters.errors import Refused
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.releases.gates import GateResult, check_capacity, evaluate
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part, Rendering
from nexus_ops.rollouts.applying import sizes_of
from nexus_ops.rollouts.backing import SECRET, Check, check_database, check_redis, check_sei
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.forecasts import check_metrics
from nexus_ops.rollouts.monitor import NoGuardrails, guardrails_of
from nexus_ops.rollouts.record import Copy
from nexus_ops.rollouts.routers.elbv2 import load_balancers
from nexus_ops.topology import Colour


class MissingPrerequisites(PermanentError):
    """What keeps a rollout from beginning: nothing has changed."""


def require_prerequisites(
    context: RolloutContext, candidate: Copy, stable: Copy | None, *, adopt: bool = False
) -> None:
    """Look at all of them and report each; `MissingPrerequisites` when one does not hold."""
    checks = check_prerequisites(context, candidate, stable, adopt=adopt)
    for check in checks:
        context.report(f"  {check}")
    if problems := [check.problem for check in checks if check.problem]:
        raise MissingPrerequisites(f"prerequisites are missing: {' '.join(problems)}", target=context.cluster.name)


def check_prerequisites(
    context: RolloutContext, candidate: Copy, stable: Copy | None, *, adopt: bool = False
) -> list[Check]:
    """All prerequisites of a candidate on a cluster, beside what serves there. `adopt`: others' objects are taken over."""
    release = context.release(candidate.release)
    checks = [_reachable(context)]
    if checks[0].problem:
        return checks
    renderings = [context.rendering(release.digest, part) for part in ("shared", "blue", "green")]
    gates = [gate for gate in evaluate(renderings, context.topology) if gate.name != "capacity"]
    gates.append(_capacity(context, renderings, candidate, stable))
    checks += [Check(f"gate: {gate.name}", " ".join(gate.problems[:3])) for gate in gates]
    backing = (*check_database(context, release), *check_redis(context, release), *check_sei(context, release))
    watched = [_guardrails(renderings[0]), _prometheus(context), *_load_balancer(context)]
    if not watched[1].problem:
        watched.append(check_metrics(context, serves=stable is not None))
    return [
        *checks,
        _definitions(context, renderings),
        *([] if adopt else [_owners(context, release, candidate.colour)]),
        *_secrets(context, renderings),
        *_certificates(context, renderings),
        *backing,
        *watched,
    ]


def _reachable(context: RolloutContext) -> Check:
    try:
        context.client.version()
    except OperationError as error:
        return Check("cluster answers", str(error))
    return Check("cluster answers")


def _capacity(
    context: RolloutContext, renderings: Iterable[Rendering], candidate: Copy, stable: Copy | None
) -> GateResult:
    """Both colours as they will stand side by side: the stable one by its own release, both as large as it is seen to be."""
    side_by_side = [
        context.rendering(stable.release, stable.colour) if stable and part.part == stable.colour else part
        for part in renderings
    ]
    return check_capacity(side_by_side, context.topology, sizes_of(context, candidate, stable))


def _definitions(context: RolloutContext, renderings: Iterable[Rendering]) -> Check:
    """Each kind of object that the release has, operators' among them, in the version that it has it in."""
    kinds = {Kind.of(obj) for rendering in renderings for obj in rendering.objects}
    missing = sorted(f"{kind.api_version} {kind.kind}" for kind in kinds if not context.client.serves(kind))
    problem = f"the cluster has no {', '.join(missing)}: install the definitions of their operators." if missing else ""
    return Check(f"kinds of objects ({len(kinds)})", problem)


def _owners(context: RolloutContext, release: Release, candidate: Colour) -> Check:
    """No object of the release is somebody else's: of a Helm release, or of another set."""
    name = "objects are ours"
    parts: tuple[Part, ...] = ("shared", candidate)
    theirs: list[str] = []
    for part in parts:
        own = ApplySet(f"applyset-{part}", context.cluster.ops_namespace)
        try:
            found = foreign_objects(context.client, context.rendering(release.digest, part).objects, own)
        except Refused as error:
            if error.reason != "NotFound":
                raise
            return Check(name, note="not looked at: the cluster lacks kinds that the release has")
        theirs += [f"{obj} ({owner})" for obj, owner in found.items()]
    if not theirs:
        return Check(name)
    shown = ", ".join(theirs[:5]) + (f" and {len(theirs) - 5} more" if len(theirs) > 5 else "")
    return Check(name, f"somebody else owns {shown}: take them over with adopt: true, or remove them there first.")


def _secrets(context: RolloutContext, renderings: Iterable[Rendering]) -> Iterator[Check]:
    """Secrets that the pods refer to, with the keys that they need. Values are not looked at."""
    wanted: dict[str, set[str]] = {}
    for deployment in (obj for rendering in renderings for obj in rendering.of_kind("Deployment")):
        pod = deployment["spec"]["template"]["spec"]
        for variable in (variable for container in pod["containers"] for variable in container.get("env") or ()):
            if reference := (variable.get("valueFrom") or {}).get("secretKeyRef"):
                wanted.setdefault(reference["name"], set()).add(reference["key"])
        for volume in pod.get("volumes") or ():
            if "secret" in volume:  # mounted whole: any keys will do
                wanted.setdefault(volume["secret"]["secretName"], set())
    for name, keys in sorted(wanted.items()):
        secret = context.client.get(SECRET, name, context.cluster.namespace)
        missing = sorted(keys - set((secret or {}).get("data") or {}))
        where = f"in namespace {context.cluster.namespace}"
        problem = f"there is no Secret {name} {where}." if secret is None else ""
        if secret is not None and missing:
            problem = f"the Secret {name} {where} has no key {', '.join(missing)}."
        yield Check(f"secret {name}", problem)


def _certificates(context: RolloutContext, renderings: Iterable[Rendering]) -> Iterator[Check]:
    """The certificates that the Gateway's listeners show: without one of them a listener serves nobody."""
    wanted = {
        (reference["name"], reference.get("namespace") or gateway["metadata"]["namespace"])
        for rendering in renderings
        for gateway in rendering.of_kind("Gateway")
        for listener in gateway["spec"]["listeners"]
        for reference in (listener.get("tls") or {}).get("certificateRefs") or ()
        if reference.get("kind", "Secret") == "Secret"
    }
    for name, namespace in sorted(wanted):
        secret = context.client.get(SECRET, name, namespace)
        where = f"the TLS Secret {name} in namespace {namespace}"
        missing = sorted(
            {"tls.crt", "tls.key"} - {key for key, value in ((secret or {}).get("data") or {}).items() if value}
        )
        problem = ""
        if secret is None:
            problem = f"the Gateway needs {where}, which does not exist."
        elif missing:
            problem = f"{where} has no {' and no '.join(missing)}."
        elif secret.get("type") != "kubernetes.io/tls":
            problem = f"{where} is of type {secret.get('type')}, not kubernetes.io/tls."
        yield Check(f"certificate {name}", problem)


def _guardrails(shared: Rendering) -> Check:
    """The rules by which the candidate is watched."""
    try:
        guardrails_of(shared)
    except NoGuardrails as error:
        return Check("guardrails", str(error))
    return Check("guardrails")


def _prometheus(context: RolloutContext) -> Check:
    path = f"namespaces/{context.cluster.monitoring_namespace}/services/http:prometheus-operated:web/proxy/-/ready"
    try:
        answer = context.client.proxy(path)
    except OperationError as error:
        return Check("Prometheus answers", str(error))
    problem = "" if answer.status_code == 200 else f"Prometheus is not ready (it answers {answer.status_code})."
    return Check("Prometheus answers", problem)


def _load_balancer(context: RolloutContext) -> Iterator[Check]:
    """Whether AWS can be asked about load balancers, where one moves the traffic."""
    if context.topology.environment_of(context.cluster).router == "alb":
        try:
            names = load_balancers(context.cluster.region)
        except OperationError as error:
            yield Check("AWS answers", str(error))
        else:
            yield Check("AWS answers", note=f"{len(names)} load balancers in {context.cluster.region}")
