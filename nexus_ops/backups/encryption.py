"""Encryption to age recipients (https://age-encryption.org/v1): public keys encrypt, an identity decrypts.

The identity is read from a file or from a secret store when it is needed. It is in no configuration, command line, log
or error.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nexus_ops.errors import PermanentError, TemporaryError


def _age() -> Any:
    """PyPI's pyrage, loaded when it is needed; it says nothing of its types."""
    return import_module("pyrage")


class BadKey(PermanentError):
    """A key that cannot be used, or the wrong one. The key itself is never in the text."""


class Recipients:
    """Those who will be able to decrypt; none: nothing is encrypted."""

    def __init__(self, public_keys: Sequence[str]) -> None:
        pyrage = _age()
        self.public_keys = tuple(public_keys)
        try:
            self._recipients = [pyrage.x25519.Recipient.from_str(key) for key in public_keys]
        except pyrage.RecipientError:
            raise BadKey(
                "a recipient is no age public key.", todo="Public keys begin with age1; age-keygen prints one."
            ) from None

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """The encrypted bytes; the same bytes where there are no recipients."""
        if not self._recipients:
            return data
        out = io.BytesIO()
        _age().encrypt_io(_Reader(data), out, self._recipients)
        return out.getbuffer()


@dataclass(frozen=True)
class Identity:
    """Reads what was encrypted to it. Shows nothing of itself."""

    source: str
    _keys: tuple[Any, ...] = field(repr=False)

    @classmethod
    def load(cls, reference: str) -> Identity:
        """By reference: `file:///folder/key.txt`, a path, or `secretsmanager://<region>/<name>` (AWS).

        The content is what age-keygen writes: `AGE-SECRET-KEY-1…` on a line of its own. In Kubernetes, mount the Secret
        as a file.
        """
        if reference.startswith("AGE-SECRET-KEY-"):
            raise BadKey("a key was given where its place belongs.", todo="Put it into a file, and name the file.")
        parts = urlsplit(reference)
        if parts.scheme == "secretsmanager":
            text = _from_secrets_manager(parts.hostname or "", unquote(parts.path).lstrip("/"), reference)
        elif parts.scheme in ("", "file"):
            text = _from_file(Path(unquote(parts.path)))
        else:
            raise BadKey(f"{parts.scheme}:// is no place of keys.", todo="Known: file, secretsmanager.")
        return cls.parse(text, reference)

    @classmethod
    def parse(cls, text: str, source: str) -> Identity:
        """The identities in the text of an age key file."""
        pyrage = _age()
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        try:
            keys = tuple(pyrage.x25519.Identity.from_str(line) for line in lines)
        except pyrage.IdentityError:
            keys = ()
        if not keys:
            raise BadKey("it holds no age identity.", target=source, todo="age-keygen writes one.")
        return cls(source, keys)

    @property
    def public_keys(self) -> tuple[str, ...]:
        """The recipients that this identity decrypts for."""
        return tuple(str(key.to_public()) for key in self._keys)

    def decrypt(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """The plain bytes; `BadKey` where this is not encrypted to us, ValueError where it is damaged."""
        pyrage = _age()
        out = io.BytesIO()
        try:
            pyrage.decrypt_io(_Reader(data), out, list(self._keys))
        except (pyrage.DecryptError, OSError) as error:
            if "No matching keys" in str(error):
                raise BadKey("this identity is not among those it was encrypted to.", target=self.source) from None
            raise ValueError("it does not decrypt") from None
        return out.getbuffer()


def write_identity(path: Path) -> str:
    """Make a new identity in a file that only its owner can read; its public key. An existing file is kept."""
    identity = _age().x25519.Identity.generate()
    public = str(identity.to_public())
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"# public key: {public}\n{identity}\n")
    try:
        os.link(own, path)
    except FileExistsError:
        return Identity.load(str(path)).public_keys[0]
    finally:
        own.unlink()
    return public


class _Reader:
    """Gives bytes in pieces. In Python on purpose: age keeps the interpreter's lock, and between pieces others get a turn."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data)
        self._at = 0

    def read(self, size: int) -> bytes:
        piece = bytes(self._view[self._at : self._at + size])
        self._at += len(piece)
        return piece


def _from_file(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise BadKey("the file of the identity does not exist.", target=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(f"the file of the identity cannot be read: {type(error).__name__}.", target=str(path)) from None


def _from_secrets_manager(region: str, name: str, reference: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client: Any = boto3.client("secretsmanager", region_name=region)
        return str(client.get_secret_value(SecretId=name)["SecretString"])
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "error"))
        raise BadKey(
            f"the secret cannot be read: {code}.", target=reference, todo="Check its name and the grant."
        ) from None
    except (BotoCoreError, KeyError) as error:
        raise TemporaryError(f"the secret cannot be read: {type(error).__name__}.", target=reference) from None
