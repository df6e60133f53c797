"""TIFF of any layout and depth, by tifffile; a file's own pages only, whatever it names."""

import io
import math
import operator
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from keras_mae.data.decoders import pillow
from keras_mae.data.decoders.base import (
    Decoded,
    Facts,
    check_size,
    needs_extra,
    open_file,
    scaled_alpha,
    silence,
    turn,
)
from keras_mae.types import AnyPath

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Kinds of files that tifffile knows and this module does not ask for: some name other files, some
# change pixels. OME's XML is read below.
_KINDS = (
    *("avs", "bif", "eer", "fluoview", "indica", "lsm", "mdgel", "mmstack", "ndpi", "ndtiff"),
    *("nih", "ome", "philips", "qpi", "scanimage", "scn", "sis", "stk", "svs"),
)
_FLAGS: dict[str, Any] = {
    f"is_{kind}": False for kind in _KINDS if kind in tifffile.TIFF.FILE_FLAGS
}
# PhotometricInterpretation.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED = 0, 1, 2, 3, 5
# Colours that Pillow converts, of 8 bits: YCbCr, CIELAB, ICCLAB, ITULAB.
_BY_PILLOW = (6, 8, 9, 10)
_LOG = (32844, 32845)
_ASSOCIATED, _UNASSOCIATED = 1, 2  # ExtraSamples
_ORIENTATION, _INK_SET, _GDAL_NODATA = 274, 332, 42113


def decode(data: bytes) -> Decoded:
    """Decode the first image of a TIFF, upright.

    Bands are where PlanarConfiguration and SamplesPerPixel say, and the axis C of OME, ImageJ and
    tifffile. Palettes, CMYK, YCbCr and LAB become RGB as in Pillow; white-is-zero is inverted;
    fewer than 8 bits are stretched to 8. A sample of no stated meaning is a band, alpha is alpha
    only where ExtraSamples says so, and is divided out where it is multiplied in. Values equal to
    GDAL_NODATA are missing. Thumbnails, overviews and masks are no frames.

    Raises:
        ValueError: if the file is cut or damaged, too large, or needs an extra to be read.
        Exception: whatever tifffile, imagecodecs or Pillow raises.
    """
    silence("tifffile")
    with tifffile.TiffFile(io.BytesIO(data), **_FLAGS) as tif:
        planes, frames = _planes(tif)
        page = planes[0]
        _check_pixels(page, len(planes))
        if _is_for_pillow(page):
            decoded = pillow.decode(data, page.index)
            decoded.frames = frames
            return decoded
        try:
            parts = [_decode_page(plane) for plane in planes]
        except _CodecMissing as error:
            decoded = _without_codecs(data, page, error)
            decoded.frames = frames
            return decoded
    orientation = _tag(page, _ORIENTATION, 1)
    pixels = turn(np.concatenate([part.pixels for part in parts], axis=-1), orientation)
    missing = None
    if any(part.missing is not None for part in parts):
        missing = np.concatenate([_missing_of(part) for part in parts], axis=-1)
        missing = turn(missing, orientation)
    alpha = None if parts[0].alpha is None else turn(parts[0].alpha, orientation)
    return Decoded(pixels, alpha, missing, frames)


def facts(file: AnyPath | bytes) -> Facts:
    """Return what the tags of a TIFF's first image say."""
    silence("tifffile")
    with open_file(file) as opened, tifffile.TiffFile(opened, **_FLAGS) as tif:
        planes, _ = _planes(tif)
        page = planes[0]
        _check_pixels(page, len(planes))
        height, width = page.imagelength, page.imagewidth
        if _tag(page, _ORIENTATION, 1) in (5, 6, 7, 8):
            height, width = width, height
        if _is_for_pillow(page):
            return Facts(height, width, 3, is_byte=True)
        alphas = sum(kind in (_ASSOCIATED, _UNASSOCIATED) for kind in page.extrasamples)
        channels = page.samplesperpixel - alphas
        if page.photometric == _PALETTE:
            channels += 2
        elif _is_cmyk(page, channels):
            channels -= 1
        is_byte = page.photometric == _PALETTE or page.dtype in (np.uint8, np.bool_)
        return Facts(height, width, channels * len(planes), is_byte, has_alpha=alphas > 0)


class _CodecMissing(ValueError):
    """A compression that tifffile does not read: imagecodecs would, or Pillow does."""


