"""The datagrams are what their protocols ask for."""

from __future__ import annotations

from dataclasses import replace

from extproc.roads import resolvers
from extproc.roads.road import Outcome, Target
from roads.conftest import HOST


def test_a_question_is_a_dns_query():
    """RFC 1035: an id, recursion desired, one question, labels, type A, class IN."""
    query = resolvers.question("api.vendor.example")
    assert query[2:12] == b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    assert query[12:] == b"\x03api\x06vendor\x07example\x00\x00\x01\x00\x01"
    assert query[:2] != resolvers.question("api.vendor.example")[:2] or query[:2] != resolvers.question("x")[:2]


def test_an_initial_packet_elicits_versions():
    """RFC 9000: long header, a version that nobody has (0x?a?a?a?a), ids of eight bytes, 1200 bytes."""
    packet = resolvers.initial()
    assert len(packet) == 1200
    assert packet[0] & 0xC0 == 0xC0
    assert all(byte & 0x0F == 0x0A for byte in packet[1:5])
    assert (packet[5], packet[14]) == (8, 8)


def test_every_resolver_is_asked_on_every_road(scope):
    """Plain by UDP and TCP, over TLS and QUIC, over HTTPS; QUIC to every target; NTP also to public clocks."""
    counts = {road.name: len(list(road.attempts(scope))) for road in resolvers.ROADS}
    assert counts == {"dns-udp": 2, "dns-tcp": 2, "dot": 4, "doh": 2, "quic": 4, "other-udp": 4, "icmp": 2}


def test_packets_that_servers_of_their_kind_answer():
    """NTP: version 4, mode client, 48 bytes. STUN: a binding request without attributes, the cookie, a transaction id."""
    assert (len(resolvers.time_request()), resolvers.time_request()[0]) == (48, 0x23)
    assert resolvers.binding()[:8] == b"\x00\x01\x00\x00\x21\x12\xa4\x42"
    assert len(resolvers.binding()) == 20


def test_a_vendor_without_an_address_is_not_tried_by_quic(scope):
    """Said, by each version of IP; the host that is not listed is tried all the same."""
    (road,) = (one for one in resolvers.ROADS if one.name == "quic")
    lost = replace(scope, vendors=(Target(HOST),))
    found = [one.run() for one in road.attempts(lost) if one.tried.startswith(f"QUIC to {HOST}")]
    assert [one.outcome for one in found] == [Outcome.NOT_TRIED] * 2
