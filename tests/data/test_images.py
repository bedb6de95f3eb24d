"""Image files of every kind that Pillow writes, against what their pixels are known to be."""

import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from gradreg.data.dataset import DataError
from gradreg.data.images import Pictures, read_images

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(side: int = 8, seed: int = 0) -> Any:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8))


def colour(width: int = 8, height: int = 8, seed: int = 0) -> Any:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def halves(width: int = 16, height: int = 8, left: Any = RED, right: Any = BLUE, mode: str = "RGB") -> Any:
    image = Image.new(mode, (width, height), right)
    image.paste(left, (0, 0, width // 2, height))
    return image


def read(*contents: bytes, size: int | None = None) -> Pictures:
    files = {f"{at:03}.png": content for at, content in enumerate(contents)}
    return read_images(files.__getitem__, list(files), size)


def pixels(image: Any) -> Any:
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


# --- formats and modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_grey_formats_read_exactly(kind: str) -> None:
    found = read(encoded(grey(seed=1), kind), encoded(grey(seed=2), kind))
    channels = 3 if kind == "GIF" else 1  # a GIF has a palette
    assert found.x.shape == (2, channels, 8, 8)
    assert found.x.dtype == np.uint8
    for channel in range(channels):
        assert np.array_equal(found.x[:, channel], [np.asarray(grey(seed=1)), np.asarray(grey(seed=2))])
    assert found.notes == ()
    assert found.broken == {}


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_colour_formats_read_exactly(kind: str) -> None:
    image = colour(12, 9)
    found = read(encoded(image, kind))
    assert found.x.shape == (1, 3, 9, 12)
    assert np.array_equal(found.x[0], pixels(image))


def test_a_jpeg_reads_as_pillow_decodes_it() -> None:
    content = encoded(colour(16, 16), "JPEG")
    assert np.array_equal(read(content).x[0], pixels(Image.open(BytesIO(content))))


def test_a_palette_and_a_bitmap_read_as_their_colours() -> None:
    assert np.array_equal(read(encoded(halves().quantize(2))).x[0], pixels(halves()))
    found = read(encoded(halves(left=255, right=0, mode="L").convert("1")))
    assert np.array_equal(found.x[0], pixels(halves(left=255, right=0, mode="L")))


def test_grey_among_colour_becomes_colour_and_is_counted() -> None:
    found = read(encoded(grey()), encoded(colour()), encoded(colour(seed=3)))
    assert found.x.shape == (3, 3, 8, 8)
    assert all(np.array_equal(found.x[0, channel], np.asarray(grey())) for channel in range(3))
    assert found.notes == ("Of 3 images 1 are grey and 2 in colour: all were made RGB.",)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_put_on_white(mode: str) -> None:
    if mode == "P":
        image = halves(left=0, right=1, mode="P")
        image.putpalette([*RED, *BLUE])
        image.info["transparency"] = 1
    else:
        visible, hidden = ((*RED, 255), (*BLUE, 0)) if mode == "RGBA" else ((90, 255), (0, 0))
        image = halves(left=visible, right=hidden, mode=mode)
    found = read(encoded(image))
    left = 90 if mode == "LA" else RED
    expected = halves(left=left, right=255 if mode == "LA" else WHITE, mode="L" if mode == "LA" else "RGB")
    assert np.array_equal(found.x[0], pixels(expected))
    assert found.notes == ("Images that are transparent in part (1) were put on white.",)


def test_an_alpha_channel_that_hides_nothing_is_not_worth_a_note() -> None:
    found = read(encoded(colour().convert("RGBA")))
    assert np.array_equal(found.x[0], pixels(colour()))
    assert found.notes == ()


def test_half_transparent_red_on_white_is_pink() -> None:
    assert read(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))).x[0, :, 0, 0].tolist() == [255, 127, 127]


@pytest.mark.parametrize(("largest", "top"), [(65535, 65535), (40000, 65535), (4000, 4095), (200, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_by_the_bits_that_are_used(kind: str, largest: int, top: int) -> None:
    values = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
    found = read(encoded(Image.fromarray(values), kind))
    assert found.x.shape == (1, 1, 8, 8)
    assert np.array_equal(found.x[0, 0], np.round(values * (255 / top)))
    assert found.notes == (
        f"Images of 16 bits per pixel (1) were scaled from 0 ... {top} to 0 ... 255; the largest value found is "
        f"{largest}.",
    )


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    found = read(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert abs(found.x[0].astype(int) - np.array(RED)[:, None, None]).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "method"), [(3, "ROTATE_180"), (6, "ROTATE_270"), (2, "FLIP_LEFT_RIGHT")])
def test_an_exif_orientation_is_applied(kind: str, orientation: int, method: str) -> None:
    image = halves(16, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(encoded(image, kind, exif=exif, **({"subsampling": 0} if kind == "JPEG" else {})))
    expected = pixels(image.transpose(getattr(Image.Transpose, method)))
    assert found.x.shape[1:] == expected.shape
    assert abs(found.x[0].astype(int) - expected).max() <= 3
    if kind != "TIFF":  # whose decoder turns it by itself
        assert found.notes == ("Images with an EXIF orientation (1) were turned upright.",)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in (RED, BLUE, WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (found.x[0] == np.array(RED)[:, None, None]).all()
    assert found.notes == ("Of images with several frames (1) the first was taken.",)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [5, 28, 64])
def test_one_size_of_at_most_64_is_kept(side: int) -> None:
    found = read(encoded(colour(side, side)), encoded(colour(side, side, seed=1)))
    assert found.x.shape == (2, 3, side, side)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(96, 96)] * 3, 64),
        ([(65, 20)], 20),
        ([(30, 40), (31, 50), (70, 33)], 28),
        ([(9, 9), (10, 10)], 8),
        ([(3, 4), (5, 4)], 8),
        ([(500, 400), (90, 300), (20, 20)], 64),
    ],
)
def test_other_sizes_become_squares_of_the_median_side(sizes: list[tuple[int, int]], side: int) -> None:
    found = read(*(encoded(colour(*size)) for size in sizes))
    assert found.x.shape == (len(sizes), 3, side, side)
    words = "The images have"
    assert found.notes[0].startswith(words)
    assert found.notes[0].endswith(f"shorter side was made {side}, and the middle {side} x {side} cut out.")


