"""What is to be loaded and what is to go follows from what lies there and from what is loaded."""

from collections.abc import Iterable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from elman_server.model.repository import ModelSource, Stamp
from elman_server.serving.versions import Comparison, compare


def source(identity: str) -> ModelSource:
    name, version = identity.split("/")
    return ModelSource(name=name, version=version, path=Path(identity) / "model.onnx")


def stamp(number: int) -> Stamp:
    return Stamp(files=(("model.onnx", number, 0, 0, 0),))


def names(sources: Iterable[ModelSource]) -> list[str]:
    return [f"{each.name}/{each.version}" for each in sources]


def stamps(sources: Iterable[str], changed: Iterable[str] = ()) -> dict[ModelSource, Stamp]:
    return {source(each): stamp(each in changed) for each in sources}


def comparison(
    found: str, *, loaded: str = "", failed: str = "", changed: str = "", keep: int = 0
) -> Comparison:
    """What follows where the files of `changed` are others than those that were tried."""
    return compare(
        stamps(found.split(), changed.split()),
        loaded={source(each) for each in loaded.split()},
        tried=stamps([*loaded.split(), *failed.split()]),
        keep=keep,
    )


def test_at_first_all_that_is_there_is_loaded_the_newest_of_each_model_first() -> None:
    found = comparison("b/9 b/10 a/2 b/1")
    assert names(found.load) == ["a/2", "b/10", "b/9", "b/1"]
    assert found.current == frozenset()


def test_nothing_follows_from_what_is_loaded_already() -> None:
    found = comparison("a/1 a/2", loaded="a/1 a/2")
    assert (found.load, found.replaced) == ((), ())
    assert sorted(names(found.current)) == ["a/1", "a/2"]


def test_what_came_is_loaded_and_what_is_there_stays() -> None:
    found = comparison("a/1 a/2", loaded="a/1")
    assert (names(found.load), names(found.current)) == (["a/2"], ["a/1"])


def test_what_went_is_to_go() -> None:
    assert names(comparison("a/2", loaded="a/1 a/2").current) == ["a/2"]
    assert names(comparison("b/1", loaded="a/1 b/1").current) == ["b/1"]


def test_what_comes_back_before_it_has_gone_need_not_be_loaded() -> None:
    found = comparison("a/1", loaded="a/1")
    assert (found.load, names(found.current)) == ((), ["a/1"])


def test_what_failed_is_tried_again_only_when_it_has_changed() -> None:
    assert comparison("a/1 a/2", loaded="a/1", failed="a/2").load == ()
    found = comparison("a/1 a/2", loaded="a/1", failed="a/2", changed="a/2")
    assert names(found.load) == ["a/2"]


def test_what_was_replaced_in_place_is_told_and_neither_loaded_nor_to_go() -> None:
    found = comparison("a/1 a/2", loaded="a/1 a/2", changed="a/2")
    assert (found.load, names(found.replaced)) == ((), ["a/2"])
    assert sorted(names(found.current)) == ["a/1", "a/2"]


# With a number of versions that are kept.


def test_no_more_are_loaded_than_are_kept() -> None:
    assert names(comparison("a/1 a/2 a/3 b/1", keep=2).load) == ["a/3", "a/2", "b/1"]


def test_an_older_one_is_to_go_only_once_a_newer_one_is_loaded() -> None:
    assert names(comparison("a/1 a/2", loaded="a/1", keep=1).current) == ["a/1"]
    assert names(comparison("a/1 a/2", loaded="a/1 a/2", keep=1).current) == ["a/2"]


def test_one_that_failed_takes_nobodys_place() -> None:
    found = comparison("a/1 a/2", loaded="a/1", failed="a/2", keep=1)
    assert (found.load, names(found.current)) == ((), ["a/1"])
    assert names(comparison("a/1 a/2 a/3", failed="a/3", keep=1).load) == ["a/2"]


def test_when_the_newest_is_taken_away_the_next_is_loaded_again() -> None:
    found = comparison("a/1 a/2", loaded="a/3", keep=1)
    assert (names(found.load), names(found.current)) == (["a/2"], [])


identities = st.frozensets(
    st.builds("{}/{}".format, st.sampled_from("ab"), st.integers(1, 4)), max_size=8
)


@given(identities, identities, identities, st.integers(0, 3))
def test_loading_one_after_another_comes_to_an_end(
    there: frozenset[str], loaded_before: frozenset[str], broken: frozenset[str], keep: int
) -> None:
    """And then the newest that can be loaded are served, and no others."""
    loaded = {source(each) for each in loaded_before - broken}
    tried = stamps(loaded_before - broken)
    found = stamps(there)
    served: set[ModelSource] = set()
    for _ in range(len(there) + 1):
        compared = compare(found, loaded=loaded, tried=tried, keep=keep)
        # While newer ones are loaded there is always one of each model that was there before.
        assert {each.name for each in served} <= {each.name for each in compared.current}
        served = set(compared.current)
        if not compared.load:
            break
        first = compared.load[0]
        assert first not in loaded
        tried[first] = found[first]
        if first not in {source(each) for each in broken}:
            loaded.add(first)
    assert not compared.load
    good = sorted(there - broken, key=lambda each: int(each.split("/")[1]), reverse=True)
    expected = [
        each
        for name in "ab"
        for each in [one for one in good if one.startswith(name)][: keep or None]
    ]
    assert sorted(names(compared.current)) == sorted(expected)