class _Plane:
    """A page of a stack whose pages are described once, at its beginning."""

    def __init__(self, first: tifffile.TiffPage, number: int):
        self._first = first
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def asarray(self, **_: Any) -> np.ndarray:
        first, file = self._first, self._first.parent.filehandle
        file.seek(first.dataoffsets[0] + self._number * first.nbytes)
        dtype = np.dtype(first.dtype).newbyteorder(first.parent.byteorder)
        content = file.read(first.nbytes)
        return np.frombuffer(content, dtype).reshape(first.shape).astype(first.dtype)


def _planes(tif: tifffile.TiffFile) -> tuple[list[Any], int]:
    """Return the pages that together are the first image, a band or more each, and its frames."""
    pages, is_whole = _full_pages(tif)
    first = pages[0]
    if not is_whole:
        return [first], len(pages)
    try:
        description = first.description
        if description[-8:].strip().endswith("OME>"):
            bands, frames = _ome_planes(description, len(tif.pages))
            if bands:
                return [tif.pages[band] for band in bands], frames
        elif first.is_shaped or first.is_imagej:
            return _described_planes(tif, pages)
    except Exception:  # a description that does not fit its file: the pages are there all the same
        pass
    return [first], len(pages)


def _full_pages(tif: tifffile.TiffFile) -> tuple[list[Any], bool]:
    """Return the pages that are images of their own, and whether the list of pages is sound.

    Thumbnails, overviews and masks are none. A page may name one before it as the next.
    """
    pages: list[Any] = []
    offsets: set[int] = set()
    page: Any
    is_whole = True
    try:
        for page in tif.pages:
            if page.offset in offsets:
                is_whole = False
                break
            offsets.add(page.offset)
            if not page.is_reduced and not page.is_mask:
                pages.append(page)
    except Exception:  # a later page may be broken
        if not pages:
            raise
        is_whole = False
    return pages or [tif.pages[0]], is_whole


def _described_planes(tif: tifffile.TiffFile, pages: list[Any]) -> tuple[list[Any], int]:
    """Return the planes and frames of a file whose axes tifffile or ImageJ has written down."""
    series = tif.series[0]
    axes, shape = series.get_axes(False), series.get_shape(False)
    first = pages[0]
    num_planes = math.prod(shape) // math.prod(first.shape)
    leading = len(axes)
    while leading and math.prod(shape[:leading]) != num_planes:
        leading -= 1
    axes, shape = axes[:leading], shape[:leading]
    if "C" not in axes or first.index != 0:
        return [first], max(num_planes, len(pages))
    band_axis = axes.index("C")
    step, num_bands = math.prod(shape[band_axis + 1 :]), shape[band_axis]
    _check_pixels(first, num_bands)
    numbers = range(0, step * num_bands, step)
    frames = num_planes // num_bands
    if len(tif.pages) == 1 and num_planes > 1:
        return [_Plane(first, number) for number in numbers], frames
    return [pages[number] for number in numbers], frames


def _ome_planes(xml: str, num_pages: int) -> tuple[list[int], int]:
    """Return which pages of this file are the bands of its first image, and how many images.

    OME's XML may describe planes of many files; only those of this one are taken.
    """
    root = ElementTree.fromstring(xml)
    pixels = root.find("{*}Image/{*}Pixels")
    blocks = [] if pixels is None else pixels.findall("{*}TiffData")
    own = root.get("UUID")
    named = {block.findtext("{*}UUID") for block in blocks} - {None}
    if own is None and len(named) == 1:
        own = next(iter(named))
    if pixels is None or (named and own is None):
        return [], 0
    channel = pixels.find("{*}Channel")
    samples = 1 if channel is None else int(channel.get("SamplesPerPixel", 1))
    order = pixels.get("DimensionOrder", "XYCZT")[2:]  # the fastest first
    sizes = [int(pixels.get(f"Size{axis}", 1)) for axis in order]
    sizes = [
        size // samples if axis == "C" else size for size, axis in zip(sizes, order, strict=True)
    ]
    found: dict[tuple[int, int], dict[int, int]] = {}
    for block in blocks:
        if block.findtext("{*}UUID") not in (None, own):
            continue
        page = int(block.get("IFD", 0))
        count = int(block.get("PlaneCount", 1 if "IFD" in block.attrib else num_pages))
        starts = [int(block.get(f"First{axis}", 0)) for axis in order]
        number = starts[0] + sizes[0] * (starts[1] + sizes[1] * starts[2])
        for offset in range(min(count, num_pages - page, math.prod(sizes) - number)):
            place, position = number + offset, {}
            for axis, size in zip(order, sizes, strict=True):
                place, position[axis] = divmod(place, size)
            images = found.setdefault((position["T"], position["Z"]), {})
            images[position["C"]] = page + offset
    if not found:
        return [], 0
    bands = found[min(found)]
    return [bands[band] for band in sorted(bands)], len(found)


