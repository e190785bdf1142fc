"""Video frames: the rendered environment, enlarged, beside a panel of Q-values."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from fastdqn.text import drawable

# Sizes in pixels, colours in RGB. Not tuned.
_SCREEN_HEIGHT = 480  # smaller screens are enlarged by integer factors up to this height
_WIDTH, _MARGIN, _HEAD, _VALUE_WIDTH = 320, 14, 66, 66
_LEAST_ROW, _MOST_ROW, _LEAST_HEIGHT = 20, 36, 240
_FONT, _BAR = 14, 0.6  # font size; fraction of the height of a row that its bar fills
_GROUND, _INK, _FAINT = (22, 24, 29), (228, 230, 235), (120, 125, 135)
_PLAIN, _CHOSEN = (83, 110, 150), (255, 166, 43)
# Maximum number of actions to draw, those with the largest values.
_MOST_ACTIONS = 32
# Number of frames whose minimum and maximum values set the scale of the bars.
_SCALE_PICTURES = 100


class Panel:
    """Draws frames of one size. Needs Pillow.

    Args:
        action_names: Name of each action.
    """

    def __init__(self, action_names: Sequence[str]):
        from PIL import ImageFont

        self._names = [drawable(name)[:20] for name in action_names]
        self._font = ImageFont.load_default(_FONT)
        self._label_width = max(int(self._font.getlength(name)) for name in self._names)
        self._ranges: deque[tuple[float, float]] = deque(maxlen=_SCALE_PICTURES)

    def draw(
        self, picture: np.ndarray, values: np.ndarray, action: int | None, lines: Sequence[str]
    ) -> np.ndarray:
        """Returns a frame with the picture, lines of text, and a bar for each action.

        Args:
            picture: uint8[H, W, 3].
            values: float32[A], not finite for an action that is not allowed.
            action: Action that is taken, or None.
            lines: Two lines of text.

        Returns:
            uint8[H', W', 3], with even H' and W'.
        """
        from PIL import Image, ImageDraw

        screen = enlarged(picture)
        shown = _best_of(values)
        height = max(len(screen), _LEAST_HEIGHT, _HEAD + _LEAST_ROW * len(shown) + _MARGIN)
        width = screen.shape[1] + _WIDTH
        canvas = Image.new("RGB", (width + width % 2, height + height % 2), _GROUND)
        canvas.paste(Image.fromarray(screen), (0, (height - len(screen)) // 2))
        pen = ImageDraw.Draw(canvas)
        left = screen.shape[1] + _MARGIN
        for i, line in enumerate(lines):
            pen.text((left, _MARGIN + 22 * i), drawable(line), _INK, self._font)
        row = min(_MOST_ROW, (height - _HEAD - _MARGIN) / len(shown))
        scale = self._scale(values)
        for i, which in enumerate(shown):
            box = (left, _HEAD + row * i, screen.shape[1] + _WIDTH - _MARGIN, row)
            self._draw_row(pen, box, which, values[which], which == action, scale)
        return np.asarray(canvas)

    def _draw_row(self, pen, box, which: int, value: float, chosen: bool, scale) -> None:
        """Draws name, bar and value of an action. box is (left, top, right, height)."""
        left, top, right, height = box
        middle, colour = top + height / 2, _CHOSEN if chosen else _PLAIN
        allowed = bool(np.isfinite(value))
        ink = _CHOSEN if chosen else _INK if allowed else _FAINT
        if chosen:
            pen.polygon([(left, middle - 5), (left + 7, middle), (left, middle + 5)], fill=colour)
        pen.text((left + 14, middle), self._names[which], ink, self._font, anchor="lm")
        digits = f"{value:.4f}" if abs(value) < 1 else f"{value:.5g}"
        text = digits if allowed else "not allowed"
        pen.text((right, middle), text, ink, self._font, anchor="rm")
        if allowed:
            start, end = left + 14 + self._label_width + 10, right - _VALUE_WIDTH
            share = (value - scale[0]) / (scale[1] - scale[0])
            half = height * _BAR / 2
            stop = start + max(2, share * (end - start))
            pen.rectangle([start, middle - half, stop, middle + half], fill=colour)

    def _scale(self, values: np.ndarray) -> tuple[float, float]:
        """Returns the minimum and maximum of recent values, which differ."""
        finite = values[np.isfinite(values)]
        if len(finite):
            self._ranges.append((float(finite.min()), float(finite.max())))
        least = min((low for low, _ in self._ranges), default=0.0)
        most = max((high for _, high in self._ranges), default=1.0)
        return (least, most) if most > least else (least - 1.0, least)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Enlarges a small picture uint8[H, W, 3] by an integer factor."""
    times = max(1, _SCREEN_HEIGHT // len(picture))
    return picture if times == 1 else picture.repeat(times, 0).repeat(times, 1)


def _best_of(values: np.ndarray) -> list[int]:
    """Returns the actions to draw, in ascending order."""
    best = np.argsort(-values, kind="stable")[:_MOST_ACTIONS]
    return sorted(best.tolist())
