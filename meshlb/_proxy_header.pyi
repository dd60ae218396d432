"""The PROXY protocol. Addresses have 16 bytes, IPv4 as ::ffff:a.b.c.d."""

def parse(data: bytes) -> tuple[int, bytes | None, int, bytes | None, int] | None:
    """(length of the header, source, its port, destination, its port); addresses are None where it has none.

    None when more bytes are needed, ValueError when it is malformed.
    """

def begins(data: bytes) -> int:
    """1: begins as a header does; 0: may become one; -1: does not."""

def format_header(
    version: int, source: bytes, source_port: int, destination: bytes, destination_port: int
) -> bytes:
    """The header of version 1 or 2."""
