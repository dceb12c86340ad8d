"""Messages to events, actions to messages: every reply is parsed back with the compiled messages."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters import codec as codec_module
from extproc.adapters._pb import extproc_pb2 as pb
from extproc.adapters.codec import ATTRIBUTES, Codec
from extproc.adapters.structs import encode_struct, encode_value, varint
from extproc.errors import ProtocolError
from extproc.exchange.actions import (
    Answer,
    BodyMode,
    ContinueBody,
    ContinueHeaders,
    ContinueTrailers,
    HeaderChange,
    Metadata,
    Reset,
    StreamBody,
)
from extproc.exchange.events import (
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)

OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
values = st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n\0"), max_size=300)
changes = st.builds(
    HeaderChange,
    set=st.lists(st.tuples(names, values), max_size=5).map(tuple),
    remove=st.lists(names, max_size=5).map(tuple),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
metadata = st.none() | st.dictionaries(
    names, st.dictionaries(st.text(max_size=10), json_values, max_size=5), max_size=3
)


def reply(action: object, codec: Codec | None = None) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString((codec or Codec()).encode(action))  # type: ignore[arg-type]


def begin(request: int = 2, response: int = 0, **headers: str) -> bytes:
    message = pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=[]), end_of_stream=False),
        protocol_config=pb.ProtocolConfiguration(request_body_mode=request, response_body_mode=response),  # type: ignore[arg-type]
    )
    for name, value in headers.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode("latin-1"))
    return message.SerializeToString()


def mutation_of(change: HeaderChange) -> pb.HeaderMutation:
    return pb.HeaderMutation(
        set_headers=[
            pb.HeaderValueOption(
                header=pb.HeaderValue(key=name, raw_value=value.encode("latin-1")),
                append_action=OVERWRITE,
                keep_empty_value=True,
            )
            for name, value in change.set
        ],
        remove_headers=change.remove,
    )


def struct_of(given_metadata: Metadata | None) -> Struct:
    struct = Struct()
    if given_metadata:
        struct.update(given_metadata)
    return struct


# ---- decode


def test_request_headers_keep_raw_bytes_order_and_repeats() -> None:
    """Header values come from raw_value as bytes; repeats and order stay."""
    message = pb.ProcessingRequest()
    message.request_headers.end_of_stream = True
    pairs = [(":path", b"/v1"), ("x-a", b"\xff\xfe"), ("x-a", b"two"), ("x-empty", b"")]
    for key, raw in pairs:
        message.request_headers.headers.headers.add(key=key, raw_value=raw)
    event = Codec().decode(message.SerializeToString(), 12.5)
    assert isinstance(event, RequestHeaders)
    assert list(event.headers) == pairs
    assert (event.at, event.end) == (12.5, True)


def test_a_header_sent_as_value_is_read_too() -> None:
    """Where raw_value is empty the text of `value` counts."""
    message = pb.ProcessingRequest()
    message.response_headers.headers.headers.add(key=":status", value="200")
    event = Codec().decode(message.SerializeToString(), 0.0)
    assert isinstance(event, ResponseHeaders)
    assert event.headers.get(":status") == "200"


@pytest.mark.parametrize(
    ("field", "kind"), [("request_body", RequestBody), ("response_body", ResponseBody)], ids=["request", "response"]
)
@pytest.mark.parametrize("end", [False, True])
def test_bodies(field: str, kind: type, end: bool) -> None:
    """A body message carries its bytes and its end."""
    message = pb.ProcessingRequest(**{field: pb.HttpBody(body=b"\x00\xff{}", end_of_stream=end)})  # type: ignore[arg-type]
    assert Codec().decode(message.SerializeToString(), 1.0) == kind(1.0, b"\x00\xff{}", end)


@pytest.mark.parametrize(
    ("field", "kind"), [("request_trailers", RequestTrailers), ("response_trailers", ResponseTrailers)]
)
def test_trailers(field: str, kind: type) -> None:
    """Trailers are told, their content is not."""
    message = pb.ProcessingRequest(**{field: pb.HttpTrailers()})  # type: ignore[arg-type]
    assert Codec().decode(message.SerializeToString(), 1.0) == kind(1.0)


def test_attributes_are_text_whatever_their_kind() -> None:
    """Strings, numbers, bools and nulls come as text; other keys than ext_proc's are not read."""
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
    given_fields = {
        "source.address": "10.0.0.1:5",
        "source.port": 5.0,
        "ratio": 0.5,
        "tls": True,
        "off": False,
        "n": None,
    }
    message.attributes[ATTRIBUTES].update(given_fields)
    message.attributes["other"].update({"source.address": "spoofed"})
    event = Codec().decode(message.SerializeToString(), 0.0)
    assert isinstance(event, RequestHeaders)
    assert dict(event.attributes) == {
        "source.address": "10.0.0.1:5",
        "source.port": "5",
        "ratio": "0.5",
        "tls": "true",
        "off": "false",
        "n": "",
    }
    assert event.attributes.get("absent") is None
    assert len(event.attributes) == 6


