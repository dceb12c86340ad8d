from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.fleet import spread


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[int | None], list[int]]:
    ready = draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    owners: list[int | None] = [*ready[: draw(st.integers(0, len(ready)))]]
    owners += [None] * draw(st.integers(0, 5))
    return draw(st.permutations(owners)), ready


@given(fleets())
def test_every_name_stands_for_its_owner_or_a_ready_worker(fleet: tuple[list[int | None], list[int]]) -> None:
    """An owner keeps its name; an ownerless one goes to some ready worker as soon as there is any."""
    owners, ready = fleet

    chosen = spread(owners, ready)

    for owner, one in zip(owners, chosen, strict=True):
        assert one == owner if owner is not None else (one in ready if ready else one is None)


@given(fleets())
def test_stand_ins_share_the_load(fleet: tuple[list[int | None], list[int]]) -> None:
    """No stand-in gets a second name more than another ready worker has."""
    owners, ready = fleet

    chosen = spread(owners, ready)

    loads = [chosen.count(one) for one in ready]
    stand_ins = [chosen.count(one) for owner, one in zip(owners, chosen, strict=True) if owner is None]
    if ready and stand_ins:
        assert max(stand_ins) <= min(loads) + 1
