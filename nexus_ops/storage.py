"""The object store behind one small surface: files here, S3, Google Cloud or Azure elsewhere (obstore).

What is stored is written once: content is kept under its SHA-256, and a name is created, never overwritten, unless
the caller says so. Credentials come from the environment, as each cloud's own tools read them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nexus_ops.errors import PermanentError, TemporaryError


class NotStored(PermanentError):
    """Nothing is stored under this key."""


class AlreadyStored(PermanentError):
    """Something else is stored under this key, and it was to be created."""


class StoreUnavailable(TemporaryError):
    """The object store did not do what it was asked, for a reason of its own."""


def digest_of(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class ObjectStore:
    """Keys and bytes. Keys are paths with `/`, without a leading one."""

    def __init__(self, backend: Any, url: str) -> None:
        self._backend = backend
        self.url = url

    @classmethod
    def open(cls, url: str, **options: Any) -> ObjectStore:
        """A store by URL: `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://…`.

        `options` go to obstore (endpoint, region; in tests). A URL of another kind is an error that says which.
        """
        from obstore.store import from_url

        parts = urlsplit(url)
        if parts.scheme not in ("file", "s3", "gs", "az", "memory"):
            raise PermanentError("no such kind of object store.", target=url, todo="Known: file, s3, gs, az.")
        if parts.scheme == "file":
            Path(unquote(parts.path)).mkdir(parents=True, exist_ok=True)
        return cls(from_url(url, **options), f"{parts.scheme}://{parts.hostname or ''}{parts.path}")

    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        """Store bytes; with `create`, only when nothing is there (`AlreadyStored`)."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(self._backend, key, data, mode="create" if create else "overwrite")
        except AlreadyExistsError:
            raise AlreadyStored("something is stored already.", target=self._name(key)) from None
        except Exception as error:  # obstore raises many kinds; their texts can hold a request's signed headers
            raise self._unavailable("write", key, error) from None

    def get(self, key: str) -> bytes:
        """The bytes of a key, or `NotStored`."""
        import obstore

        try:
            return bytes(obstore.get(self._backend, key).bytes())
        except FileNotFoundError:
            raise NotStored("nothing is stored.", target=self._name(key)) from None
        except Exception as error:  # as in put
            raise self._unavailable("read", key, error) from None

    def exists(self, key: str) -> bool:
        """Whether something is stored; a store that cannot answer is an error, not a no."""
        import obstore

        try:
            obstore.head(self._backend, key)
        except FileNotFoundError:
            return False
        except Exception as error:  # as in put
            raise self._unavailable("read", key, error) from None
        return True

    def list(self, prefix: str) -> list[str]:
        """Keys below a prefix (a whole path segment), sorted."""
        import obstore

        try:
            found = [str(entry["path"]) for page in obstore.list(self._backend, prefix) for entry in page]
        except Exception as error:  # as in put
            raise self._unavailable("list", prefix, error) from None
        return sorted(found)

    def put_content(self, prefix: str, data: bytes) -> str:
        """Store bytes under their digest; the same bytes again make nothing new. The digest."""
        digest = digest_of(data)
        try:
            self.put(f"{prefix}/{digest}", data, create=True)
        except AlreadyStored:
            pass  # the same content, by its name
        return digest

    def get_content(self, prefix: str, digest: str) -> bytes:
        """Bytes by their digest, checked against it."""
        data = self.get(f"{prefix}/{digest}")
        if digest_of(data) != digest:
            raise PermanentError(
                "the stored content does not match its digest.", target=self._name(f"{prefix}/{digest}")
            )
        return data

    def _name(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}"

    def _unavailable(self, what: str, key: str, error: Exception) -> StoreUnavailable:
        todo = "Check that it is reachable and that the credentials in the environment allow it."
        return StoreUnavailable(f"could not {what}: {type(error).__name__}.", target=self._name(key), todo=todo)
