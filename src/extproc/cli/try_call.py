"""`extproc try`: one streamed call through the running gateway, told step by step.

Goes the way an app goes that only has HTTPS_PROXY and our CA: CONNECT, TLS with the intercepted name, the vendor's wire.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from extproc.cli.output import FAILED, OK, add_json, fail, print_json, say
from extproc.cli.place import BUNDLE, CA_FOLDER, FIRST_KEY, add_place, state_folder
from extproc.errors import ConfigError

NAME: Final = "try"
HELP: Final = "make one call through the gateway and explain it step by step"
LOG_NAME: Final = "extproc.log"

_VENDORS: Final = {
    "openai": ("api.openai.com", "/v1/chat/completions", "gpt-4o-mini"),
    "anthropic": ("api.anthropic.com", "/v1/messages", "claude-haiku-4-5"),
}
_TIMEOUT: Final = 60.0


@dataclass(slots=True)
class Told:
    """What the call showed."""

    status: int = 0
    error: str = ""
    issuer: str = ""
    connect_ms: float = 0.0
    first_byte_ms: float = 0.0
    total_ms: float = 0.0
    chunks: int = 0
    text: str = ""
    body: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--api", choices=tuple(_VENDORS), default="openai", help="whose API to call (default: openai)")
    parser.add_argument("--model", help="model or alias (default: a small one of the vendor)")
    parser.add_argument("--prompt", default="Say hello in one short sentence.", help="what to say")
    parser.add_argument(
        "--proxy", default="127.0.0.1:3128", help="the gateway's CONNECT entry (default: 127.0.0.1:3128)"
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help=f"file of the key (default: {FIRST_KEY} of the state folder)"
    )
    add_place(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Call; 0 if the provider answered 200."""
    state = state_folder(args)
    host, path, default = _VENDORS[args.api]
    model = args.model or default
    since = datetime.now(UTC)
    try:
        key = _read(args.key or state / FIRST_KEY, "make one: extproc keys create, or start with extproc up").strip()
        bundle = state / CA_FOLDER / BUNDLE
        _read(bundle, "is the state folder right (--state)? extproc up makes the bundle")
        say(f"1. The app trusts {bundle} and holds one of our keys ({key[:14]}…); it knows no vendor key.")
        say(f"2. HTTPS_PROXY={args.proxy}: CONNECT {host}:443, then TLS for {host}, ended by the gateway.")
        told = _call(args, (host, path), _payload(args.api, model, args.prompt), key)
    except ConfigError as error:
        return fail(error, as_json=args.json)
    except OSError as error:
        return fail(
            ConfigError(args.proxy, f"no call: {error}", "is the gateway running? extproc up"), as_json=args.json
        )
    _explain(told, model)
    record = _record(state / LOG_NAME, model, since)
    if record:
        say("6. On record (log line of the worker):")
        say("   " + json.dumps(record, ensure_ascii=False))
    if args.json:
        print_json({**{name: getattr(told, name) for name in Told.__slots__}, "record": record})
    return OK if told.status == http.client.OK else FAILED


def _read(path: Path, hint: str) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", hint) from None


def _payload(api: str, model: str, prompt: str) -> bytes:
    body: dict[str, object] = {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    if api == "anthropic":
        body["max_tokens"] = 200
    return json.dumps(body).encode()


def _call(args: argparse.Namespace, where: tuple[str, str], body: bytes, key: str) -> Told:
    host, path = where
    told = Told()
    context = ssl.create_default_context(cafile=str(state_folder(args) / CA_FOLDER / BUNDLE))
    proxy, _, port = args.proxy.rpartition(":")
    connection = http.client.HTTPSConnection(proxy, int(port), timeout=_TIMEOUT, context=context)
    connection.set_tunnel(host, 443)
    began = time.perf_counter()
    connection.connect()
    told.connect_ms = (time.perf_counter() - began) * 1000
    certificate = connection.sock.getpeercert()
    told.issuer = _name(certificate)
    credential = {"x-api-key": key, "anthropic-version": "2023-06-01"} if args.api == "anthropic" else {}
    headers = {"content-type": "application/json", "x-llm-feature": "try"} | (
        credential or {"authorization": f"Bearer {key}"}
    )
    sent = time.perf_counter()
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    told.status = response.status
    told.error = response.headers.get("x-llm-error", "")
    for line in response:
        if not told.first_byte_ms:
            told.first_byte_ms = (time.perf_counter() - sent) * 1000
        told.chunks += line.startswith(b"data:")
        told.text += "".join(_deltas(line))
        if told.status != http.client.OK:
            told.body += line.decode("utf-8", "replace")
    told.total_ms = (time.perf_counter() - sent) * 1000
    connection.close()
    return told


def _name(certificate: object) -> str:
    issuer = certificate.get("issuer", ()) if isinstance(certificate, dict) else ()
    return ", ".join(value for part in issuer for kind, value in part if kind == "commonName")


def _deltas(line: bytes) -> Iterator[str]:
    if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
        return
    event = json.loads(line[5:])
    for choice in event.get("choices", ()):
        yield choice.get("delta", {}).get("content") or ""
    yield event.get("delta", {}).get("text", "") if event.get("type") == "content_block_delta" else ""


def _explain(told: Told, model: str) -> None:
    say(f"3. TLS in {told.connect_ms:.1f} ms; the certificate is from {told.issuer!r}.")
    say(f"4. The policy stage knew the key, allowed {model}, and sent the call on with the provider's own key.")
    if told.status == http.client.OK:
        say(
            f"5. {told.status}: first byte after {told.first_byte_ms:.1f} ms, {told.chunks} events,"
            f" {told.total_ms:.1f} ms in all:"
        )
        print(told.text)
        return
    whose = f" ({told.error})" if told.error else ""
    say(f"5. {told.status}{whose}: {told.body.strip()}")


def _record(log: Path, model: str, since: datetime) -> dict[str, object]:
    """The newest record of our own call; a record is written when Envoy has closed the stream, a moment later."""
    began = since.isoformat()
    for _ in range(20):
        lines = log.read_text().splitlines()[-200:] if log.is_file() else []
        for line in reversed(lines):
            found: dict[str, object] = json.loads(line) if line.startswith("{") else {}
            fits = found.get("requested_model") == model and str(found.get("timestamp", "")) >= began
            if found.get("event") == "exchange" and fits:
                return found
        time.sleep(0.1)
    return {}
