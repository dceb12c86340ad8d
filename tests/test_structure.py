"""The shape of the repository: budgets, arrows, tests that mirror the code, files that must and must not be there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "extproc"
GENERATED = "_pb"
MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS = 400, 50, 5
BROAD = {"Exception", "BaseException"}
MAY_CATCH_ALL = {"adapters/grpc_server.py", "bootstrap.py"}
# (file, function) that takes more arguments, and why
MANY_ARGUMENTS = {
    ("errors.py", "__init__"): "a refusal has one value each for the wire, the caller and the operator",
    ("adapters/metrics.py", "__init__"): "one argument a metric family",
}
PURE = ("exchange", "policies", "dialects", "redaction", "pricing", "config", "limits")
FORBIDDEN = {"asyncio", "socket", "time", "random", "logging", "os", "grpc", "google"}
# rooms of the core from top to bottom; what stands on one line does not import its neighbours
LAYERS = (
    ("policies",),
    ("exchange", "redaction", "pricing", "config"),
    ("dialects",),
    ("text", "limits"),
    ("errors", "usage"),
)
# modules without a test module of their own name, and where their tests are
ELSEWHERE = {
    "config/checks.py": "config/test_load.py: every check is seen through the loader",
    "config/document.py": "config/test_load.py",
    "config/model.py": "config/test_load.py",
    "config/problems.py": "config/test_load.py",
    "config/providers.py": "config/test_load.py",
    "config/versions.py": "config/test_load.py",
    "dialects/anthropic_count_tokens.py": "dialects/test_anthropic.py",
    "dialects/anthropic_errors.py": "golden/test_errors.py",
    "dialects/anthropic_messages.py": "dialects/test_anthropic.py",
    "dialects/anthropic_models.py": "policies/test_models.py",
    "dialects/checks.py": "test_bad_input.py: a row for every field",
    "dialects/counting.py": "recorded/test_dialects.py: the vendors' own usage objects",
    "dialects/dialect.py": "dialects/test_registry.py: declarations",
    "dialects/models.py": "policies/test_models.py",
    "dialects/openai_embeddings.py": "test_bad_input.py",
    "dialects/openai_errors.py": "golden/test_errors.py",
    "dialects/openai_models.py": "policies/test_models.py",
    "dialects/openai_usage.py": "dialects/test_openai_chat.py",
    "dialects/reading.py": "property/test_bytes.py: any bytes in any cut",
    "dialects/request.py": "dialects/test_openai_chat.py",
    "exchange/actions.py": "exchange/test_machine.py: declarations",
    "exchange/draft.py": "exchange/test_machine.py",
    "exchange/effects.py": "exchange/test_machine.py: declarations",
    "exchange/events.py": "exchange/test_machine.py: declarations",
    "exchange/facts.py": "exchange/test_record.py: declarations",
    "exchange/policy.py": "exchange/test_machine.py",
    "exchange/setup.py": "exchange/test_machine.py: declarations",
    "limits/counters.py": "policies/test_quota.py: declarations",
    "pricing/rates.py": "pricing/test_cost.py",
}
# tests whose statement is that nothing is raised
NO_ASSERTION = {
    "test_pki.py::test_strict_client_accepts": "a handshake that fails raises",
    "test_pki.py::test_wildcard_and_long_name": "a handshake that fails raises",
}
MUST_EXIST = (
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", ".ci/run", "pyproject.toml", "gateway.yaml",
    "k8s/README.md", "envoy/bootstrap.yaml", "docs/adr", "docs/config.md", "docs/envoy.md", "docs/metrics.md",
    "proto/extproc.proto", "requirements/runtime.txt", "requirements/dev.txt", "requirements/envoy.txt",
)  # fmt: skip
BINARY = {".png", ".gz", ".zst", ".ico", ".bin", ".npz"}


def sources() -> list[Path]:
    """Every module that people write."""
    return sorted(path for path in SOURCE.rglob("*.py") if GENERATED not in path.parts)


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports(path: Path) -> set[str]:
    """Modules that are imported at any level of the file, by their full names."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def tracked() -> tuple[Path, ...]:
    """Files that are or will be committed; empty outside a checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        return ()
    files = (ROOT / line for line in listed.stdout.splitlines())
    return tuple(path for path in files if path.is_file() and path.suffix not in BINARY)


def test_files_are_short():
    """400 lines at most."""
    lengths = {name(path): len(path.read_text().splitlines()) for path in sources()}

    assert {} == {path: lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert len(lengths) > 50


def test_functions_are_short():
    """50 lines at most."""
    long = [
        (name(path), node.name, node.end_lineno - node.lineno + 1)
        for path in sources()
        for node in functions(path)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    ]

    assert [] == long


def test_functions_take_few_arguments():
    """Five at most, `self` and `cls` aside; the exceptions are named."""
    many = set()
    for path in sources():
        for node in functions(path):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if len([one for one in given if one.arg not in ("self", "cls")]) > MAX_ARGUMENTS:
                many.add((name(path), node.name))

    assert set(MANY_ARGUMENTS) == many


def test_nothing_is_global():
    """No `global` statement."""
    assert [] == [
        name(path) for path in sources() if any(isinstance(node, ast.Global) for node in ast.walk(tree(path)))
    ]


def test_only_the_edges_catch_everything():
    """A broad `except` anywhere else hides bugs, or opens the gate."""
    broad = set()
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = {one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)} if node.type else BROAD
                if caught & BROAD:
                    broad.add(name(path))

    assert broad <= MAY_CATCH_ALL


@pytest.mark.parametrize("room", PURE)
def test_the_core_reads_no_clock_and_does_no_io(room):
    """By its own imports, at any depth of a file."""
    for path in (SOURCE / room).rglob("*.py"):
        assert not {module.partition(".")[0] for module in imports(path)} & FORBIDDEN, name(path)


def test_imports_of_the_core_point_down():
    """And neighbours do not know each other."""
    level = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    for room, number in level.items():
        path = SOURCE / room
        for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            for module in imports(file):
                parts = module.split(".")
                if parts[0] != "extproc" or len(parts) < 2 or parts[1] == room:
                    continue
                assert level.get(parts[1], -1) > number, f"{name(file)} imports {module}"


def test_protobuf_is_known_to_the_codec_and_its_neighbours_only():
    """Generated classes stay in the adapters."""
    for path in sources():
        if any(f".{GENERATED}" in module for module in imports(path)):
            assert name(path).startswith("adapters/")


PROBE = """
import sys, threading, importlib, json
before = set(sys.modules)
names = json.loads(sys.stdin.read())
for one in names:
    importlib.import_module(one)
