"""The cache of findings: the right ones or none, in the memory that was given, and never a text."""

import gc
import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.cache import FindingCache
from extproc.text import Finding

VERSION = b"0123456789abcdef"
KEY = b"a key of this process"
FOUND = (Finding("PERSON", 0, 4, 0.9, "names"), Finding("EMAIL_ADDRESS", 5, 9, 1.0, "Email"))
TEXT = "Anna a@b."


@pytest.fixture
def cache():
    return FindingCache(100_000, KEY)


def test_a_text_is_known_after_it_was_put(cache):
    """And not before; what was found in it is the same."""
    assert cache.get(VERSION, TEXT) is None

    cache.put(VERSION, TEXT, FOUND)

    assert FOUND == cache.get(VERSION, TEXT)
    assert (1, 1, 0) == (cache.hits, cache.misses, cache.evictions)


def test_nothing_found_is_known_too(cache):
    """No finding is not the same as not looked at."""
    cache.put(VERSION, "clean", ())

    assert () == cache.get(VERSION, "clean")
    assert cache.get(VERSION, "other") is None


def test_another_version_or_text_is_another_entry(cache):
    """Texts that differ in a lone surrogate too, which other encodings would take for the same."""
    cache.put(VERSION, "a\ud800", ())

    assert cache.get(VERSION[::-1], "a\ud800") is None
    assert cache.get(VERSION, "a\ud801") is None
    assert cache.get(VERSION, "a?") is None


def test_the_digests_depend_on_the_key():
    """Whoever reads the memory cannot look known texts up without it."""
    names = []
    for key in (b"one", b"two"):
        cache = FindingCache(1000, key)
        cache.put(VERSION, TEXT, FOUND)
        names += cache._entries

    assert names[0] != names[1]


def test_no_text_is_kept(cache):
    """Only digests, numbers, and the names of kinds and rules."""
    cache.put(VERSION, TEXT, FOUND)

    seen, todo = set(), [cache._entries]
    while todo:
        for one in gc.get_referents(todo.pop()):
            if isinstance(one, str | bytes):
                seen.add(one)
            elif isinstance(one, tuple | dict):
                todo.append(one)

    digests = {one for one in seen if isinstance(one, bytes)}
    assert {"PERSON", "EMAIL_ADDRESS", "names", "Email"} == seen - digests
    assert [16] == [len(one) for one in digests]


@pytest.mark.parametrize(
    "findings",
    [
        list(FOUND),
        (("PERSON", 0, 4, 0.9, "names"),),
        (Finding("PERSON", 0.0, 4, 0.9),),
        (Finding("PERSON", False, 4, 0.9),),
        None,
    ],
)
def test_what_is_not_a_tuple_of_findings_raises(cache, findings):
    """Nothing that could change later is kept."""
    with pytest.raises(TypeError):
        cache.put(VERSION, TEXT, findings)

    assert 0 == len(cache)


@pytest.mark.parametrize("spans", [((0, 10),), ((-1, 2),), ((3, 3),), ((2, 4), (3, 5)), ((5, 6), (0, 1))])
def test_findings_that_are_not_in_the_text_or_not_in_order_raise(cache, spans):
    """They would be edits in the wrong place."""
    with pytest.raises(ValueError, match="findings are in order"):
        cache.put(VERSION, TEXT, tuple(Finding("PERSON", start, end, 1.0) for start, end in spans))


def test_an_entry_of_another_text_raises_instead_of_being_used(cache):
    """A digest that stands for two texts cannot be, and is not believed."""
    cache.put(VERSION, TEXT, FOUND)
    ((name, _),) = cache._entries.items()
    cache._entries[name] = (Finding("PERSON", 0, len(TEXT) + 1, 1.0),)

    with pytest.raises(ValueError, match="not in its text"):
        cache.get(VERSION, TEXT)


def test_a_version_has_16_bytes(cache):
    """BLAKE2 would fill a shorter one up, and take two for one."""
    with pytest.raises(ValueError, match="16 bytes"):
        cache.get(b"short", TEXT)
    with pytest.raises(ValueError, match="16 bytes"):
        cache.put(VERSION + b"x", TEXT, ())


@pytest.mark.parametrize(("size", "key"), [(-1, KEY), (100, b""), (100, b"x" * 65)])
def test_bounds_of_the_constructor(size, key):
    """A negative size, no key, and a key that BLAKE2 does not take."""
    with pytest.raises(ValueError, match="a cache of"):
        FindingCache(size, key)


def test_a_cache_without_room_keeps_nothing():
    """Not even a moment; and an entry that is larger than everything does not push the others out."""
    nothing = FindingCache(0, KEY)
    nothing.put(VERSION, TEXT, FOUND)
    small = FindingCache(500, KEY)
    small.put(VERSION, "clean", ())
    small.put(VERSION, "x" * 100, tuple(Finding("PERSON", at, at + 1, 1.0) for at in range(100)))

    assert nothing.get(VERSION, TEXT) is None
    assert (0, 0) == (nothing.bytes, len(nothing))
    assert () == small.get(VERSION, "clean")
    assert small.get(VERSION, "x" * 100) is None


texts = st.sampled_from([f"text {number}" for number in range(12)])
steps = st.lists(st.tuples(st.booleans(), texts, st.integers(0, 5)), max_size=60)


@given(steps, st.integers(0, 4000))
def test_the_least_recently_used_goes_first(done, room):
    """The same as a plain model of such a cache, and never more bytes than were given."""
    cache = FindingCache(room, KEY)
    model: OrderedDict[str, tuple[Finding, ...]] = OrderedDict()
    evicted = 0
    for put, text, count in done:
        if put:
            findings = tuple(Finding("PERSON", at, at + 1, 1.0) for at in range(count))
            cache.put(VERSION, text, findings)
            model.pop(text, None)
            if size({text: findings}) <= room:
                model[text] = findings
            while size(model) > room:
                model.popitem(last=False)
                evicted += 1
        else:
            assert model.get(text) == cache.get(VERSION, text)
            if text in model:
                model.move_to_end(text)
        assert (size(model), len(model), evicted) == (cache.bytes, len(cache), cache.evictions)
        assert cache.bytes <= room


def size(entries) -> int:
    """What the entries are counted as, by a cache with room for all of them."""
    roomy = FindingCache(10**9, KEY)
    for text, findings in entries.items():
        roomy.put(VERSION, text, findings)
    return roomy.bytes


@pytest.mark.parametrize("count", [0, 1, 10])
def test_bytes_are_counted_honestly(count):
    """At least what the interpreter says that the entries take, and at most twice that."""
    names = [f"text number {number}" + "." * 40 for number in range(3000)]
    gc.collect()
    tracemalloc.start()
    try:
        cache = FindingCache(10**9, KEY)
        before, _ = tracemalloc.get_traced_memory()
        for name in names:
            found = tuple(Finding("PERSON", 300 + at, 301 + at, at / 10 + 0.01, "names") for at in range(count))
            cache.put(VERSION, name + " " * 400, found)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert taken <= cache.bytes <= 2 * taken
