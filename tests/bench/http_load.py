"""An HTTP/1.1 client that costs next to nothing: one kept-alive connection, JSON in and out."""

import asyncio
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec


class Connection:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._head = (
            f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: "
        )

    @classmethod
    async def open(cls, url: str, key: str) -> Self:
        """Connect to the API at `url`."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        return cls(reader, writer, parts.netloc, key)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a POST and return the JSON of its answer, which must be a success."""
        data = msgspec.json.encode(body)
        self._writer.write(f"POST {path} HTTP/1.1\r\n{self._head}{len(data)}\r\n\r\n".encode() + data)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        answer = await self._reader.readexactly(length)
        assert head[9:10] == b"2", (head, answer)
        return msgspec.json.decode(answer)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
