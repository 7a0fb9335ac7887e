"""Which API server a cluster is, and who we are there: the kubeconfig's context, read by lightkube."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

from nexus_ops.clusters.errors import MissingContext
from nexus_ops.topology import Cluster


def find_context(cluster: Cluster, given: Path | None = None) -> SingleConfig:
    """The cluster's kube context, from the file given, else from $KUBECONFIG, else from ~/.kube/config.

    $KUBECONFIG may list several files, as kubectl has it; the first that knows the context is taken. `MissingContext`
    lists the contexts that there are.
    """
    if not cluster.enabled:
        raise MissingContext(
            f"cluster {cluster.name} is not enabled.",
            target="topology.yaml",
            todo="Give it a kube context there, and enabled: true.",
        )
    paths = [given] if given else kubeconfig_files()
    where, known = os.pathsep.join(map(str, paths)), set[str]()
    for path in [path for path in paths if path.is_file()]:
        config = _read(path)
        known |= set(config.contexts)
        if cluster.context in config.contexts:
            return _single(config, cluster.context, path)
    if not any(path.is_file() for path in paths):
        raise MissingContext(
            "there is no kubeconfig.", target=where, todo="Set KUBECONFIG to it, or start the sandbox: make demo."
        )
    raise MissingContext(
        f"cluster {cluster.name} needs the kube context {cluster.context!r}.",
        target=where,
        todo=f"Contexts there: {', '.join(sorted(known)) or 'none'}.",
    )


def kubeconfig_files() -> list[Path]:
    """The files of $KUBECONFIG, else ~/.kube/config; they need not be there."""
    listed = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return listed or [Path("~/.kube/config").expanduser()]


def _read(path: Path) -> KubeConfig:
    try:
        return KubeConfig.from_file(path)
    except (ConfigError, KeyError, TypeError, AttributeError, OSError, yaml.YAMLError) as error:
        raise MissingContext(
            f"the kubeconfig cannot be read ({type(error).__name__}).",
            target=str(path),
            todo="kubectl config view shows whether it is whole.",
        ) from error


def _single(config: KubeConfig, context: str, path: Path) -> SingleConfig:
    try:
        single = config.get(context)
    except KeyError as missing:
        raise MissingContext(
            f"the context {context!r} names {missing}, which is not there.",
            target=str(path),
            todo="Add the cluster or the user that it names.",
        ) from missing
    assert single is not None, "only a context without a name has none"
    return single
