"""BLAKE2b checksums of files."""

import hashlib
from typing import NamedTuple


class FileChecksum(NamedTuple):
    """Size of a file in bytes, and the BLAKE2b checksum of its content in hexadecimal."""

    bytes: int
    blake2b: str


def new_hash(data: bytes = b""):
    """Returns a BLAKE2b hash object of 16 bytes, fed with data."""
    return hashlib.blake2b(data, digest_size=16)


def digest(data: bytes) -> str:
    """Returns the checksum of data in hexadecimal."""
    return new_hash(data).hexdigest()
