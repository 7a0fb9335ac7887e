"""Which image a version of a component is: the catalogue's protocol, and the one that reads a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nexus_ops.documents import first_error, read_yaml
from nexus_ops.errors import PermanentError, UnknownName

DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
"""A version is an image's tag (the grammar is the OCI distribution specification's) and a part of a key."""


class CatalogueError(PermanentError):
    """The catalogue's file is not what it should be."""


@dataclass(frozen=True)
class Database:
    """The database schema that a version writes, and the ones that it can work with."""

    schema: int
    compatible_with: tuple[int, ...]

    def can_go_back_to(self, other: Database) -> bool:
        """Whether `other` can work with what this version has written."""
        return self.schema in other.compatible_with


@dataclass(frozen=True)
class VersionImages:
    """The images of one version: `registry/component:version@sha256:…` by component."""

    version: str
    images: Mapping[str, str]
    database: Database


class ImageCatalogue(Protocol):
    """What a registry can tell."""

    def versions(self) -> list[str]:
        """Known versions, oldest first."""
        ...

    def images(self, version: str) -> VersionImages:
        """The images of a version, or `UnknownName` with the known ones."""
        ...


class _Database(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    written: int = Field(alias="schema", ge=0)
    compatible_with: list[int]


class _Version(BaseModel):
    model_config = ConfigDict(extra="forbid")
    database: _Database
    images: dict[str, str]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    registry: str
    versions: dict[Tag, _Version]


class FileCatalogue:
    """A catalogue in a YAML file (images.yaml)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def versions(self) -> list[str]:
        return sorted(self._read().versions, key=_order)

    def images(self, version: str) -> VersionImages:
        document = self._read()
        if version not in document.versions:
            raise UnknownName("version", version, list(document.versions), target=self.path.name)
        entry = document.versions[version]
        for component, digest in entry.images.items():
            if not DIGEST.match(digest):
                where = f"versions.{version}.images.{component}"
                raise CatalogueError(
                    f"{where}: {digest!r} is no digest; allowed: sha256: and 64 digits.", target=self.path.name
                )
        images = {name: f"{document.registry}/{name}:{version}@{digest}" for name, digest in entry.images.items()}
        database = Database(entry.database.written, tuple(entry.database.compatible_with))
        return VersionImages(version, images, database)

    def _read(self) -> _File:
        try:
            return _File.model_validate(read_yaml(self.path))
        except ValidationError as error:
            first = first_error(error)
            where = ".".join(map(str, first["loc"]))
            raise CatalogueError(f"{where}: {first['msg']}.", target=self.path.name) from None


def newest(catalogue: ImageCatalogue) -> str:
    """The newest version that is no candidate for one (`-rc1`), or the newest candidate where there is nothing else."""
    versions = catalogue.versions()
    if not versions:
        raise CatalogueError("the image catalogue holds no version.", todo="Build and push the images first.")
    return next((version for version in reversed(versions) if "-" not in version), versions[-1])


def _order(version: str) -> tuple[tuple[int, ...], bool, list[tuple[int, str]]]:
    """Numbers as numbers, and what leads up to a version (`v1.2.0-rc1`) before it, as semver.org has it."""
    number, _, candidate = version.partition("-")
    words: list[str] = re.findall(r"\d+|[A-Za-z]+", candidate)
    parts = [(int(word), "") if word.isdigit() else (-1, word) for word in words]
    return tuple(int(digits) for digits in re.findall(r"\d+", number)), not candidate, parts
