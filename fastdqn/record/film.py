"""Film: pictures into an mp4 file that any player shows."""

import errno
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# Of the encoder: quick, as pictures are simple; the index first, so that a browser can start.
_ENCODER = ["-preset", "veryfast", "-movflags", "+faststart"]
_QUALITY = 8  # of imageio's 10; ours, untuned


def film_problem() -> str | None:
    """What is missing to make one, or None."""
    missing = [name for name in ("imageio", "imageio_ffmpeg", "PIL") if find_spec(name) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} not installed: pip install 'fastdqn[video]'"


def write_film(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """Write pictures uint8 [H, W, 3], all of one size with even sides, as h264.

    Raises OSError where the encoder fails; ValueError where sizes differ.
    """
    import imageio.v2
    import imageio_ffmpeg

    # yuv420p is what every player shows; its sides must be even.
    writer: Any = imageio.v2.get_writer(
        path, format="FFMPEG", mode="I", fps=fps, codec="libx264", pixelformat="yuv420p",  # pyright: ignore[reportArgumentType]
        quality=_QUALITY, macro_block_size=2, ffmpeg_log_level="quiet", output_params=_ENCODER,
    )  # fmt: skip
    count, size = 0, None
    try:
        with writer:
            for picture in pictures:
                size = size or picture.shape
                if picture.shape != size:
                    raise ValueError(
                        f"picture {count} is {picture.shape[1]} x {picture.shape[0]}, those before "
                        f"it {size[1]} x {size[0]}: all of a film must be of one size"
                    )
                writer.append_data(picture)
                count += 1
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except (OSError, RuntimeError) as error:
        # The encoder's own have these types and no number; others are of whoever makes pictures.
        if type(error) not in (OSError, RuntimeError) or getattr(error, "errno", None):
            raise
        raise OSError(errno.EIO, "ffmpeg failed") from error
    if written != count:  # it says nothing where the disk is full at the end
        raise OSError(errno.EIO, f"ffmpeg wrote {written:,} of {count:,} pictures")
