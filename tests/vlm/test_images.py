"""Images from anywhere become upright RGB, or an error that says what is wrong with them; none is decoded unbounded."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxlm.errors import MediaError
from mlxlm.processors.images import open_image
from mlxlm.processors.messages import MediaPolicy, Source

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, format="PNG", **more) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **more)
    return out.getvalue()


def halves(mode="RGB", left=RED, right=BLUE):
    image = Image.new(mode, (8, 4), left)
    image.paste(right, (4, 0, 8, 4))
    return image


def pixels(source, **policy):
    return np.asarray(open_image(source, MediaPolicy(**policy) if policy else None))


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    image = halves()
    data, expected = encoded(image), np.asarray(image)
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    escaped = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    floats = np.array(image, np.float32) / 255
    files = (io.BytesIO(data), path.open("rb"))
    sources = (str(path), path, f"file://{path}", uri, escaped, data, bytearray(data), *files, image,
                expected, np.moveaxis(expected, -1, 0), floats, expected.astype(np.int64))
    for source in sources:
        assert (pixels(source) == expected).all()


def test_modes_of_images():
    grey = Image.linear_gradient("L").resize((16, 16))
    assert (pixels(encoded(grey)) == np.asarray(grey)[..., None]).all()
    clear = Image.new("RGBA", (4, 2), (*RED, 255))
    clear.paste((0, 0, 0, 0), (2, 0, 4, 2))
    assert pixels(encoded(clear))[0].tolist() == [list(RED)] * 2 + [list(WHITE)] * 2
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert abs(int(pixels(encoded(half))[0, 0, 0]) - 127) <= 1
    palette = halves().convert("P", palette=Image.Palette.ADAPTIVE)
    assert (pixels(encoded(palette)) == np.asarray(halves())).all()
    index = palette.getpixel((0, 0))
    assert pixels(encoded(palette, transparency=index))[0, 0].tolist() == list(WHITE)
    assert pixels(encoded(palette, "GIF"))[0, 7].tolist() == list(BLUE)
    assert (pixels(encoded(Image.new("1", (4, 4), 1))) == 255).all()
    assert (pixels(encoded(Image.new("LA", (2, 2), (90, 255)))) == 90).all()
    cmyk = pixels(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"))
    assert cmyk[0, 0, 0] > 200 and cmyk[0, 0, 1] < 60


def test_deep_grey_keeps_its_range():
    x = (np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4)
    for source in (encoded(Image.fromarray(x)), encoded(Image.fromarray(x), "TIFF"), x):
        assert (pixels(source)[..., 0] == np.round(x / 257)).all()
    assert pixels(encoded(Image.fromarray(x.astype(np.float32)), "TIFF"))[..., 0].max() == 255


def test_photos_are_turned_upright():
    wide = halves()
    for orientation, turn in ((3, 180), (6, 270), (8, 90)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (pixels(encoded(wide, exif=exif)) == np.asarray(wide.rotate(turn, expand=True))).all()


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    for format in ("GIF", "WEBP", "PNG"):
        more = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **more)
        assert pixels(data)[0, 0].tolist() == list(RED)
    moved = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    moved.seek(1)
    assert pixels(moved)[0, 0].tolist() == list(RED)


def bomb(width, height) -> bytes:
    """A PNG of a few bytes that says it is as large."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("source, problem", [
    (b"", "empty"),
    (b"not an image", "no image that can be read"),
    (encoded(halves(), "JPEG")[:100], "no image|damaged"),
    (encoded(Image.new("RGB", (400, 400), RED))[:-200], "damaged"),
    (bomb(100_000, 100_000), "too many pixels"),
    ("/no/such/file.png", "not there"),
    ("/dev/zero", "not a regular file"),
    ("/tmp", "not a regular file"),
    ("data:image/png;base64,%%%", "base64"),
    ("data:image/png", "not a data URI"),
    ("gopher://example.com/a", "only http and https"),
    ("", "not an image"),
    (None, "not an image"),
    (7, "not an image"),
    ({"a": 1}, "not an image"),
    (np.zeros((2, 2, 7)), "not an image"),
    (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    (np.full((2, 2, 3), 3.5), "from 0 to 1"),
    (np.full((2, 2, 3), np.nan), "from 0 to 1"),
    (np.full((2, 2, 3), 300), "from 0 to 255"),
    (np.array([["a", "b"]]), "not an image"),
    ("x" * 5000, "file"),
    ("a\0b", "file"),
])
def test_what_is_no_image(source, problem):
    with pytest.raises(MediaError, match=problem):
        open_image(source)


def test_limits():
    data = encoded(halves())
    with pytest.raises(MediaError, match="too large"):
        open_image(data, MediaPolicy(max_bytes=len(data) - 1))
    with pytest.raises(MediaError, match="too large"):
        open_image(io.BytesIO(data), MediaPolicy(max_bytes=len(data) - 1))
    with pytest.raises(MediaError, match="too many pixels"):
        open_image(data, MediaPolicy(max_pixels=31))
    with pytest.raises(MediaError, match="too many pixels"):
        open_image(halves(), MediaPolicy(max_pixels=31))
    assert open_image(data, MediaPolicy(max_bytes=len(data), max_pixels=32)).size == (8, 4)


def test_an_error_names_where_the_image_stands():
    with pytest.raises(MediaError, match=r"^messages\[3\].content\[0\]: "):
        open_image(Source("image", "/etc/passwd", False, "messages[3].content[0]"))


WHOLE = [encoded(halves(), format) for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA")]


@settings(max_examples=150)
@given(st.sampled_from(WHOLE), st.data())
def test_damaged_files_raise_nothing_else(data, draw):
    cut = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        cut[draw.draw(st.integers(0, len(cut) - 1))] = draw.draw(st.integers(0, 255))
    try:
        image = open_image(bytes(cut[: draw.draw(st.integers(1, len(cut)))]), MediaPolicy(max_pixels=1 << 20))
    except MediaError:
        return
    assert image.mode == "RGB"
