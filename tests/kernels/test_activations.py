"""Activations have one number each, in Python, C++ and Triton-lang."""

import re

from atoll_kernels.activation import ACTIVATIONS, BY_NAME, Activation
from atoll_kernels.cpu.native.build import SOURCES


def test_the_numbers_of_the_native_kernels() -> None:
    found = re.search(
        r"enum Activation : int64_t \{([^}]*)\}", (SOURCES / "epilogue.h").read_text()
    )
    assert found
    names = [name.strip().removeprefix("k") for name in found[1].split(",")]
    assert names == [kind.name.title().replace("_", "") for kind in Activation]
    assert [kind.value for kind in Activation] == list(range(len(names)))


def test_every_name_has_a_number_and_every_pointwise_one_a_function() -> None:
    assert set(BY_NAME) == {None, "gpt_oss", *ACTIVATIONS} and set(BY_NAME.values()) == set(
        Activation
    )
