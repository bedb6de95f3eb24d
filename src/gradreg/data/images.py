"""Image files to arrays of one shape: colours, sizes and orientation brought into line, broken files set apart."""

import os
import statistics
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gradreg.data.dataset import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

LARGEST, SMALLEST = 64, 8  # the side that images are made to where none is asked for
# Nothing that starts other programs, such as PostScript.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Pictures:
    """Decoded images.

    Attributes:
        x: the images that could be read (N, C, H, W), uint8.
        good: the positions of these among all.
        broken: why each of the others could not be read, by name.
        notes: what was decided.
        resized: whether any image had another size.
    """

    x: "np.ndarray[Any, Any]"
    good: "np.ndarray[Any, Any]"
    broken: dict[str, str]
    notes: tuple[str, ...]
    resized: bool = False


@dataclass(frozen=True)
class _Header:
    """What is known of an image before its pixels are: largest value where it has more than 8 bits, else 0."""

    grey: bool
    size: tuple[int, int]
    rotated: bool
    animated: bool
    largest: int


@dataclass(frozen=True)
class _Plan:
    """What all images are made to; `top` is the value of 16-bit images that becomes 255."""

    grey: bool
    size: tuple[int, int]
    resized: bool
    top: int


def read_images(read: Callable[[str], bytes], names: list[str], image_size: int | None = None) -> Pictures:
    """Decodes image files twice: their headers, to see what they have in common, and then their pixels.

    Args:
        read: gives a file's content.
        names: the files; those that cannot be decoded are set apart.
        image_size: side of the squares that all are made to. None: images of one size of at most 64 are kept as they
            are, others become squares of the median of their shorter sides, at most 64 and a multiple of 4.

    Returns:
        Grey images with one channel if all are grey, else RGB. 16-bit images are scaled to 8 bits, transparent ones
        put on white, photographs turned upright, and the first frame of animations is taken.

    Raises:
        DataError: Pillow is not installed.
    """
    try:
        import numpy as np
        from PIL import Image
    except ImportError as error:
        raise DataError(f"reading images needs {error.name}: pip install 'gradreg[study]'") from error
    Image.init()  # all formats, before threads ask for them
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # of metadata; what matters raises
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        headers = list(pool.map(lambda name: _guarded(_header, read, name), names))
        known = [header for header in headers if isinstance(header, _Header)]
        plan = _plan(known, image_size)
        x = np.zeros((len(names), 1 if plan.grey else 3, *plan.size), dtype=np.uint8)

        def fill(at: int) -> bool | str:
            return _guarded(lambda image: _pixels(image, plan, x[at]), read, names[at])

        seen = list(pool.map(lambda at: fill(at) if isinstance(headers[at], _Header) else headers[at], range(len(x))))
    broken = {name: why for name, why in zip(names, seen, strict=True) if isinstance(why, str)}
    good = np.array([at for at, why in enumerate(seen) if not isinstance(why, str)], dtype=np.int64)
    for to, at in enumerate(good):  # in place: the data may fill half of the memory
        if to != at:
            x[to] = x[at]
    transparent = sum(why is True for why in seen)
    return Pictures(x[: len(good)], good, broken, tuple(_notes(known, plan, transparent)), plan.resized)