def test_the_note_names_the_range_of_sizes() -> None:
    (note,) = read(encoded(colour(30, 40)), encoded(colour(70, 33)), encoded(colour(20, 21))).notes
    assert note.startswith("The images have 3 sizes from 20 x 21 to 70 x 33 pixels: ")
    (note,) = read(encoded(colour(96, 80))).notes
    assert note.startswith("The images have 96 x 80 pixels: ")


def test_a_given_size_is_always_used() -> None:
    assert read(encoded(colour(28, 28)), size=32).x.shape == (1, 3, 32, 32)
    assert read(encoded(colour(200, 100)), size=96).x.shape == (1, 3, 96, 96)
    exact = read(encoded(colour(32, 32)), size=32)
    assert np.array_equal(exact.x[0], pixels(colour(32, 32)))
    assert exact.notes == ()


@pytest.mark.parametrize("turn", [False, True], ids=["wide", "high"])
def test_the_middle_is_cut_out_without_squashing(turn: bool) -> None:
    image = Image.new("RGB", (120, 40), RED)
    image.paste(BLUE, (40, 0, 80, 40))
    found = read(encoded(image.transpose(Image.Transpose.ROTATE_90) if turn else image), size=16)
    assert (found.x[0, :, 4:-4, 4:-4] == np.array(BLUE)[:, None, None]).all()
    assert found.x[0, 2].min() >= 230  # the edge is as blue, up to the width of the filter


def test_large_images_are_made_smaller_without_aliasing() -> None:
    """A pattern finer than the result becomes its mean, for PNG and for JPEG, which is decoded at a fraction."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    for kind, slack in (("PNG", 1), ("JPEG", 3)):
        found = read(encoded(Image.fromarray(board), kind), size=16)
        assert abs(found.x[0, 0, 2:-2, 2:-2].astype(int) - 128).max() <= slack


# --- broken files -----------------------------------------------------------------------------------------------------

JPEG, PNG = encoded(colour(40, 40), "JPEG"), encoded(colour(40, 40))


def huge() -> bytes:
    """A PNG of few bytes that would fill the memory."""
    return encoded(Image.new("1", (20000, 20000)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: b"", "it is empty"),
        (lambda: b"<html>not found</html>", "it is not an image"),
        (lambda: JPEG[: len(JPEG) // 2], "image file is truncated"),
        (lambda: PNG[: len(PNG) // 2], "image file is truncated"),
        (lambda: PNG[:20], ""),
        (lambda: JPEG[:2], ""),
        (lambda: encoded(Image.new("F", (8, 8)), "TIFF"), "its pixels are fractions"),
        (huge, "decompression bomb"),
    ],
    ids=["empty", "web page", "half a jpeg", "half a png", "head of a png", "two bytes", "fractions", "bomb"],
)
def test_a_broken_image_is_set_apart_with_the_reason(content: Callable[[], bytes], why: str) -> None:
    found = read(encoded(colour(seed=1)), content(), encoded(colour(seed=2)))
    assert found.good.tolist() == [0, 2]
    assert list(found.broken) == ["001.png"]
    assert why in found.broken["001.png"]
    assert found.broken["001.png"] != ""
    assert found.x.shape[0] == 2
    if "truncated" not in why:  # its header was read, and it is larger than the others
        assert np.array_equal(found.x[0], pixels(colour(seed=1)))
        assert np.array_equal(found.x[1], pixels(colour(seed=2)))


def test_a_postscript_file_in_disguise_starts_no_other_program() -> None:
    assert read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n").broken == {"000.png": "it is not an image"}


def test_no_image_at_all_gives_no_pictures() -> None:
    found = read(b"", b"x")
    assert len(found.x) == len(found.good) == 0
    assert len(found.broken) == 2


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"^reading images needs PIL: pip install 'gradreg\[study\]'$"):
        read(b"")
