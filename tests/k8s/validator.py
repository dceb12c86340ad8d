"""Judges Kubernetes documents (a JSON list on standard input) by schema; prints a JSON list of complaints.

Runs in the environment that has `kubernetes-validate` and `jsonschema` (requirements/k8s.txt). Core kinds meet the API's own
published schemas, strict: an unknown field is an error. Custom resources meet `schemas/`, written for the fields in use after the
projects' own API references; a kind without any schema is an error too.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import jsonschema
import kubernetes_validate

VERSION = "1.37"
SCHEMAS = Path(__file__).with_name("schemas")


def complaints(document: dict[str, object]) -> list[str]:
    """What is wrong with one document."""
    name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"  # type: ignore[attr-defined]
    group, _, version = str(document.get("apiVersion")).rpartition("/")
    own = SCHEMAS / f"{group}_{version}_{document.get('kind')}.json"
    try:
        if own.exists():
            jsonschema.Draft202012Validator(json.loads(own.read_text())).validate(document)
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        return [f"{name}: {where}: {error.message[:200]}"]
    except kubernetes_validate.ValidationError as error:
        return [f"{name}: {error.message[:200]}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{name}: no schema for {document.get('apiVersion')}"]
    return []


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump([problem for document in json.load(sys.stdin) for problem in complaints(document)], sys.stdout)