assert threading.active_count() == 1, threading.enumerate()
assert "genai_prices" not in sys.modules, "slow to import: only where it is used"
"""


def test_every_module_can_be_imported_without_warning_or_effect(tmp_path):
    """No thread, no output, no file in the working folder; the price tables are loaded where they are needed."""
    modules = [
        ".".join(("extproc", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sources()
        if path.name != "__main__.py"
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE], input=json.dumps(modules), text=True, capture_output=True,
        cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert [] == list(tmp_path.iterdir())


def test_the_core_is_quick_to_import():
    """A worker that was killed is back soon: the core alone, by the CPU time of a fresh interpreter."""
    code = "import time; t=time.process_time(); import extproc.exchange.machine; print(time.process_time()-t)"
    seconds = min(
        float(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
        )
        for _ in range(3)
    )

    assert seconds < 1.0


def test_every_module_of_the_core_has_tests_of_its_name_or_says_where_they_are():
    """`src/extproc/<room>/<module>.py` is tested by `tests/<room>/test_<module>.py`."""
    missing = []
    for room in PURE:
        for path in sorted((SOURCE / room).glob("*.py")):
            own = ROOT / "tests" / room / f"test_{path.stem}.py"
            if path.name != "__init__.py" and not own.exists() and name(path) not in ELSEWHERE:
                missing.append(name(path))

    assert [] == missing


def test_the_exceptions_are_true():
    """A named place exists, and names no module that has tests of its own or is gone."""
    for module, where in ELSEWHERE.items():
        room, _, file = module.partition("/")
        assert (ROOT / "tests" / where.partition(":")[0]).exists(), module
        assert not (ROOT / "tests" / room / f"test_{file}").exists(), f"{module} has its own tests by now"
        assert (SOURCE / module).exists(), f"{module} is gone"


def test_every_test_asserts_something():
    """By itself, or by a helper of the same file that does, or by an expected exception."""
    idle = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        found = ast.parse(path.read_text())
        checkers = {
            node.name
            for node in ast.walk(found)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _asserts(node, set())
        } | {"refused", "forwarded"}
        idle += [
            f"{path.name}::{node.name}"
            for node in ast.walk(found)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
            and not _asserts(node, checkers)
        ]

    assert sorted(NO_ASSERTION) == sorted(idle)


def _asserts(node: ast.AST, checkers: set[str]) -> bool:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assert):
            return True
        if isinstance(inner, ast.Call):
            called = inner.func.attr if isinstance(inner.func, ast.Attribute) else getattr(inner.func, "id", "")
            if called in checkers or called in ("raises", "fail"):
                return True
    return False


@pytest.mark.parametrize("path", MUST_EXIST)
def test_what_a_newcomer_looks_for_is_there(path):
    """Not empty either."""
    found = ROOT / path

    assert found.exists()
    assert any(found.glob("*.md")) if found.is_dir() else found.stat().st_size > 0


def test_no_file_names_a_package_registry_or_a_machine():
    """Locks and docs work wherever the packages come from."""
    host = re.compile(
        r"(?:https?://[\w.-]*(?:pypi|artifactory|nexus|simple/)|--(?:extra-)?index-url|--trusted-host\s)", re.IGNORECASE
    )
    folder = re.compile(r"(?<![\w.$}{/])/(?:work|home/\w+|Users/\w+)/")
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if host.search(line) or folder.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")

    assert [] == found


def test_nothing_is_left_to_be_done_later():
    """No marks in files that are committed."""
    mark = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if mark.search(line)
    ]

    assert [] == found
    assert tracked() or not (ROOT / ".git").exists()


def test_no_file_holds_a_live_looking_secret():
    """Keys in tests are made at run time."""
    secret = re.compile(
        r"\b(?:sk-|exk-)(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}|\bAKIA[A-Z0-9]{16}\b|BEGIN [A-Z ]*PRIVATE KEY-----(?:\\n|$)"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if path != Path(__file__) and secret.search(line)
    ]

    assert [] == found
