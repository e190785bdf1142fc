"""Converts a video of `fastdqn video` to a small GIF.

    python benchmarks/film_picture.py RUN/video/best.mp4 --out benchmarks/results/cartpole.gif

Needs imageio (extra dev) and imageio-ffmpeg (extra video).
"""

import argparse
from itertools import islice
from pathlib import Path

import imageio.v3 as iio
from PIL import Image


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("film", type=Path, help="MP4 file")
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--every", type=int, default=5, help="use every Nth frame")
    asked.add_argument("--pictures", type=int, default=40, help="frames of the GIF")
    asked.add_argument("--width", type=int, default=480)
    options = asked.parse_args()
    film = islice(iio.imiter(options.film), 0, options.every * options.pictures, options.every)
    pictures = [_small(Image.fromarray(picture), options.width) for picture in film]
    rate = iio.immeta(options.film)["fps"]
    pictures[0].save(
        options.out, save_all=True, append_images=pictures[1:], loop=0, optimize=True,
        duration=round(1_000 * options.every / rate),
    )  # fmt: skip
    print(f"{options.out}: {len(pictures)} frames, {options.out.stat().st_size:,} bytes")


def _small(picture: Image.Image, width: int) -> Image.Image:
    """Returns a frame of the given width, with a palette of 32 colours."""
    height = round(picture.height * width / picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS).quantize(32)


if __name__ == "__main__":
    main()