def _guarded(use: "Callable[[Image.Image], Any]", read: Callable[[str], bytes], name: str) -> Any:
    """What an image gives, or in words why it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    known = tuple(kind for kind in _FORMATS if kind in Image.OPEN)  # Pillow may be built without some
    try:
        content = read(name)
        if not content:
            return "it is empty"
        with Image.open(BytesIO(content), formats=known) as image:
            if image.mode == "F":
                return "its pixels are fractions"
            return use(image)
    except UnidentifiedImageError:
        return "it is not an image"
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        return (str(error) or type(error).__name__).splitlines()[0][:100]


def _header(image: "Image.Image") -> _Header:
    import numpy as np

    orientation = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
    width, height = image.size
    largest = np.asarray(image).max() if image.mode in _DEEP else 0
    return _Header(
        grey=image.mode in _GREY,
        size=(height, width) if orientation in _SIDEWAYS else (width, height),
        rotated=orientation in range(2, 9),
        animated=image.format in ("GIF", "PNG", "WEBP", "TIFF") and getattr(image, "is_animated", False),
        largest=int(largest),
    )


def _plan(headers: list[_Header], image_size: int | None) -> _Plan:
    grey = all(header.grey for header in headers)
    sizes = {header.size for header in headers}
    top = 2 ** max(8, max((header.largest for header in headers), default=0).bit_length()) - 1
    if image_size is None and len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST:
        width, height = next(iter(sizes))
        return _Plan(grey, (height, width), resized=False, top=top)
    side = image_size
    if side is None:
        median = statistics.median_low([min(header.size) for header in headers]) if headers else LARGEST
        side = max(SMALLEST, min(LARGEST, median) // 4 * 4)
    return _Plan(grey, (side, side), resized=sizes != {(side, side)}, top=top)


def _pixels(image: "Image.Image", plan: _Plan, out: "np.ndarray[Any, Any]") -> bool:
    """Writes the pixels of an image; says whether it was transparent somewhere."""
    import numpy as np
    from PIL import Image, ImageOps

    height, width = plan.size
    # JPEG decodes at a half, a quarter or an eighth much faster; twice the final size is left to the fine filter.
    image.draft(None, (2 * width, 2 * height))
    image.load()
    upright = _eight_bits(ImageOps.exif_transpose(image), plan.top)
    transparent = False
    if upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        transparent = bool((np.asarray(upright)[..., 3] < 255).any())
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    upright = upright.convert("L" if plan.grey else "RGB")
    if upright.size != (width, height):
        upright = upright.resize((width, height), Image.Resampling.LANCZOS, box=_middle(upright.size, width / height))
    out[...] = np.atleast_3d(np.asarray(upright)).transpose(2, 0, 1)
    return transparent


def _eight_bits(image: "Image.Image", top: int) -> "Image.Image":
    import numpy as np
    from PIL import Image

    if image.mode not in _DEEP:
        return image
    values = np.asarray(image).astype(np.float64).clip(0, top)
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))


def _middle(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The largest box of a ratio of width to height in the middle of an image."""
    width, height = min(size[0], size[1] * ratio), min(size[1], size[0] / ratio)
    left, upper = (size[0] - width) / 2, (size[1] - height) / 2
    return left, upper, left + width, upper + height


def _notes(headers: list[_Header], plan: _Plan, transparent: int) -> Iterable[str]:
    grey = sum(header.grey for header in headers)
    if 0 < grey < len(headers):
        yield f"Of {len(headers)} images {grey} are grey and {len(headers) - grey} in colour: all were made RGB."
    deep = [header.largest for header in headers if header.largest]
    if deep:
        yield (
            f"Images of 16 bits per pixel ({len(deep)}) were scaled from 0 ... {plan.top} to 0 ... 255; the largest "
            f"value found is {max(deep)}."
        )
    if transparent:
        yield f"Images that are transparent in part ({transparent}) were put on white."
    if turned := sum(header.rotated for header in headers):
        yield f"Images with an EXIF orientation ({turned}) were turned upright."
    if animated := sum(header.animated for header in headers):
        yield f"Of images with several frames ({animated}) the first was taken."
    if plan.resized and headers:
        sizes = sorted({header.size for header in headers}, key=lambda size: (size[0] * size[1], size))
        words = [f"{width} x {height}" for width, height in (sizes[0], sizes[-1])]
        found = f"{words[0]} pixels" if len(sizes) == 1 else f"{len(sizes)} sizes from {words[0]} to {words[1]} pixels"
        side = plan.size[0]
        yield f"The images have {found}: their shorter side was made {side}, and the middle {side} x {side} cut out."
