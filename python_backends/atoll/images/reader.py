"""The bytes of an encoded image, or a data URI, to a picture; never a file or a URL.

What a header says is checked before anything is decoded: a few kilobytes may be gigabytes of
pixels. The picture is that of transformers' ``load_image``: turned as EXIF says, in RGB.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from atoll.errors import EmptyInputError, ValidationError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# Several pictures in one JPEG, as some cameras write; the first is the photo.
_JPEG_WITH_MORE = "MPO"
_DATA, _BASE64, _WHITESPACE = b"data:", b";base64", b" \t\r\n"
# Beginnings of what other servers fetch or open.
_ADDRESSES = (b"http:", b"https:", b"ftp:", b"file:", b"s3:", b"gs:")
# What Pillow's readers raise for files that are cut off or damaged.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip


class ImageLimits(NamedTuple):
    """Of one image: encoded bytes, and decoded pixels."""

    max_bytes: int
    max_pixels: int


def read_image(name: str, given: bytes, limits: ImageLimits) -> Image:
    """The picture, in RGB.

    Args:
        name: how errors call it. given: an encoded image, or a data URI of one.

    Raises:
        EmptyInputError: there are no bytes.
        ValidationError: it is none of FORMATS, beyond the limits, animated or damaged, or it names
            a place where an image is.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    encoded = _encoded(name, given, limits)
    try:
        found = Image.open(BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unknown(name, encoded) from None
    except Image.DecompressionBombError:
        raise ValidationError(
            f"{name} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; max_image_pixels is "
            f"{limits.max_pixels}"
        ) from None
    except _DAMAGED as error:
        raise _damaged(name, error) from error
    width, height = found.size
    if width * height > limits.max_pixels:
        raise ValidationError(
            f"{name} has {width} x {height} pixels; max_image_pixels is {limits.max_pixels}"
        )
    try:
        count = getattr(found, "n_frames", 1)
        if count > 1 and found.format != _JPEG_WITH_MORE:
            raise ValidationError(
                f"{name} is an animated {found.format} with {count} frames; expected one"
            )
        turned: Image.Image = ImageOps.exif_transpose(found)
        return turned.convert("RGB")
    except _DAMAGED as error:
        raise _damaged(name, error) from error


def _encoded(name: str, given: bytes, limits: ImageLimits) -> bytes:
    """The image's own bytes, within the limit."""
    if not given:
        raise EmptyInputError(f"{name} is empty")
    is_uri = given[: len(_DATA)].lower() == _DATA
    header, comma, text = given.partition(b",") if is_uri else (b"", b"", b"")
    # Four characters of base64 are three bytes.
    size = len(text) // 4 * 3 - text[-2:].count(b"=") if is_uri else len(given)
    if size > limits.max_bytes:
        raise ValidationError(f"{name} has {size} bytes; max_image_bytes is {limits.max_bytes}")
    if not is_uri:
        return given
    if not comma or not header.lower().endswith(_BASE64):
        raise ValidationError(
            f"{name} is {_shown(header)}; expected data:image/<format>;base64,<base64>"
        )
    try:
        found = base64.b64decode(text.translate(None, _WHITESPACE), validate=True)
    except binascii.Error as error:
        raise ValidationError(f"{name} is a data URI whose base64 is not valid: {error}") from None
    if not found:
        raise EmptyInputError(f"{name} is a data URI without data")
    return found


def _unknown(name: str, encoded: bytes) -> ValidationError:
    """What is wrong with bytes that no reader takes."""
    if encoded.lstrip()[:6].lower().startswith(_ADDRESSES):
        return ValidationError(
            f"{name} is the address {_shown(encoded)}; images are never fetched: send the bytes of "
            "the file, or a data URI"
        )
    if len(encoded) < 4096 and encoded.isascii() and b"\0" not in encoded:
        return ValidationError(
            f"{name} is the text {_shown(encoded)}; files are never opened: send the bytes of the "
            "image, or a data URI (data:image/png;base64,...)"
        )
    return ValidationError(
        f"{name} has no complete header of one of the formats {', '.join(FORMATS)}; it begins with "
        f"{_shown(encoded[:12])}"
    )


def _damaged(name: str, error: Exception) -> ValidationError:
    reason = str(error).strip() or type(error).__name__
    return ValidationError(f"{name} is damaged or cut off: {reason:.200}")


def _shown(value: bytes) -> str:
    text = repr(value[:80])[1:]
    return f"{text}..." if len(value) > 80 else text
