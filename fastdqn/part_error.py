"""PartError: a part of the user's own returned what it must not."""


class PartError(ValueError):
    """A part of a running program broke its interface. One line that names the part."""