def test_a_message_without_attributes_has_none() -> None:
    """No attributes is an empty mapping, and asking does not add any."""
    event = Codec().decode(begin(), 0.0)
    assert isinstance(event, RequestHeaders)
    assert dict(event.attributes) == {}


def test_the_first_message_tells_the_modes() -> None:
    """protocol_config of the first message is kept; later messages have none and change nothing."""
    codec = Codec()
    codec.decode(begin(request=2, response=4), 0.0)
    codec.decode(pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x")).SerializeToString(), 0.0)
    assert (codec.request_mode, codec.response_mode) == (BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED)


@pytest.mark.parametrize("mode", [3, 5, 17])
@pytest.mark.parametrize("request_side", [True, False])
def test_a_mode_that_cannot_be_inspected_is_refused(mode: int, request_side: bool) -> None:
    """BUFFERED_PARTIAL shows a prefix only; gRPC and unknown modes are not ours."""
    message = begin(request=mode) if request_side else begin(response=mode)
    with pytest.raises(ProtocolError, match="cannot be inspected"):
        Codec().decode(message, 0.0)


@pytest.mark.parametrize("message", [b"", pb.ProcessingRequest(observability_mode=True).SerializeToString()])
def test_a_message_of_no_phase_is_refused(message: bytes) -> None:
    """The oneof must be set."""
    with pytest.raises(ProtocolError, match="no phase"):
        Codec().decode(message, 0.0)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_protocol_error(message: bytes) -> None:
    """Nothing that arrives raises anything else."""
    try:
        event = Codec().decode(message, 3.0)
    except ProtocolError:
        return
    assert event.at == 3.0


def test_fields_that_we_do_not_declare_are_skipped() -> None:
    """A newer Envoy's additional fields do no harm."""
    unknown = b"\xa2\x06\x03abc"  # field 100
    event = Codec().decode(pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x")).SerializeToString() + unknown, 0.0)
    assert event == RequestBody(0.0, b"x", False)


# ---- encode


@pytest.mark.parametrize(
    ("action", "constant", "phase"),
    [
        (ContinueHeaders(request=True), codec_module.NOOP_REQUEST_HEADERS, "request_headers"),
        (ContinueHeaders(request=False), codec_module.NOOP_RESPONSE_HEADERS, "response_headers"),
        (ContinueBody(request=True), codec_module.NOOP_REQUEST_BODY, "request_body"),
        (ContinueBody(request=False), codec_module.NOOP_RESPONSE_BODY, "response_body"),
        (ContinueTrailers(request=True), codec_module.NOOP_REQUEST_TRAILERS, "request_trailers"),
        (ContinueTrailers(request=False), codec_module.NOOP_RESPONSE_TRAILERS, "response_trailers"),
    ],
)
def test_nothing_to_change_is_a_constant(action: object, constant: bytes, phase: str) -> None:
    """An unchanged phase costs two bytes and names its own phase."""
    assert Codec().encode(action) == constant  # type: ignore[arg-type]
    message = pb.ProcessingResponse.FromString(constant)
    assert message.WhichOneof("response") == phase
    assert message == pb.ProcessingResponse(**{phase: {}})


@given(st.booleans(), changes, metadata)
def test_headers_reply(request_side: bool, change: HeaderChange, given_metadata: Metadata | None) -> None:
    """Header mutations and metadata arrive as the compiled messages would have written them."""
    message = reply(ContinueHeaders(request=request_side, change=change, metadata=given_metadata))
    side = message.request_headers if request_side else message.response_headers
    assert message.WhichOneof("response") == ("request_headers" if request_side else "response_headers")
    assert side.response.header_mutation == mutation_of(change)
    assert message.dynamic_metadata == struct_of(given_metadata)
    assert not message.HasField("mode_override")
    assert not side.response.clear_route_cache


@given(st.booleans(), st.none() | st.binary(max_size=70_000), changes, metadata)
def test_body_reply(
    request_side: bool, data: bytes | None, change: HeaderChange, given_metadata: Metadata | None
) -> None:
    """`data` replaces the body, also by nothing; None leaves it."""
    message = reply(ContinueBody(request=request_side, data=data, change=change, metadata=given_metadata))
    assert message.WhichOneof("response") == ("request_body" if request_side else "response_body")
    common = (message.request_body if request_side else message.response_body).response
    assert common.header_mutation == mutation_of(change)
    assert common.body_mutation.WhichOneof("mutation") == (None if data is None else "body")
    assert common.body_mutation.body == (data or b"")
    assert message.dynamic_metadata == struct_of(given_metadata)


@given(st.booleans(), st.binary(max_size=300), st.booleans(), metadata)
def test_streamed_body_reply(request_side: bool, data: bytes, end: bool, given_metadata: Metadata | None) -> None:
    """A full-duplex piece is always a streamed_response, also when it is empty."""
    message = reply(StreamBody(request=request_side, data=data, end=end, metadata=given_metadata))
    mutation = (message.request_body if request_side else message.response_body).response.body_mutation
    assert mutation.WhichOneof("mutation") == "streamed_response"
    assert mutation.streamed_response == pb.StreamedBodyResponse(body=data, end_of_stream=end)
    assert message.dynamic_metadata == struct_of(given_metadata)


@given(st.integers(200, 599), changes, st.binary(max_size=300), st.text(max_size=40), metadata)
def test_answer(status: int, change: HeaderChange, body: bytes, details: str, given_metadata: Metadata | None) -> None:
    """An answer carries status, headers, body, details and metadata."""
    message = reply(Answer(status, change.set, body, details, given_metadata))
    immediate = pb.ImmediateResponse(status=pb.HttpStatus(code=status), body=body, details=details)
    if change.set:
        immediate.headers.CopyFrom(mutation_of(HeaderChange(set=change.set)))
    assert message.immediate_response == immediate
    assert message.dynamic_metadata == struct_of(given_metadata)


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1])
def test_an_answer_without_a_final_status_is_refused(status: int) -> None:
    """Envoy would turn such a status into something else."""
    with pytest.raises(ProtocolError, match="status"):
        Codec().encode(Answer(status))


