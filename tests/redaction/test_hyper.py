"""The one pass: what it reports, in which offsets, in how many threads, and from which store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.redaction import hyper
from extproc.redaction.hyper import Database, Expression, ExpressionError, Hits, encodable, literal, needs_utf8, refusal


class Store:
    """Keeps what it is given; can be made to forget or to spoil it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.puts = 0

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data
        self.puts += 1


WORDS = (
    Expression(0, r"\b[0-9]{3}\b"),
    Expression(1, r"(?<!x)foo", caseless=True),
    Expression(2, r"\d{2,}"),
    Expression(3, r"bar", single=True),
    Expression(4, r"\w+@\w+"),
)


def test_ends_are_offsets_in_characters():
    """Every offset at which a match may end, ascending, each once."""
    hits = Database(WORDS).scan("123 foo FOO 45 bar bar")

    assert hits == Hits({0: [3], 1: [7, 11], 2: [2, 3, 14], 3: [18]})


def test_characters_outside_ascii_count_as_one():
    """Two, three and four bytes of UTF-8, combining marks and lone surrogates do not shift what follows."""
    before = "\u00e9\u20ac\U0001f600a\u0301\ud800 "
    hits = Database(WORDS).scan(before + "123 foo")

    assert [len(before) + 3] == hits.ends[0]
    assert [len(before) + 7] == hits.ends[1]


def test_what_has_no_match_is_no_key():
    """An empty text and one without a match give nothing; no expressions find nothing."""
    assert Hits({}) == Database(WORDS).scan("")
    assert Hits({}) == Database(WORDS).scan("- - -")
    assert Hits({}) == Database([]).scan("123")


@given(
    st.text(alphabet="ab1\u0663\u00e9\u0301\u3000 x-@\u212aFfo_\ud800", max_size=40),
)
def test_it_never_reports_less_than_regex_finds(text):
    """Whatever `regex` matches ends at a reported offset, in any script."""
    ends = DATABASE.scan(text).ends
    for expression in WORDS:
        compiled = regex.compile(expression.pattern, regex.IGNORECASE if expression.caseless else 0)
        found = {match.end() for match in compiled.finditer(text, overlapped=True)}
        assert found <= set(ends.get(expression.id, ())) or (expression.single and bool(found) == (3 in ends))


DATABASE = Database(WORDS)


def test_expressions_may_mean_ascii():
    """As in RE2: beside a letter outside ASCII there is an end of a word, and only ASCII digits are digits."""
    narrow = Database([Expression(7, r"\bfoo\b", unicode=False), Expression(8, r"\d", unicode=False)])

    assert {7: [4]} == narrow.scan("\u00e9foo\u00e9 \u0663").ends
    assert {7: [4]} == narrow.scan("\u212afoo").ends


def test_expressions_may_ignore_case_as_re2_does():
    """The Kelvin sign is a `k` where case is ignored."""
    narrow = Database([Expression(7, "kilo", caseless=True, unicode=False)])

    assert [4] == narrow.scan("\u212ailo").ends[7]


def test_expressions_may_name_any_character():
    """A term in another script is found in its own offsets, beside others."""
    database = Database([Expression(1, literal("M\u00fcller"), caseless=True), Expression(2, "ok")])

    assert {1: [9], 2: [2]} == database.scan("ok \u20acM\u00dcLLER"[:2] + " M\u00dcLLER").ends
    assert needs_utf8(Expression(1, r"\p{Lu}"))
    assert not needs_utf8(Expression(1, r"\x41\d"))


def test_too_many_matches_leave_existence_only():
    """Past the cap it is told which expressions match, not where: none is forgotten."""
    hits = Database(WORDS).scan("123 " * 3000 + "bar")

    assert Hits({0: [], 2: [], 3: []}, complete=False) == hits


def test_the_cap_grows_with_the_text():
    """A long text may have more matches, in proportion."""
    sparse = ("123" + " " * 197) * 3000

    assert Database(WORDS).scan(sparse).complete


def test_store_saves_compiling():
    """A second database of the same expressions compiles nothing, others have keys of their own."""
    store = Store()
    Database(WORDS, store)
    puts = store.puts
    second = Database(WORDS, store)

    assert puts == store.puts == len(store.kept)
    assert [3] == second.scan("123").ends[0]
    Database(WORDS[:2], store)
    assert store.puts == 2 * puts


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda data: data[:-9], lambda data: b"\0" * len(data)])
def test_damaged_bytes_are_compiled_anew(spoil):
    """What cannot be read back is as good as absent, and replaced."""
    store = Store()
    Database(WORDS, store)
    whole = dict(store.kept)
    for key, data in whole.items():
        store.kept[key] = spoil(data)

    assert [3] == Database(WORDS, store).scan("123").ends[0]
    assert whole.keys() == store.kept.keys()
    assert all(store.kept[key] != spoil(data) for key, data in whole.items())


def test_another_version_has_other_keys(monkeypatch):
    """A store that outlives an upgrade of Hyperscan, or moves to another machine, is not read."""
    store = Store()
    Database(WORDS, store)
    monkeypatch.setattr(hyper, "platform", lambda: "another")
    before = set(store.kept)
    Database(WORDS, store)

    assert len(store.kept) == 2 * len(before)


def test_many_threads_scan_at_a_time():
    """Scratch space is per thread: all get the same answer."""
    texts = ["123 foo " * count + "\u00e9" * (count % 2) for count in range(1, 60)]
    expected = [DATABASE.scan(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert expected == list(pool.map(DATABASE.scan, texts))


def test_wrong_expressions_are_refused():
    """By number, with Hyperscan's reason; ids are unique."""
    with pytest.raises(ExpressionError, match="expression 5: ") as caught:
        Database([Expression(4, "fine"), Expression(5, "(unclosed")])
    assert 5 == caught.value.id
    assert caught.value.reason
    with pytest.raises(ValueError, match="same id"):
        Database([Expression(1, "a"), Expression(1, "b")])
    assert refusal(Expression(1, "(unclosed"))
    assert refusal(Expression(1, r"(?<!a)b(?!c)")) is None


@settings(max_examples=20)  # every one compiles two databases
@given(st.text(min_size=1, max_size=8, alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_literals_match_themselves(text):
    """Whatever signs they hold."""
    hits = Database([Expression(1, literal(text))]).scan(f"- {text} -")

    assert 2 + len(text) in hits.ends[1]


def test_encodable_keeps_length():
    """Surrogates are replaced one for one; other texts are the same object."""
    text = "a\ud800b\ud83d\ude00"

    assert "a\ufffdb\ufffd\ufffd" == encodable(text)
    whole = "\u00e9"
    assert encodable(whole) is whole
