"""Asks a ValidatingAdmissionPolicy about pods: JSON `{"policy": ..., "pods": [...]}` in, for each pod its denials out.

Runs in the environment that has `cel-python` (requirements/k8s.txt). As the API server does, it evaluates each validation with the
pod as `object`; an expression that cannot be evaluated denies, since the policy fails closed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import celpy


def denials(policy: dict[str, Any], pod: dict[str, Any]) -> list[str]:
    """The messages of the validations that a pod does not meet."""
    assert policy["spec"]["failurePolicy"] == "Fail"
    environment = celpy.Environment()
    found = []
    for rule in policy["spec"]["validations"]:
        program = environment.program(environment.compile(rule["expression"]))
        try:
            met = bool(program.evaluate({"object": celpy.json_to_cel(pod)}))
        except celpy.CELEvalError:
            met = False
        if not met:
            found.append(rule["message"])
    return found


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump([denials(asked["policy"], pod) for pod in asked["pods"]], sys.stdout)