@given(st.booleans(), metadata)
def test_trailers_reply(request_side: bool, given_metadata: Metadata | None) -> None:
    """Metadata may come with trailers."""
    message = reply(ContinueTrailers(request=request_side, metadata=given_metadata))
    assert message.WhichOneof("response") == ("request_trailers" if request_side else "response_trailers")
    assert message.dynamic_metadata == struct_of(given_metadata)


@pytest.mark.parametrize("kind", [ContinueHeaders, ContinueBody])
def test_reroute_needs_a_header_mutation(kind: type) -> None:
    """Envoy ignores clear_route_cache without one: the untouched call would go to the default provider."""
    with pytest.raises(ProtocolError, match="reroute"):
        Codec().encode(kind(request=True, reroute=True))
    message = reply(kind(request=True, reroute=True, change=HeaderChange(set=(("x-a", "1"),))))
    side = message.request_headers if kind is ContinueHeaders else message.request_body
    assert side.response.clear_route_cache


def test_a_mode_override_keeps_the_other_direction() -> None:
    """Envoy replaces the whole mode, so what is not meant to change is sent again; trailers end what is read."""
    codec = Codec()
    codec.decode(begin(request=2, response=0), 0.0)
    override = reply(ContinueHeaders(request=False, body_mode=BodyMode.STREAMED), codec).mode_override
    assert MessageToDict(override) == {
        "requestHeaderMode": "SEND",
        "responseHeaderMode": "SEND",
        "requestBodyMode": "BUFFERED",
        "responseBodyMode": "STREAMED",
        "requestTrailerMode": "SEND",
        "responseTrailerMode": "SEND",
    }
    assert (codec.request_mode, codec.response_mode) == (BodyMode.BUFFERED, BodyMode.STREAMED)