def _is_for_pillow(page: Any) -> bool:
    return page.photometric in _BY_PILLOW and page.bitspersample == 8 and page.samplesperpixel == 3


def _is_cmyk(page: Any, channels: int) -> bool:
    """Whether the first four samples are cyan, magenta, yellow and black."""
    return page.photometric == _SEPARATED and channels >= 4 and _tag(page, _INK_SET, 1) == 1


def _decode_page(page: Any) -> Decoded:
    """Decode one page as it lies in the file, not turned."""
    samples = _read(page)
    kinds = page.extrasamples[: samples.shape[-1] - 1]
    start = samples.shape[-1] - len(kinds)
    alphas = [start + i for i, kind in enumerate(kinds) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    bands = [band for band in range(samples.shape[-1]) if band not in alphas]
    pixels = samples[..., bands] if alphas else samples
    missing = _missing(pixels, page)
    pixels = _in_colour(pixels, page)
    if missing is not None:
        is_same = missing.shape[-1] == pixels.shape[-1]
        missing = missing if is_same else _of_each(missing.any(-1), pixels)
    if not alphas:
        return Decoded(pixels, None, missing)
    stored = samples[..., alphas[0]]
    highest = _highest(page) if stored.dtype.kind in "ui" else 1.0
    alpha = scaled_alpha(stored, highest)
    if alpha is not None and kinds[alphas[0] - start] == _ASSOCIATED:
        pixels = _divided(pixels, alpha, page)
    return Decoded(pixels, alpha, missing)


def _read(page: Any) -> np.ndarray:
    """Return the samples of a page, `(H, W, S)`, in their own dtype."""
    if page.dtype is None or np.dtype(page.dtype).kind not in "buif" or page.photometric in _LOG:
        raise ValueError(
            f"a TIFF must hold whole numbers or floats. Received: {page.sampleformat!r} of "
            f"{page.bitspersample} bits, {page.photometric!r}"
        )
    if page.photometric in _BY_PILLOW:
        raise ValueError(
            f"{page.photometric!r} of {page.bitspersample} bits and {page.samplesperpixel} samples "
            "cannot be converted to RGB"
        )
    if page.is_tiled:
        itemsize = np.dtype(page.dtype).itemsize
        per_pixel = itemsize * (page.samplesperpixel if page.planarconfig == 1 else 1)
        height, width = operator.index(page.tilelength), operator.index(page.tilewidth)
        check_size(height, width, per_pixel * max(operator.index(page.tiledepth), 1))
    _check_whole(page)
    try:
        samples = page.asarray(maxworkers=1)
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error) or "not supported" in str(error):
            raise _CodecMissing(str(error)) from error
        raise
    axes = page.axes
    if samples.shape != page.shape or not set(axes) <= set("ZYXS"):
        raise ValueError(f"a TIFF must hold what its tags say. Received: {samples.shape}, {axes}")
    if "Z" in axes:
        samples, axes = samples.take(0, axis=axes.index("Z")), axes.replace("Z", "")
    if "S" in axes:
        return np.moveaxis(samples, axes.index("S"), -1)
    return samples[..., np.newaxis]


def _check_pixels(page: Any, num_planes: int) -> None:
    """Refuse too many pixels, by the tags, before memory is taken for them."""
    itemsize = 1 if page.dtype is None else np.dtype(page.dtype).itemsize
    # A damaged tag may be a tuple, and a tuple times a number a longer tuple.
    height, width = operator.index(page.imagelength), operator.index(page.imagewidth)
    samples = operator.index(page.samplesperpixel) * max(operator.index(page.imagedepth), 1)
    check_size(height, width, samples * num_planes * itemsize)


def _check_whole(page: Any) -> None:
    """Refuse a page of which strips or tiles are missing, or lie beyond the end of the file."""
    size = page.parent.filehandle.size
    offsets, counts = page.dataoffsets, page.databytecounts
    if not page.is_contiguous and min(len(offsets), len(counts)) < math.prod(page.chunked):
        raise ValueError("a TIFF must have all its strips or tiles")
    # A tile of no bytes is left out on purpose: it holds no data.
    if not offsets or any(
        offset + count > size
        for offset, count in zip(offsets, counts, strict=False)
        if offset and count
    ):
        raise ValueError(f"a TIFF must be whole: {size} bytes do not hold its pixels")


