"""The options of a list or a delete that the API server refuses before it looks at any object."""

from __future__ import annotations

import json
from typing import Any

from nexus_ops.sandbox.kube.errors import ApiError, Cause, invalid

GROUP = "meta.k8s.io"


def check_delete_options(options: dict[str, Any]) -> None:
    """Refuse DeleteOptions that contradict themselves or name what there is not."""
    causes: list[Cause] = []
    policy = options.get("propagationPolicy")
    if policy is not None and options.get("orphanDependents") is not None:
        text = f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be both set'
        causes.append(Cause("propagationPolicy", text))
    elif policy not in (None, "Foreground", "Background", "Orphan"):
        text = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
        causes.append(Cause("propagationPolicy", text, "FieldValueNotSupported"))
    dry = options.get("dryRun") or []
    if any(item != "All" for item in dry):
        shown = ", ".join(f'"{item}"' for item in dry)
        text = f'Unsupported value: []string{{{shown}}}: supported values: "All"'
        causes.append(Cause("dryRun", text, "FieldValueNotSupported"))
    if causes:
        raise invalid("DeleteOptions", GROUP, "", causes)


def check_write_options(query: Any, kind: str) -> None:
    """Refuse CreateOptions, UpdateOptions or PatchOptions (`kind`) that cannot be meant."""
    causes: list[Cause] = []
    if query.get("dryRun") not in (None, "", "All"):
        text = f'Unsupported value: []string{{"{query["dryRun"]}"}}: supported values: "All"'
        causes.append(Cause("dryRun", text, "FieldValueNotSupported"))
    manager: str = query.get("fieldManager") or ""
    if len(manager) > 128:
        causes.append(Cause("fieldManager", "Too long: may not be more than 128 bytes", "FieldValueTooLong"))
    for place, letter in enumerate(manager):
        if not letter.isprintable():
            what = f"invalid character U+{ord(letter):04X} (at position {place})"
            causes.append(Cause("fieldManager", f"Invalid value: {json.dumps(manager)}: {what}"))
            break
    if (level := query.get("fieldValidation")) not in (None, "", "Ignore", "Warn", "Strict"):
        text = f'Unsupported value: "{level}": supported values: "Ignore", "Strict", "Warn"'
        causes.append(Cause("fieldValidation", text, "FieldValueNotSupported"))
    if causes:
        raise invalid(kind, GROUP, "", causes)


def check_list_options(query: Any) -> None:
    """Refuse ListOptions that cannot be meant."""
    limit, version, match = query.get("limit"), query.get("resourceVersion"), query.get("resourceVersionMatch")
    if limit and not limit.lstrip("-").isdigit():
        raise ApiError(400, f'strconv.ParseInt: parsing "{limit}": invalid syntax')
    if query.get("sendInitialEvents") is not None:
        text = "Forbidden: sendInitialEvents is forbidden for list"
        raise invalid("ListOptions", GROUP, "", [Cause("sendInitialEvents", text, "FieldValueForbidden")])
    if not match:
        if query.get("continue") and version not in (None, "", "0"):
            raise ApiError(400, "specifying resource version is not allowed when using continue")
        return
    causes: list[Cause] = []
    if not version:
        text = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        causes.append(Cause("resourceVersionMatch", text, "FieldValueForbidden"))
    if query.get("continue"):
        text = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
        causes.append(Cause("resourceVersionMatch", text, "FieldValueForbidden"))
    if match not in ("Exact", "NotOlderThan"):
        text = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
        causes.append(Cause("resourceVersionMatch", text, "FieldValueNotSupported"))
    elif match == "Exact" and version == "0":
        text = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        causes.append(Cause("resourceVersionMatch", text, "FieldValueForbidden"))
    if causes:
        raise invalid("ListOptions", GROUP, "", causes)
