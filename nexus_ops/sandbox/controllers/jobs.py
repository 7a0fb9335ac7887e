"""Jobs: pods that run to their end, tried again up to backoffLimit times."""

from __future__ import annotations

import copy
import uuid
from typing import Any

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.recorder import Recorder
from nexus_ops.sandbox.controllers.workloads import PODS, is_leaving, owner_key, owner_reference
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]
JOBS = "jobs.batch"


class JobController:
    """Runs as many pods as `parallelism` allows until `completions` of them have succeeded."""

    name = "job"

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tell = Recorder(store, "job-controller")

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        if event.key == JOBS and event.type != "DELETED":
            return [(meta["namespace"], meta["name"])]
        if event.key == PODS and (key := owner_key(event.object, "Job")):
            return [key]
        return []

    def reconcile(self, namespace: str, name: str) -> float | None:
        job = self.store.find(JOBS, namespace, name)
        if job is None or is_leaving(job) or _finished(job):
            return None
        pods = [
            pod for pod in self.store.list(PODS, namespace, {"job-name": name})
            if owner_key(pod, "Job") == (namespace, name)
        ]  # fmt: skip
        phases = [pod.get("status", {}).get("phase") for pod in pods]
        succeeded, failed = phases.count("Succeeded"), phases.count("Failed")
        active = len(pods) - succeeded - failed
        spec = job["spec"]
        completions = spec.get("completions") or 1
        conditions = _outcome(succeeded, failed, completions, spec.get("backoffLimit", 6))
        if not conditions and not spec.get("suspend"):
            for _ in range(min(spec.get("parallelism", 1), completions - succeeded) - active):
                self._create(job)
                active += 1
        status: Object = {"startTime": (job.get("status") or {}).get("startTime") or timestamp(), "ready": 0}
        counts = {"active": active, "succeeded": succeeded, "failed": failed}
        status |= {key: number for key, number in counts.items() if number}
        if conditions:
            status["conditions"] = conditions
            if conditions[-1]["type"] == "Complete":
                status["completionTime"] = timestamp()
                self._tell(job, "Completed", "Job completed")
            else:
                self._tell(job, conditions[-1]["reason"], conditions[-1]["message"], warning=True)
        if status != job.get("status"):
            self.store.edit(JOBS, namespace, name, lambda obj: obj.update(status=status), subresource="status")
        return None

    def _create(self, job: Object) -> None:
        meta, template = job["metadata"], copy.deepcopy(job["spec"]["template"])
        labels = {**((template.get("metadata") or {}).get("labels") or {}), "job-name": meta["name"]}
        labels |= {"batch.kubernetes.io/job-name": meta["name"], "batch.kubernetes.io/controller-uid": meta["uid"]}
        own = {
            **(template.get("metadata") or {}), "labels": labels, "namespace": meta["namespace"],
            "name": f"{meta['name']}-{uuid.uuid4().hex[:5]}", "generateName": meta["name"] + "-",
            "ownerReferences": [owner_reference(job)],
        }  # fmt: skip
        self.store.create(PODS, {"metadata": own, "spec": template["spec"], "status": {"phase": "Pending"}})
        self._tell(job, "SuccessfulCreate", f"Created pod: {own['name']}")


def _finished(job: Object) -> bool:
    said = (job.get("status") or {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in said)


def _outcome(succeeded: int, failed: int, completions: int, limit: int) -> list[Object]:
    """The conditions that end a Job; none while it goes on."""

    def condition(kind: str, reason: str, message: str) -> Object:
        now = timestamp()
        return {
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastProbeTime": now, "lastTransitionTime": now,
        }  # fmt: skip

    if succeeded >= completions:
        told = ("CompletionsReached", "Reached expected number of succeeded pods")
        return [condition("SuccessCriteriaMet", *told), condition("Complete", *told)]
    if failed > limit:
        told = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        return [condition("FailureTarget", *told), condition("Failed", *told)]
    return []
