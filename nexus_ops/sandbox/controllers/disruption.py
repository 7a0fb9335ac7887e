"""PodDisruptionBudgets: how many pods may be evicted now."""

from __future__ import annotations

from typing import Any

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.workloads import PODS, is_leaving, is_ready, share
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]
BUDGETS = "poddisruptionbudgets.policy"


class DisruptionController:
    """Keeps each budget's status; it is what the eviction subresource asks."""

    name = "disruption"

    def __init__(self, store: Store) -> None:
        self.store = store

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        if event.key == BUDGETS and event.type != "DELETED":
            return [(meta["namespace"], meta["name"])]
        if event.key != PODS:
            return []
        labels = (meta.get("labels") or {}).items()
        return [
            (meta["namespace"], budget["metadata"]["name"])
            for budget in self.store.list(BUDGETS, meta["namespace"])
            if (wanted := _labels(budget)) and wanted.items() <= labels
        ]

    def reconcile(self, namespace: str, name: str) -> float | None:
        budget = self.store.find(BUDGETS, namespace, name)
        if budget is None or is_leaving(budget):
            return None
        wanted = _labels(budget)
        pods = [pod for pod in self.store.list(PODS, namespace, wanted) if not is_leaving(pod)] if wanted else []
        healthy, total, spec = sum(map(is_ready, pods)), len(pods), budget["spec"]
        if spec.get("maxUnavailable") is not None:
            needed = max(0, total - share(spec["maxUnavailable"], total, up=True))
        else:
            needed = share(spec.get("minAvailable", 1), total, up=True)
        allowed = max(0, healthy - needed) if total else 0
        before = budget.get("status") or {}
        condition = {
            "type": "DisruptionAllowed", "status": str(allowed > 0), "message": "", "lastTransitionTime": timestamp(),
            "reason": "SufficientPods" if allowed else "InsufficientPods",
            "observedGeneration": budget["metadata"]["generation"],
        }  # fmt: skip
        was = next(iter(before.get("conditions") or ()), None)
        if was and was["status"] == condition["status"]:
            condition["lastTransitionTime"] = was["lastTransitionTime"]
        status = {
            "currentHealthy": healthy, "desiredHealthy": needed, "disruptionsAllowed": allowed, "expectedPods": total,
            "observedGeneration": budget["metadata"]["generation"], "conditions": [condition],
        }  # fmt: skip
        if status != before:
            self.store.edit(BUDGETS, namespace, name, lambda obj: obj.update(status=status), subresource="status")
        return None


def _labels(budget: Object) -> dict[str, str]:
    """The labels that a budget selects by (matchLabels, the only form that the platform uses)."""
    return (budget["spec"].get("selector") or {}).get("matchLabels") or {}
