"""`extproc try`: one streamed call through the running gateway, told step by step.

Goes the way an app goes that only has HTTPS_PROXY and our CA: CONNECT, TLS with the intercepted name, the vendor's wire.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import time
from collections import defaultdict
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
_NO_KEY: Final = (
    f"`extproc up` makes it with the key file; a further key: extproc keys create --team TEAM --app APP > {FIRST_KEY},"
    " then --key"
)
# whose fault a refusal is: the first word of `x-llm-error`
_WHOSE: Final = defaultdict(
    lambda: "see the error",
    caller="something is wrong with the key or the request",
    policy="gateway.yaml does not allow this call",
    gateway="it could not handle the call; its logs say why",
)


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


@dataclass(frozen=True, slots=True)
class Request:
    """The one call."""

    api: str
    host: str
    path: str
    key: str
    body: bytes

    def headers(self) -> dict[str, str]:
        """Its headers: the key where the vendor's SDK puts it, and a label."""
        common = {"content-type": "application/json", "x-llm-feature": "try"}
        if self.api == "anthropic":
            return {**common, "x-api-key": self.key, "anthropic-version": "2023-06-01"}
        return {**common, "authorization": f"Bearer {self.key}"}


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
        proxy = split_proxy(args.proxy)
        bundle = state / CA_FOLDER / BUNDLE
        _read(bundle, "start the gateway with `extproc up`, which makes it, or name its state folder with --state")
        key = _read(args.key or state / FIRST_KEY, _NO_KEY).strip()
        say(f"1. The app trusts {bundle} and holds one of our keys ({key[:14]}…); it knows no vendor key.")
        say(f"2. HTTPS_PROXY={args.proxy}: CONNECT {host}:443, then TLS for {host}, ended by the gateway.")
        told = _call(proxy, bundle, Request(args.api, host, path, key, _payload(args.api, model, args.prompt)))
    except ConfigError as error:
        return fail(error, as_json=args.json)
    except (OSError, http.client.HTTPException) as error:
        return fail(_no_call(args.proxy, error), as_json=args.json)
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


def split_proxy(address: str) -> tuple[str, int]:
    """Host and port of the CONNECT entry. Raises `ConfigError`."""
    host, _, port = address.removeprefix("http://").removesuffix("/").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError("--proxy", f"{address!r} is not HOST:PORT", "for example --proxy 127.0.0.1:3128")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _no_call(proxy: str, error: Exception) -> ConfigError:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not from the CA of this state folder: {error.verify_message}"
        return ConfigError(proxy, reason, "is this the gateway of another state folder? Name that with --state")
    if isinstance(error, ConnectionRefusedError):
        return ConfigError(proxy, "nobody listens here", "start the gateway with `extproc up`; another port: --proxy")
    said = str(error) or type(error).__name__
    return ConfigError(proxy, f"the call broke off: {said}", "is this the gateway's CONNECT entry? Its logs say more")


def _payload(api: str, model: str, prompt: str) -> bytes:
    body: dict[str, object] = {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    if api == "anthropic":
        body["max_tokens"] = 200
    return json.dumps(body).encode()


def _call(proxy: tuple[str, int], bundle: Path, request: Request) -> Told:
    told = Told()
    context = ssl.create_default_context(cafile=str(bundle))
    connection = http.client.HTTPSConnection(*proxy, timeout=_TIMEOUT, context=context)
    connection.set_tunnel(request.host, 443)
    began = time.perf_counter()
    connection.connect()
    told.connect_ms = (time.perf_counter() - began) * 1000
    certificate = connection.sock.getpeercert()
    told.issuer = _name(certificate)
    sent = time.perf_counter()
    connection.request("POST", request.path, request.body, request.headers())
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
    if told.status == http.client.OK:
        say(f"4. The policy stage knew the key, allowed {model}, and sent the call on with the provider's own key.")
        say(
            f"5. {told.status}: first byte after {told.first_byte_ms:.1f} ms, {told.chunks} events,"
            f" {told.total_ms:.1f} ms in all:"
        )
        print(told.text)
        return
    if told.error and not told.error.startswith("provider_"):
        say(f"4. The gateway answered in the provider's place: {_WHOSE[told.error.partition('_')[0]]}.")
    else:
        say(f"4. The policy stage let the call to {model} through; the provider did not do it.")
    whose = f" ({told.error})" if told.error else ""
    say(f"5. {told.status}{whose}: {told.body.strip()}")


def _record(log: Path, model: str, since: datetime) -> dict[str, object]:
    """The newest record of our own call; a record is written when Envoy has closed the stream, a moment later."""
    began = since.isoformat()
    for _ in range(20):
        lines = log.read_text().splitlines()[-200:] if log.is_file() else []
        for line in reversed(lines):
            found = _parsed(line)
            fits = found.get("requested_model") == model and str(found.get("timestamp", "")) >= began
            if found.get("event") == "exchange" and fits:
                return found
        time.sleep(0.1)
    return {}


def _parsed(line: str) -> dict[str, object]:
    """A log line; empty where it is no JSON object, as in the console format, or half written."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
