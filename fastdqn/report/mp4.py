"""MP4 writer: encodes frames with ffmpeg."""

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# A format that all players support. faststart puts the index first, so that a browser can start.
# The quality is not tuned.
_ENCODER = [
    "-c:v", "libx264", "-pix_fmt", "yuv420p", "-qp", "10", "-preset", "veryfast",
    "-movflags", "+faststart",
]  # fmt: skip
# Timeout in seconds for the last frames, and for moving the index. Not tuned.
_ENDING = 300


def film_problem() -> str | None:
    """Returns what is missing to write a video, or None."""
    if missing := [name for name in ("imageio_ffmpeg", "PIL") if find_spec(name) is None]:
        return f"{' and '.join(missing)} not installed: pip install 'fastdqn[video]'"
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        program = "ffmpeg"
    if shutil.which(program) is None:
        return f"{program} is not an executable program: install ffmpeg, or set IMAGEIO_FFMPEG_EXE"
    return None


def write_film(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """Writes frames as an H.264 video.

    Args:
        path: File to write.
        pictures: At least one frame, uint8[H, W, 3] with even H and W, all of one size.
        fps: Frames per second.

    Raises:
        OSError: The encoder failed.
        ValueError: The sizes differ, or there are no frames.
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
                    f"frame {count} is {picture.shape[1]} x {picture.shape[0]}, the earlier ones "
                    f"{size[1]} x {size[0]}: all frames of a video must have one size"
                )
            _put(encoder, picture)
            count += 1
        if encoder is None:
            raise ValueError("a video needs at least one frame")
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
    if written != count:  # ffmpeg reports no error if the disk is full at the end
        raise OSError(errno.EIO, f"ffmpeg wrote {written:,} of {count:,} frames")


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
    """Closes the input and returns the exit code. Raises OSError after a timeout."""
    assert encoder.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        encoder.stdin.close()
    try:
        return encoder.wait(_ENDING)
    except subprocess.TimeoutExpired:
        raise OSError(errno.EIO, f"ffmpeg did not exit within {_ENDING} s") from None
