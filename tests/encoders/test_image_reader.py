"""Images that are refused: each by the name of its field, its value and the limit."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from tiny.towers import data_uri, encoded, picture

from atoll.errors import EmptyInputError, ValidationError
from atoll.images.processor import ImageProcessor, Scaling
from atoll.images.reader import ImageLimits, read_image

LIMITS = ImageLimits(max_bytes=40_000, max_pixels=10_000)
PNG = encoded(picture(60, 60))
JPEG = encoded(picture(60, 60), "JPEG")


def _with_size(png: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header, whose checksum is right."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def _animated(kind: str) -> bytes:
    frames = [picture(9, 9, seed) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


REFUSED: dict[str, tuple[bytes, str]] = {
    "a page": (b"https://example.com/cat.png", "address 'https://example.com/cat.png'; .*never"),
    "a file": (b"/etc/passwd", "text '/etc/passwd'; files are never opened"),
    "a file's address": (b"file:///etc/passwd", "never fetched"),
    "base64 alone": (data_uri(PNG).partition(",")[2][:400].encode(), "data URI"),
    "another format": (
        encoded(picture(9, 9), "BMP"),
        "no complete header .*PNG, JPEG, WEBP, GIF",
    ),
    "nonsense": (bytes(range(256)), "begins with"),
    "no base64": (b"data:image/png,abc", "expected data:image/<format>;base64"),
    "broken base64": (b"data:image/png;base64,iVBOR*", "base64 is not valid"),
    "too many bytes": (PNG + bytes(40_000), "max_image_bytes is 40000"),
    "too many bytes in base64": (data_uri(PNG + bytes(40_000)).encode(), "max_image_bytes is"),
    "too many pixels": (encoded(picture(200, 60)), "200 x 60 pixels; max_image_pixels is 10000"),
    "a bomb": (_with_size(PNG, 100_000, 100_000), "max_image_pixels is 10000"),
    "cut off png": (PNG[: len(PNG) // 2], "damaged or cut off"),
    "cut off jpeg": (JPEG[: len(JPEG) // 2], "damaged or cut off"),
    "a header alone": (PNG[:40], "no complete header"),
    "animated gif": (_animated("GIF"), "animated GIF with 3 frames"),
    "animated png": (_animated("PNG"), "animated PNG with 3 frames"),
    "animated webp": (_animated("WEBP"), "animated WEBP with 3 frames"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(ValidationError, match=message) as raised:
        read_image("image[3]", given, LIMITS)
    assert str(raised.value).startswith("image[3] ")


@pytest.mark.parametrize("given", [b"", b"data:image/png;base64,"])
def test_empty(given: bytes) -> None:
    with pytest.raises(EmptyInputError, match=r"image\[0\] is"):
        read_image("image[0]", given, LIMITS)


def test_a_data_uri_is_its_image() -> None:
    wrapped = data_uri(PNG).encode()
    lines = b"\n".join(wrapped[i : i + 76] for i in range(0, len(wrapped), 76))
    ours = read_image("image", PNG, LIMITS)
    for given in (wrapped, lines, wrapped.replace(b"data:image", b"DATA:image")):
        assert read_image("image", given, LIMITS).tobytes() == ours.tobytes()


def test_every_damage_is_an_error_of_the_request() -> None:
    """Of a file with a changed byte anywhere, a picture or an error that names the field."""
    for image in (PNG, JPEG, encoded(picture(30, 30), "WEBP"), encoded(picture(9, 9), "GIF")):
        for at in range(0, len(image), max(1, len(image) // 60)):
            damaged = image[:at] + bytes([image[at] ^ 0x5A]) + image[at + 1 :]
            try:
                read_image("image[0]", damaged, LIMITS)
            except ValidationError as error:
                assert str(error).startswith("image[0] ")


def test_a_narrow_image_does_not_grow_beyond_the_limit(tmp_path: Path) -> None:
    """Of a pixel's width, whose shorter side would become 224: 224 times as many, and more."""
    scaling = Scaling(1.0, (0.0,) * 3, (1.0,) * 3)
    processor = ImageProcessor(32, 8, 32, None, (32, 32), 3, scaling)
    narrow = encoded(picture(1, 2000))
    with pytest.raises(ValidationError, match="2048000, and max_image_pixels is 10000"):
        processor.patches("image[0]", narrow, LIMITS)
