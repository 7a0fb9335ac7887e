"""The policy that every object of a release keeps: images by digest, bounded resources, no privileges, no secrets.

The privileges are those that the Pod Security Standard 'restricted' allows
(https://kubernetes.io/docs/concepts/security/pod-security-standards/), which the agents' namespace enforces: what is
refused here would be accepted by the API server as a Deployment, and then never get a pod.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nexus_ops.releases.credentials import has_secret, is_secret, is_secret_file, secrets_within

Object = dict[str, Any]

BY_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
    }
)  # fmt: skip


def policy_problems(obj: Object) -> Iterator[str]:
    """What of an object is against the policy: sentences that name the object, the field, and what to do."""
    name = name_of(obj)
    if obj["kind"] == "Secret":
        if obj.get("data") or obj.get("stringData"):
            yield f"{name}: holds a secret's value; refer to a Secret that exists in the cluster instead."
        return
    told: set[str] = set()
    if obj["kind"] == "ConfigMap":
        for key, value in (obj.get("data") or {}).items():
            if is_secret_file(key, str(value)):
                told.add(f"data.{key}")
                yield f"{name}: data.{key} looks like a secret; refer to a Secret instead."
    pod = pod_of(obj)
    for path in secrets_within(obj):
        # Those of containers are told by the container's name, below.
        if path not in told and (pod is None or not re.search(r"ontainers\.\d+\.(env|command|args)\.", path)):
            yield f"{name}: {path} holds what looks like a secret; refer to a Secret instead."
    if pod is not None:
        yield from _pod_problems(name, pod)


def name_of(obj: Object) -> str:
    """Kind and name: how a sentence names an object."""
    return f"{obj['kind']} {obj['metadata']['name']}"


def pod_of(obj: Object) -> Object | None:
    """The pod's spec within a Pod or any kind of workload; None for other kinds."""
    spec = obj.get("spec") or {}
    match obj["kind"]:
        case "Pod":
            return spec
        case "CronJob":
            return spec["jobTemplate"]["spec"]["template"]["spec"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job":
            return spec["template"]["spec"]
        case _:
            return None


def containers_of(pod: Object) -> list[Object]:
    """All containers of a pod: they are held to the same rules."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind) or ()]


def _pod_problems(name: str, pod: Object) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{name}: {field} is set; agents need no access to the node."
    for volume in pod.get("volumes") or ():
        for kind in sorted(set(volume) - VOLUMES - {"name"}):
            yield f"{name}: volume {volume['name']} is a {kind}; agents need no access to the node, use an emptyDir or a claim."
    security = pod.get("securityContext") or {}
    for sysctl in security.get("sysctls") or ():
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield f"{name}: securityContext.sysctls sets {sysctl['name']}; take it out, it changes the node."
    yield from _shared_problems(f"{name}: securityContext", security)
    for container in containers_of(pod):
        yield from _container_problems(f"{name}: container {container['name']}", security, container)


def _container_problems(where: str, pod_security: Object, container: Object) -> Iterator[str]:
    image = container.get("image", "")
    if not BY_DIGEST.search(image):
        yield f"{where}: image {image!r} has no digest; a tag can move, write it as name:version@sha256:…"
    if image.split("@")[0].endswith(":latest"):
        yield f"{where}: image {image!r} is tagged latest; name a version."
    resources = container.get("resources") or {}
    for part in ("requests", "limits"):
        for what in ("cpu", "memory"):
            if not (resources.get(part) or {}).get(what):
                yield f"{where}: resources.{part}.{what} is missing; state it, so that one pod cannot starve the others."
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"{where}: port {port['containerPort']} has a hostPort; use a Service."
    yield from _privileges(where, pod_security, container.get("securityContext") or {})
    if any(has_secret(str(word)) for word in [*container.get("command", []), *container.get("args", [])]):
        yield f"{where}: its command line holds a secret; refer to a Secret instead."
    for variable in container.get("env") or ():
        if is_secret(variable["name"], str(variable.get("value") or "")):
            yield f"{where}: env {variable['name']} looks like a secret; use valueFrom.secretKeyRef."


def _privileges(where: str, pod: Object, own: Object) -> Iterator[str]:
    """The restricted standard for one container; its own word overrides its pod's, as in Kubernetes."""
    if own.get("privileged"):
        yield f"{where}: privileged; agents need no access to the node."
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: securityContext.allowPrivilegeEscalation must be false."
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{where}: securityContext.runAsNonRoot must be true."
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield f"{where}: securityContext.runAsUser is 0, which is root; name another user."
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{where}: securityContext.capabilities.drop must be [ALL]."
    if added := capabilities.get("add"):
        yield f"{where}: capabilities {', '.join(added)} are added; agents need none."
    seccomp = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")
    if seccomp not in ("RuntimeDefault", "Localhost"):
        yield f"{where}: securityContext.seccompProfile.type must be RuntimeDefault."
    if own.get("procMount", "Default") != "Default":
        yield f"{where}: securityContext.procMount must be Default."
    yield from _shared_problems(f"{where}: securityContext", own)


def _shared_problems(where: str, security: Object) -> Iterator[str]:
    """What a pod and a container may not ask for alike."""
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{where}.windowsOptions.hostProcess is set; agents need no access to the node."
    if (security.get("appArmorProfile") or {}).get("type", "RuntimeDefault") == "Unconfined":
        yield f"{where}.appArmorProfile is Unconfined; leave it out."
    options = security.get("seLinuxOptions") or {}
    if options.get("user") or options.get("role") or options.get("type", "") not in SELINUX_TYPES:
        yield f"{where}.seLinuxOptions leaves its confinement; leave it out."
