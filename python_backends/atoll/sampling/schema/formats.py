"""Formats of strings, as patterns that match only valid texts."""

from __future__ import annotations

from collections.abc import Mapping

_LEAP = "(?:[0-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
_ZONE = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,3}}\\.[a-z]{{2,12}}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = f"{_BYTE}(?:\\.{_BYTE}){{3}}"
_HEX = "[0-9a-f]{1,4}"
_IPV6 = "|".join(
    [
        f"(?:{_HEX}:){{7}}{_HEX}",
        *(f"(?:{_HEX}:){{{n}}}(?::{_HEX}){{1,{7 - n}}}" for n in range(1, 7)),
        f":(?::{_HEX}){{1,7}}", "::",
    ]
)  # fmt: skip
_PATH = "[A-Za-z0-9._~!$&'()*+,;=:@/-]"
_URI = f"[a-z][a-z0-9+.-]{{0,15}}://{_HOST}(?::[1-9][0-9]{{0,3}})?(?:/{_PATH}*)?(?:\\?{_PATH}*)?(?:#{_PATH}*)?"
_AMOUNT = "[0-9]{1,9}"
_DAYS = f"(?:{_AMOUNT}Y(?:{_AMOUNT}M)?(?:{_AMOUNT}D)?|{_AMOUNT}M(?:{_AMOUNT}D)?|{_AMOUNT}D)"
_TIME = f"T(?:{_AMOUNT}H(?:{_AMOUNT}M(?:{_AMOUNT}S)?)?|{_AMOUNT}M(?:{_AMOUNT}S)?|{_AMOUNT}S)"

FORMATS: Mapping[str, str] = {
    "date": _DATE,
    "time": f"{_CLOCK}{_ZONE}",
    "date-time": f"{_DATE}T{_CLOCK}{_ZONE}",
    "duration": f"P(?:{_DAYS}(?:{_TIME})?|{_TIME}|{_AMOUNT}W)",
    "email": f"[A-Za-z0-9_+-]{{1,16}}(?:\\.[A-Za-z0-9_+-]{{1,16}}){{0,3}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "uri": _URI,
}
# OpenAPI's formats of numbers: (bits, is signed), or None if unbounded.
NUMBER_FORMATS: Mapping[str, tuple[int, int] | None] = {
    "int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1), "uint8": (0, 2**8 - 1), "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1), "uint64": (0, 2**64 - 1), "float": None, "double": None,
}  # fmt: skip


def pattern_of(name: str) -> str | None:
    """An anchored pattern; None for a format that is not known."""
    found = FORMATS.get(name)
    return None if found is None else f"^(?:{found})$"
