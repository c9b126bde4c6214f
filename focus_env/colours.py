"""Pictures of any mode and depth as a person sees them: 8 bits of sRGB, over white.

transparency        over white, whether it is a channel, a colour or an entry of a palette
16 bits             their upper 8
32 bits, floats     say no range: floats up to 1 are shares, numbers up to 255 are 8 bits, those up to 65535 are 16,
                    and beyond that the largest is white. Less than 0, and NaN, are black
a colour profile    ICC: applied, unless it is sRGB, is damaged, or belongs to another kind of picture
gamma of a PNG      applied where it differs from sRGB's and no profile says more
CMYK                as Pillow has it, which turns the inverted inks of JPEG files the right way round
LAB                 CIE L*a*b* as TIFF files have it
"""

from __future__ import annotations

import functools
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

STRAIGHT = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA", "P": "RGBA", "1": "LA", "L": "LA", "RGB": "RGBA"}
"""By mode, the one that has the same colours and alpha in a channel of its own, not multiplied with them."""
PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""By the colour space of a profile, the mode that it is for."""
USUAL_GAMMA = 1 / 2.2
GAMMA_TOLERANCE = 0.05


def as_rgb(picture: Image.Image) -> Image.Image:
    """Return the picture in mode RGB; see the module. The picture itself, if nothing is to be done.

    Raises:
        ValueError: If its mode is none that Pillow converts.
    """
    if picture.mode == "RGB" and not picture.info.keys() & {"transparency", "icc_profile", "gamma"}:
        return picture
    colours, alpha = _without_alpha(picture)
    colours = _in_srgb(colours, picture)
    if alpha is None:
        return colours
    seen = Image.new("RGB", picture.size, "white")
    seen.paste(colours, mask=alpha)
    return seen


def _without_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in 8 bits, in a mode without palette or alpha; and the alpha, if white shows through."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)  # whatever the order of its bytes
        hole = picture.info.get("transparency")
        alpha = None if hole is None else Image.fromarray(np.where(values == hole, 0, 255).astype(np.uint8))
        return Image.fromarray((values >> 8).astype(np.uint8)), alpha
    if picture.mode in ("I", "F"):
        is_16_bit = picture.mode == "I" and picture.format in ("PNG", "PPM")  # which have no more
        return Image.fromarray(_in_8_bits(np.asarray(picture), is_16_bit=is_16_bit)), None
    if picture.has_transparency_data:
        straight = _with_small_hole(picture).convert(STRAIGHT.get(picture.mode, picture.mode))
        return straight.convert(straight.mode[:-1]), straight.getchannel("A")
    return picture.convert("RGB") if picture.mode == "P" else picture, None


def _with_small_hole(picture: Image.Image) -> Image.Image:
    """Return the picture, its transparent colour in 8 bits; a PNG of 16 bits has it in 16, though not its pixels."""
    hole = picture.info.get("transparency")
    if picture.mode == "RGB" and isinstance(hole, tuple) and max(hole) > 255:
        picture = picture.copy()
        picture.info["transparency"] = tuple(value >> 8 for value in hole)
    return picture


def _in_8_bits(values: npt.NDArray[np.number], *, is_16_bit: bool) -> npt.NDArray[np.uint8]:
    """Return numbers of 32 bits as grey levels; see the module."""
    numbers = values.astype(np.float32)
    top = float(numbers.max(initial=0, where=np.isfinite(numbers)))
    numbers = np.nan_to_num(numbers, nan=0, posinf=top, neginf=0)
    if is_16_bit or 255 < top <= 65535:
        numbers = np.floor(numbers / 256)
    elif top > 255:
        numbers *= 255 / top
    elif top <= 1 and values.dtype.kind == "f":
        numbers *= 255
    grey: npt.NDArray[np.uint8] = np.rint(numbers.clip(0, 255)).astype(np.uint8)
    return grey


def _in_srgb(colours: Image.Image, picture: Image.Image) -> Image.Image:
    """Return colours as sRGB, by the profile or gamma of the picture that they are of."""
    if colours.mode == "LAB":
        return _applied(_lab_to_srgb(), colours)
    if colours.mode not in ("L", "RGB", "CMYK"):
        colours = colours.convert("L" if colours.mode == "1" else "RGB")
    profile = picture.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        found = _profile_to_srgb(profile, colours.mode)
        return colours.convert("RGB") if found is None else _applied(found[1], colours.convert(found[0]))
    gamma = picture.info.get("gamma")
    if isinstance(gamma, float) and picture.format == "PNG" and "srgb" not in picture.info and colours.mode != "CMYK":
        exponent = USUAL_GAMMA / gamma if gamma > 0 else 1.0
        if abs(exponent - 1) > GAMMA_TOLERANCE:
            table = [round(255 * (level / 255) ** exponent) for level in range(256)]
            colours = colours.point(table * len(colours.getbands()))
    return colours.convert("RGB")


def _applied(transform: ImageCms.ImageCmsTransform, colours: Image.Image) -> Image.Image:
    seen: Image.Image | None = ImageCms.applyTransform(colours, transform)
    assert seen is not None  # only in place there is no result
    return seen


@functools.lru_cache(maxsize=16)
def _profile_to_srgb(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the profile's transform for pictures of a mode, and the mode that it takes; None: none is needed."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        wanted = PROFILE_MODES.get(source.profile.xcolor_space.strip())
        is_srgb = (source.profile.profile_description or "").startswith("sRGB")
        if wanted is None or is_srgb or (wanted != mode and (wanted, mode) != ("RGB", "L")):
            return None
        return wanted, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), wanted, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a damaged one: viewers do without
        return None


@functools.cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
