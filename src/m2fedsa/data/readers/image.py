"""Pictures, with Pillow."""

import io
from typing import TYPE_CHECKING

from m2fedsa.data.readers import Source, found
from m2fedsa.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_image(source: Source) -> "Image":
    """A picture as RGB, upright as its camera was held. More than eight bits a pixel become eight.

    Errors: DataError for one that is missing, empty, without pixels, cut short, too large, or no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = found(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return _in_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: this is no image that can be read: of no known kind, or without pixels") from error
    # Decoders of single formats let all of these out of a broken file.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: the image cannot be decoded ({str(error).rstrip('.')})") from error


def look_at_image(source: Source) -> tuple[int, int]:
    """Width and height, from the head of the file alone. Errors as for `read_image`, as far as the head shows them."""
    from PIL import Image, UnidentifiedImageError

    name = found(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return opened.size
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: this is no image that can be read: of no known kind, or without pixels") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: the image cannot be decoded ({str(error).rstrip('.')})") from error


def _in_rgb(image: "Image") -> "Image":
    """Pillow would cut off what is brighter than 255 in pictures of sixteen bits."""
    from PIL import Image

    if image.mode.startswith("I"):
        import numpy as np

        values = np.asarray(image)
        image = Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")
