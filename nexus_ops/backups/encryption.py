"""Encryption to age recipients (https://age-encryption.org/v1): public keys encrypt, an identity decrypts.

The identity is read from a file or from a secret store when it is needed. It is in no configuration, command line, log
or error.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nexus_ops.backups import age
from nexus_ops.errors import PermanentError, TemporaryError

LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
"""Of bech32 (BIP 173), the way that age writes keys."""


def _pyrage() -> Any:
    """PyPI's pyrage knows keys; loaded when it is needed, and without types."""
    return import_module("pyrage")


class BadKey(PermanentError):
    """A key that cannot be used, or the wrong one. The key itself is never in the text."""


class Recipients:
    """Those who will be able to decrypt; none: nothing is encrypted."""

    def __init__(self, public_keys: Sequence[str]) -> None:
        pyrage = _pyrage()
        self.public_keys = tuple(public_keys)
        try:
            self._recipients = [_bytes_of(str(pyrage.x25519.Recipient.from_str(key))) for key in public_keys]
        except pyrage.RecipientError:
            raise BadKey(
                "a recipient is no age public key.", todo="Public keys begin with age1; age-keygen prints one."
            ) from None

    def encrypt(
        self, data: bytes | bytearray | memoryview, room: bytearray | None = None
    ) -> bytes | bytearray | memoryview:
        """The encrypted bytes, in `room`, which grows if it has to; the same bytes where there are no recipients."""
        if not self._recipients:
            return data
        return age.encrypt(data, self._recipients, room)


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
        pyrage = _pyrage()
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
        try:
            return age.decrypt(data, self._private_keys)
        except age.NoMatch:
            raise BadKey("this identity is not among those it was encrypted to.", target=self.source) from None
        except ValueError:
            raise ValueError("it does not decrypt") from None

    @cached_property
    def _private_keys(self) -> list[Any]:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return [X25519PrivateKey.from_private_bytes(_bytes_of(str(key))) for key in self._keys]


def write_identity(path: Path) -> str:
    """Make a new identity in a file that only its owner can read; its public key. An existing file is kept."""
    identity = _pyrage().x25519.Identity.generate()
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


def _bytes_of(key: str) -> bytes:
    """The 32 bytes of a key that pyrage has found in order: what is between its last 1 and its checksum, 5 bits a letter."""
    number, letters = 0, key.lower().rpartition("1")[2][:-6]
    for letter in letters:
        number = number << 5 | LETTERS.index(letter)
    return (number >> len(letters) * 5 % 8).to_bytes(32, "big")


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
