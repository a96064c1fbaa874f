"""Stop strings in a text that comes in pieces: found at once, and nothing else held for long."""

import random

import pytest

from atoll.text.detokenizer import StopStrings


def fed(stops: StopStrings, pieces: list[str]) -> list[str]:
    """What each piece lets out, up to the one that ends the text."""
    out = []
    for piece in pieces:
        out.append(stops.push(piece))
        if stops.found is not None:
            break
    return out


@pytest.mark.parametrize("include", [False, True])
def test_one_that_spans_pieces(include: bool) -> None:
    stops = StopStrings(["END"], include)
    assert fed(stops, ["a E", "N", "ow EN", "D", "more"]) == [
        "a ", "", "ENow ", "END" if include else ""
    ]  # fmt: skip
    assert stops.found == "END"
    assert stops.push("more") == "" and stops.finish() == ""


def test_what_was_held_is_given_at_the_end() -> None:
    stops = StopStrings(["\n\n", "User:"])
    assert fed(stops, ["answer\n", "Use"]) == ["answer", "\n"]
    assert stops.finish() == "Use" and stops.found is None


def test_the_first_and_of_those_the_longest_counts() -> None:
    for order in (["ab", "abc", "c"], ["c", "abc", "ab"]):
        stops = StopStrings(order, include=True)
        assert fed(stops, ["xabc"]) == ["xabc"] and stops.found == "abc"


def test_no_stops_hold_nothing() -> None:
    stops = StopStrings([])
    assert fed(stops, ["a", "b"]) == ["a", "b"] and stops.finish() == ""


@pytest.mark.parametrize("include", [False, True])
def test_random_texts(include: bool) -> None:
    """Letter by letter: the text ends at the first place where a stop string does; until then, all
    is given out but the longest end that may begin one."""
    generator = random.Random(2)
    for _ in range(500):
        stop = ["".join(generator.choices("ab", k=generator.randint(1, 4))) for _ in range(3)]
        text = "".join(generator.choices("abc", k=12))
        stops, given = StopStrings(stop, include), ""
        for end in range(1, len(text) + 1):
            given += stops.push(text[end - 1])
            hits = [s for s in stop if text[:end].endswith(s)]
            if hits:
                longest = max(hits, key=len)
                assert stops.found == longest
                assert given == text[: end if include else end - len(longest)]
                break
            assert stops.found is None
            starts = [
                n for n in range(1, end + 1) for s in stop if s.startswith(text[end - n : end])
            ]
            assert given == text[: end - max(starts, default=0)]
        else:
            assert given + stops.finish() == text