def test_two_overrides_add_up() -> None:
    """The second one does not take back the first."""
    codec = Codec()
    codec.decode(begin(request=2, response=2), 0.0)
    reply(ContinueHeaders(request=True, body_mode=BodyMode.NONE), codec)
    override = reply(ContinueHeaders(request=False, body_mode=BodyMode.NONE), codec).mode_override
    assert (override.request_body_mode, override.response_body_mode) == (0, 0)
    assert (override.request_trailer_mode, override.response_trailer_mode) == (
        pb.ProcessingMode.SKIP,
        pb.ProcessingMode.SKIP,
    )
    assert override.response_header_mode == pb.ProcessingMode.SEND


def test_a_reset_has_no_message() -> None:
    """The transport ends the stream instead."""
    with pytest.raises(ProtocolError, match="reset"):
        Codec().encode(Reset("provider gone"))


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b"])
def test_a_header_value_cannot_bring_another_header(value: str) -> None:
    """Line breaks and NUL end the exchange rather than reach a peer; a tab is fine."""
    with pytest.raises(ProtocolError, match="line break"):
        Codec().encode(ContinueHeaders(request=True, change=HeaderChange(set=(("x-a", value),))))
    message = reply(ContinueHeaders(request=True, change=HeaderChange(set=(("x-a", "a\tb"),))))
    assert message.request_headers.response.header_mutation.set_headers[0].header.raw_value == b"a\tb"


@pytest.mark.parametrize(("text", "raw"), [("é", b"\xe9"), ("語", "語".encode()), ("\ud800", b"?")])
def test_header_text_goes_back_as_it_came(text: str, raw: bytes) -> None:
    """Latin-1 as `Headers` decodes it; what has no place there goes as UTF-8."""
    message = reply(Answer(200, (("x-a", text),)))
    assert message.immediate_response.headers.set_headers[0].header.raw_value == raw


# ---- metadata


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=6))
def test_structs_are_what_protobuf_writes(given_values: dict[str, object]) -> None:
    """Any JSON-like value survives; writing it twice gives the same bytes."""
    coded = encode_struct(given_values)
    assert Struct.FromString(coded) == struct_of(given_values)
    assert encode_struct(given_values) == coded


def test_long_texts_and_half_surrogates_are_written() -> None:
    """A long text is not kept but written; an unpaired surrogate becomes a question mark."""
    parsed = Struct.FromString(encode_struct({"long": "x" * 5000, "half": "\ud800"}))
    assert MessageToDict(parsed) == {"long": "x" * 5000, "half": "?"}


def test_a_value_that_json_does_not_have_is_refused() -> None:
    """A mistake in a policy is a TypeError, not silent loss."""
    with pytest.raises(TypeError, match="bytes"):
        encode_value(b"raw")


@given(st.integers(0, 1 << 40))
def test_varint(number: int) -> None:
    """Seven bits a byte, lowest first."""
    coded = varint(number)
    assert sum((byte & 0x7F) << 7 * index for index, byte in enumerate(coded)) == number
    assert all(byte & 0x80 for byte in coded[:-1])
    assert not coded[-1] & 0x80