def _highest(page: Any) -> int:
    """Return the highest value that the page's whole numbers can have."""
    dtype = np.dtype(page.dtype)
    return np.iinfo(dtype).max if dtype.kind == "i" else 2**page.bitspersample - 1


def _missing(pixels: np.ndarray, page: Any) -> np.ndarray | None:
    """Return where stored values are GDAL's "no data", compared in their own dtype."""
    text = str(_tag(page, _GDAL_NODATA, "")).strip("\0 \t\n")
    if not text:
        return None
    try:
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return None
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = pixels.dtype.type(value)
        missing = np.isnan(pixels) if np.isnan(value) else pixels == value
    elif not np.isfinite(value) or value != np.floor(value):
        return None
    else:
        missing = pixels == int(value)
    return missing if missing.any() else None


def _in_colour(pixels: np.ndarray, page: Any) -> np.ndarray:
    """Return grey, RGB or bands whose 0 is dark, stretched to 8 bits where they have fewer."""
    if page.photometric == _PALETTE:
        return _from_palette(pixels, page)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype == np.uint8 and page.bitspersample < 8:
        highest = _highest(page)
        pixels = ((pixels.astype(np.uint16) * 255 + highest // 2) // highest).astype(np.uint8)
    if page.photometric == _WHITE_IS_ZERO:
        return _inverted(pixels, page)
    if _is_cmyk(page, pixels.shape[-1]):
        return np.concatenate([_from_cmyk(pixels[..., :4], page), pixels[..., 4:]], axis=-1)
    return pixels


def _from_palette(pixels: np.ndarray, page: Any) -> np.ndarray:
    colours = page.colormap
    if colours is None or pixels.shape[-1] != 1 or pixels.dtype.kind not in "bu":
        raise ValueError("a TIFF with a palette must have one index for each pixel, and colours")
    # The high byte, as in Pillow: programs write 8 bits there.
    colours = (np.asarray(colours) >> 8).astype(np.uint8).T
    indices = pixels[..., 0].astype(np.int64)
    if indices.max() >= len(colours):
        raise ValueError(f"an index of a TIFF's palette must be below {len(colours)}")
    return colours[indices]


def _inverted(pixels: np.ndarray, page: Any) -> np.ndarray:
    if pixels.dtype.kind == "f":  # there is no highest value to turn them about
        return pixels
    if pixels.dtype.kind == "i" or page.bitspersample <= 8:
        return ~pixels
    return pixels.dtype.type(_highest(page)) - pixels


def _from_cmyk(pixels: np.ndarray, page: Any) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels), "CMYK").convert("RGB"))
    highest = _highest(page) if pixels.dtype.kind in "ui" else 1.0
    light = highest - pixels.astype(np.float64)
    return _in_dtype(light[..., :3] * light[..., 3:] / highest, pixels.dtype, highest)


def _divided(pixels: np.ndarray, alpha: np.ndarray, page: Any) -> np.ndarray:
    """Return colours that had been multiplied by alpha as they were; black where alpha is 0."""
    divisor = np.where(alpha > 0, alpha, np.inf)[..., np.newaxis].astype(np.float64)
    highest = _highest(page) if pixels.dtype.kind in "ui" else np.inf
    return _in_dtype(pixels / divisor, pixels.dtype, highest)


def _in_dtype(values: np.ndarray, dtype: np.dtype, highest: float) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype)
    return np.clip(np.rint(values), np.iinfo(dtype).min, highest).astype(dtype)


def _without_codecs(data: bytes, page: Any, missing: Exception) -> Decoded:
    """Decode with Pillow where it reads the same pixels, of 8 bits or one."""
    kinds = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1}
    colours = kinds.get(page.photometric)
    extras = tuple(page.extrasamples)
    is_exact = page.dtype in (np.bool_, np.uint8) and page.bitspersample in (1, 8)
    is_exact = is_exact and page.samplesperpixel - len(extras) == colours
    if not is_exact or extras not in ((), (_UNASSOCIATED,)) or _tag(page, _GDAL_NODATA, ""):
        raise needs_extra(f"this TIFF ({missing})") if "imagecodecs" in str(missing) else missing
    return pillow.decode(data, page.index)


def _of_each(where: Any, pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(where[..., np.newaxis], pixels.shape)


def _missing_of(part: Decoded) -> np.ndarray:
    return np.zeros(part.pixels.shape, bool) if part.missing is None else part.missing


def _tag(page: Any, code: int, default: Any) -> Any:
    value = page.tags.valueof(code, default)
    return value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
