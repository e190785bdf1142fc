"""Text from files and users made safe to print: on one line, without control characters."""


def printable(text: str) -> str:
    """Returns text on one line, with line breaks and terminal codes escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def drawable(text: str, but: str = "") -> str:
    """Returns text with a question mark for each character that fonts and markup cannot hold.

    but: characters that stay although they are not printable, such as line breaks.
    """
    return "".join(c if c.isprintable() or c in but else "?" for c in text)


def rounded(value: float) -> str:
    """Returns a number with four significant digits, and thousands separated: 0.955, 12,345."""
    return f"{value:.4g}" if not 1e4 <= abs(value) < 1e15 else f"{value:,.0f}"


def brief(value: object) -> str:
    """Returns repr(value), cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
