"""Packs of any records, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from feedbus.records.ids import Ids
from feedbus.records.packs import Pack

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)
NAMES = st.sampled_from(["id", "followerId", "text", "flag", "note", "stranger"])


@st.composite
def packs(
    draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES, values: st.SearchStrategy[Any] = VALUES
) -> Pack:
    """Return any records with the same fields, some with shared values."""
    count = draw(st.integers(1, 5))
    shared = draw(st.dictionaries(names, values, max_size=4))
    columns = draw(
        st.dictionaries(
            names.filter(lambda name: name not in shared),
            st.lists(values, min_size=count, max_size=count),
            max_size=4,
        )
    )
    origins = draw(st.one_of(st.just("o"), st.lists(names, min_size=count, max_size=count)))
    if not isinstance(origins, str) and len(set(origins)) == 1:
        origins = origins[0]
    ids = Ids(origins, list(range(count)))
    return Pack(ids, [str(i) for i in range(count)], shared, columns)
