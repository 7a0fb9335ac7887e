"""The certificate authorities of this machine, read once: reading them takes longer than most requests."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import httpx2
from lightkube.config.client_adapter import ConnectionParams, user_auth
from lightkube.config.kubeconfig import SingleConfig


@cache
def authorities() -> ssl.SSLContext:
    """What whoever names no authority of his own is verified by."""
    return httpx2.create_ssl_context()


class Connection(ConnectionParams):
    """lightkube's connection, which reads the machine's authorities anew for every client."""

    def httpx_params(self, config: SingleConfig) -> dict[str, Any]:
        cluster, user = config.cluster, config.user
        own = cluster.certificate_auth or cluster.certificate_auth_data or cluster.insecure
        if own or user is None or user.client_cert or user.client_cert_data:
            return super().httpx_params(config)
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"base_url": cluster.server, "verify": authorities(), "auth": user_auth(user), **kept}
