"""Film: pictures into an mp4 file that any player shows."""

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# What every player shows; quick, as pictures are simple; the index first, so that a browser can
# start. The quality is ours, untuned.
_ENCODER = [
    "-c:v", "libx264", "-pix_fmt", "yuv420p", "-qp", "10", "-preset", "veryfast",
    "-movflags", "+faststart",
]  # fmt: skip
# Seconds for its last pictures, and for moving the index to the front. Ours, untuned.
_ENDING = 300


def film_problem() -> str | None:
    """What is missing to make one, or None."""
    if missing := [name for name in ("imageio_ffmpeg", "PIL") if find_spec(name) is None]:
        return f"{' and '.join(missing)} not installed: pip install 'fastdqn[video]'"
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        program = "ffmpeg"
    if shutil.which(program) is None:
        return (
            f"{program} is no program to be run: install ffmpeg, or name it in IMAGEIO_FFMPEG_EXE"
        )
    return None


def write_film(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """Write pictures uint8 [H, W, 3], one at least, all of one size with even sides, as h264.

    Raises OSError where the encoder fails; ValueError where sizes differ, or there are none.
    """
    import imageio_ffmpeg

    encoder, count, size = None, 0, (0, 0)
    try:
        for picture in pictures:
            if encoder is None:
                size = picture.shape
                encoder = _start(path, size, fps)
            if picture.shape != size:
                raise ValueError(
                    f"picture {count} is {picture.shape[1]} x {picture.shape[0]}, those before it "
                    f"{size[1]} x {size[0]}: all of a film must be of one size"
                )
            _put(encoder, picture)
            count += 1
        if encoder is None:
            raise ValueError("a film of no pictures")
        code = _finish(encoder)
    except BaseException:
        if encoder is not None:
            encoder.kill()
            _finish(encoder)
        raise
    if code != 0:
        raise OSError(errno.EIO, "ffmpeg failed")
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError as error:
        raise OSError(errno.EIO, "ffmpeg failed") from error
    if written != count:  # it says nothing where the disk is full at the end
        raise OSError(errno.EIO, f"ffmpeg wrote {written:,} of {count:,} pictures")


def _start(path: Path, size: tuple[int, ...], fps: float) -> subprocess.Popen[bytes]:
    import imageio_ffmpeg

    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}", "-r", f"{fps}"]
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "quiet"]
    return subprocess.Popen(
        [*program, *raw, "-i", "-", *_ENCODER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _put(encoder: subprocess.Popen[bytes], picture: np.ndarray) -> None:
    assert encoder.stdin is not None
    try:
        encoder.stdin.write(picture.tobytes())
    except BrokenPipeError:
        raise OSError(errno.EIO, "ffmpeg failed") from None


def _finish(encoder: subprocess.Popen[bytes]) -> int:
    """No more pictures; returns the exit code. Raises OSError where none comes."""
    assert encoder.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        encoder.stdin.close()
    try:
        return encoder.wait(_ENDING)
    except subprocess.TimeoutExpired:
        raise OSError(errno.EIO, f"ffmpeg did not end within {_ENDING} s") from None
