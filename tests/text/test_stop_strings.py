"""Stop strings in a text that comes in pieces: found at once, and nothing else held for long."""

import random

import pytest

from atoll.text.stop_strings import StopStrings


def fed(stops: StopStrings, pieces: list[str]) -> list[list[str]]:
    """The pieces that each one lets out, up to the one that ends the text."""
    out: list[list[str]] = []
    for piece in pieces:
        out.append(stops.push(piece))
        if stops.found is not None:
            break
    return out


@pytest.mark.parametrize("include", [False, True])
def test_one_that_spans_pieces(include: bool) -> None:
    stops = StopStrings(["END"], include)
    assert fed(stops, ["a E", "N", "ow EN", "D", "more"]) == [
        [], [], ["a E", "N"], ["ow EN", "D"] if include else ["ow ", ""]
    ]  # fmt: skip
    assert stops.found == "END"
    assert stops.push("more") == [""] and stops.finish() == []


def test_what_was_held_is_given_at_the_end() -> None:
    stops = StopStrings(["\n\n", "User:"])
    assert fed(stops, ["answer\n", "Use"]) == [[], ["answer\n"]]
    assert stops.finish() == ["Use"] and stops.found is None


def test_the_first_and_of_those_the_longest_counts() -> None:
    for order in (["ab", "abc", "c"], ["c", "abc", "ab"]):
        stops = StopStrings(order, include=True)
        assert fed(stops, ["xabc"]) == [["xabc"]] and stops.found == "abc"


def test_no_stops_hold_nothing() -> None:
    stops = StopStrings([])
    assert fed(stops, ["a", "b"]) == [["a"], ["b"]] and stops.finish() == []


def test_one_that_ends_within_the_first_tokens_is_text() -> None:
    """With min_tokens 60, an answer ended after 58."""
    stops = StopStrings(["ab"], min_tokens=3)
    assert fed(stops, ["ab", "a", "b", "ab", "x"]) == [["ab"], [], ["a", "b"], [""]]
    over_the_end = StopStrings(["ab"], min_tokens=1)
    assert fed(over_the_end, ["xa", "b"]) == [[], ["x", ""]] and over_the_end.found == "ab"


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
            given += "".join(stops.push(text[end - 1]))
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
            assert given + "".join(stops.finish()) == text
