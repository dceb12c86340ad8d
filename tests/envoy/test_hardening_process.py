"""What holds for the whole of Envoy: the overload manager, the admin interface, rapid resets; and what has no line at all."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envoy.hardening import alive, get, h2_client, only_read_bodies, say
from envoy.plain import SHIPPED, Plain, prepare, running
from envoy.ways import wait_for
from extproc.adapters.envoy_files import Node, find_resource, http_managers, read_yaml
from extproc.policies import scrub

pytestmark = pytest.mark.envoy

MANY = 4  # connections, where a test caps them
ACTIONS = "overload.envoy.overload_actions."
RESETS = 600  # more than `premature_reset_total_stream_count`


def local(bootstrap: Node) -> None:
    """Let `base_url` answer by itself: the policy stage is not here."""
    listener = find_resource(bootstrap["static_resources"]["listeners"], "base_url", Path())
    (manager,) = http_managers(listener)
    del manager["rds"]
    manager["access_log"] = []
    only_read_bodies(manager)
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "local"}}}]
    manager["route_config"] = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}


def full(bootstrap: Node) -> None:
    """The heap is over its limit: the limit is one byte."""
    monitors = bootstrap["overload_manager"]["resource_monitors"]
    (heap,) = [one for one in monitors if one["name"].endswith("fixed_heap")]
    heap["typed_config"]["max_heap_size_bytes"] = 1


def few(bootstrap: Node) -> None:
    """Few connections are allowed."""
    monitors = bootstrap["overload_manager"]["resource_monitors"]
    (cap,) = [one for one in monitors if one["name"].endswith("max_connections")]
    cap["typed_config"]["max_active_downstream_connections"] = MANY


def without_action(*names: str) -> Callable[[Node], None]:
    """Take overload actions away; they must be there."""

    def change(bootstrap: Node) -> None:
        manager = bootstrap["overload_manager"]
        kept = [one for one in manager["actions"] if one["name"].removeprefix("envoy.overload_actions.") not in names]
        assert len(kept) == len(manager["actions"]) - len(names)
        manager["actions"] = kept

    return change


def bare(bootstrap: Node) -> None:
    """Without the lines of the bootstrap itself."""
    del bootstrap["admin"]["allow_paths"], bootstrap["overload_manager"]
    layer = bootstrap["layered_runtime"]["layers"][0]["static_layer"]
    layer["overload.premature_reset_total_stream_count"] = 100000
    bootstrap["admin"]["address"]["socket_address"]["address"] = "0.0.0.0"


@contextlib.contextmanager
def envoy(folder: Path, *changes: Callable[[Node], None]) -> Iterator[Plain]:
    """Envoy with a `base_url` that answers by itself, and these changes."""

    def change(bootstrap: Node, _clusters: Node) -> None:
        for one in (local, *changes):
            one(bootstrap)

    with running(prepare(folder, change)) as plain:
        yield plain


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """As shipped, but for the number of connections."""
    with envoy(tmp_path_factory.mktemp("shipped"), few) as plain:
        yield plain


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """Without any of these lines."""
    with envoy(tmp_path_factory.mktemp("weak"), bare) as plain:
        yield plain


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """Over its heap, as shipped."""
    with envoy(tmp_path_factory.mktemp("crowded"), full) as plain:
        yield plain


# ---- overload -------------------------------------------------------------------------------------------------------


def held_open(plain: Plain) -> int:
    """Open more connections than `MANY`, one after the other; how many get an answer."""
    answers = 0
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MANY):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", plain.ports["base_url"]), 5))
            sock.settimeout(2)
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                answers += sock.recv(4096).startswith(b"HTTP/1.1 200")
    return answers


def test_connections_are_capped(shipped: Plain, weak: Plain) -> None:
    """A connection over the cap is closed at once, those that are open go on; without the monitor there is no cap."""
    assert held_open(shipped) == MANY
    assert held_open(weak) == 2 * MANY
    assert wait_for(lambda: get(shipped.ports["base_url"]).status == 200)


def test_a_full_heap_takes_no_connection_and_gives_memory_back(crowded: Plain) -> None:
    """Over the heap limit nobody is let in, and Envoy gives freed memory back; the admin interface still answers."""
    names = ("shrink_heap", "stop_accepting_requests", "stop_accepting_connections")
    assert wait_for(lambda: all(crowded.stats(ACTIONS + name).get(f"{ACTIONS}{name}.active") for name in names))
    assert wait_for(lambda: crowded.stats(ACTIONS + "shrink_heap").get(ACTIONS + "shrink_heap.shrink_count", 0) > 0, 15)
    assert get(crowded.ports["base_url"]).status == 0
    assert alive(crowded)


def test_each_overload_action_is_what_holds(tmp_path: Path, weak: Plain) -> None:
    """Over the heap limit: without the last action a call is let in and is 503; without all of them it is answered."""
    with envoy(tmp_path, full, without_action("shrink_heap", "stop_accepting_connections")) as plain:
        active = f"{ACTIONS}stop_accepting_requests.active"
        assert wait_for(lambda: plain.stats(active).get(active))
        answer = get(plain.ports["base_url"])
        assert (answer.status, answer.body) == (503, b"envoy overloaded")
        assert not plain.stats(ACTIONS + "shrink_heap")
    assert get(weak.ports["base_url"]).status == 200


# ---- rapid reset ----------------------------------------------------------------------------------------------------


def survives_resets(plain: Plain) -> bool:
    """Whether a connection that opens and resets many streams is still served."""
    with h2_client(plain.ports["base_url"]) as client:
        try:
            for _ in range(RESETS):
                number = client.head("POST", end=False)
                client.conn.reset_stream(number)
                client.flush()
            number = client.head()
            client.flush()
        except ConnectionError:
            return False
        return client.answered(number)


def test_rapid_resets_end_the_connection(shipped: Plain, weak: Plain) -> None:
    """CVE-2023-44487: 500 streams reset at once and the connection is gone; without the number it goes on."""
    assert not survives_resets(shipped)
    assert alive(shipped)
    assert survives_resets(weak)


# ---- admin ----------------------------------------------------------------------------------------------------------


def admin(plain: Plain, path: str, host: str = "127.0.0.1") -> int:
    """POST to the admin port; the status, 0 where nobody listens."""
    url = f"http://{host}:{plain.ports['admin']}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_the_admin_interface_changes_nothing(shipped: Plain, weak: Plain) -> None:
    """What changes a running Envoy is refused; with the list taken away it is there. Reading and draining are allowed."""
    for path in ("/runtime_modify?a=1", "/logging?level=error", "/cpuprofiler?enable=n", "/reset_counters"):
        assert admin(shipped, path) == 403, path
    assert admin(shipped, "/quitquitquit") == 403
    assert alive(shipped)
    assert admin(weak, "/logging?level=error") == 200
    for path in ("/stats?filter=^http", "/stats/prometheus", "/clusters", "/config_dump?include_eds", "/ready"):
        with urllib.request.urlopen(f"http://127.0.0.1:{shipped.ports['admin']}{path}", timeout=5) as answer:
            assert answer.status == 200, path
    assert admin(shipped, "/healthcheck/fail") == 200
    assert admin(shipped, "/healthcheck/ok") == 200


def test_the_admin_interface_is_on_loopback(shipped: Plain, weak: Plain) -> None:
    """No other address of this machine answers; 127.0.0.2 stands for one."""
    assert read_yaml(SHIPPED / "bootstrap.yaml")["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert admin(shipped, "/healthcheck/ok", "127.0.0.2") == 0
    assert admin(weak, "/healthcheck/ok", "127.0.0.2") == 200


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"x y: 1", b"x\x00y: 1", b"x\x7fy: 1", b"x(y: 1", b": 1", b"x\xc3\xa9: 1", b"x: a\x00b", b" x: folded", b"x : 1"],
)
def test_a_field_that_is_none_is_refused(shipped: Plain, line: bytes) -> None:
    """RFC 9110 section 5: a name is a token, a value has no NUL; Envoy's codec answers 400 by itself."""
    request = b"GET / HTTP/1.1\r\nhost: a\r\n" + line + b"\r\nconnection: close\r\n\r\n"
    assert say(shipped.ports["base_url"], request).status == 400
    good = b"GET / HTTP/1.1\r\nhost: a\r\nx-y: 1\r\nconnection: close\r\n\r\n"
    assert say(shipped.ports["base_url"], good).status == 200


def test_the_inner_hop_takes_all_that_the_policy_stage_takes() -> None:
    """The two lists agree: what is scrubbed by name is on the inner hop's list too, by name or by a prefix."""
    managers = http_managers(read_yaml(SHIPPED / "bootstrap.yaml"))
    hops = [one for one in managers if str(one["stat_prefix"]).startswith("egress_")]
    assert len(hops) == 2
    for hop in hops:
        (clean,) = [one for one in hop["http_filters"] if one["name"] == "llm.clean"]
        items = clean["typed_config"]["mutations"]["request_mutations"]
        exact = {item["remove"] for item in items if "remove" in item}
        prefixes = tuple(i["remove_on_match"]["key_matcher"]["prefix"] for i in items if "remove_on_match" in i)
        names = scrub.CREDENTIALS | scrub._OTHERS
        assert {name for name in names if name not in exact and not name.startswith(prefixes)} == set()
        assert all(prefix.startswith(prefixes) for prefix in scrub._PREFIXES)
