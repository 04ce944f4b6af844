"""A server that speaks what obstore asks of Google Cloud Storage (its XML API) and of Azure Blob Storage.

As their documents say it, for: objects put whole or in parts, also on condition; read, in ranges too; looked at;
listed; deleted. Signatures aren't checked. What isn't known is answered with 501 and kept in `unknown`.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PART_NAMES: Final = re.compile(r"<PartNumber>(\d+)</PartNumber>")
_BLOCK_NAMES: Final = re.compile(r"<(?:Latest|Uncommitted)>([^<]+)</")
_NOW: Final = "2026-03-01T12:00:00.000Z"


class Blob:
    """An object: what it holds, which version of it that is, and what was said of it."""

    def __init__(self, data: bytes, generation: int, headers: dict[str, str]) -> None:
        self.data = data
        self.generation = generation
        self.headers = headers
        self.etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}-{generation}"'


class Stub(BaseHTTPRequestHandler):
    """One request. All share what is kept."""

    protocol_version = "HTTP/1.1"
    blobs: ClassVar[dict[str, Blob]]
    staged: ClassVar[dict[str, dict[str, bytes]]]
    unknown: ClassVar[list[str]]
    requests: ClassVar[list[str]]
    lock: ClassVar[threading.Lock]
    numbers: ClassVar[Iterator[int]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the name is theirs
        """Say nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        # Azure's emulators have the account in front, which isn't Google's way.
        path = unquote(parts.path).removeprefix("/devstoreaccount1").strip("/")
        self.requests.append(f"{self.command} {path} {sorted(query)}")
        with self.lock:
            self._answer(path, query, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 the names are theirs

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        match self.command, query:
            case "GET", {"comp": "list"}:
                self._reply(200, self._azure_list(path, query))
            case "GET", {"list-type": "2"}:
                self._reply(200, self._google_list(path, query))
            case "POST", {"comp": "batch"}:
                self._batch(body.decode())
            case _, {"comp": _}:
                self._answer_block(path, query, body)
            case _, {"uploads": _} | {"uploadId": _}:
                self._answer_part(path, query, body)
            case _:
                self._answer_whole(path, body)

    def _answer_whole(self, path: str, body: bytes) -> None:
        match self.command:
            case "PUT":
                self._put(path, body)
            case "DELETE" if self.blobs.pop(path, None):
                self._reply(204)
            case "DELETE":
                self._missing()
            case "GET" | "HEAD":
                self._get(path)
            case _:
                self._do_not_know()

    def _answer_block(self, path: str, query: dict[str, str], body: bytes) -> None:
        """Azure: blocks are laid down by name, and a list of names makes a blob of them."""
        match self.command, query:
            case "PUT", {"comp": "block", "blockid": block}:
                self.staged.setdefault(path, {})[block] = body
                self._reply(201)
            case "PUT", {"comp": "blocklist"}:
                blocks = self.staged.pop(path)
                self._put(path, b"".join(blocks[name] for name in _BLOCK_NAMES.findall(body.decode())))
            case _:
                self._do_not_know()

    def _answer_part(self, path: str, query: dict[str, str], body: bytes) -> None:
        """Google: an upload is begun, gets parts by number, and is completed or aborted."""
        match self.command, query:
            case "POST", {"uploads": _}:
                upload = f"upload-{next(self.numbers)}"
                self.staged[upload] = {}
                self._reply(200, _xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"))
            case "PUT", {"partNumber": number, "uploadId": upload}:
                self.staged[upload][number] = body
                self._reply(200, headers={"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})
            case "POST", {"uploadId": upload}:
                sent = self.staged.pop(upload)
                self._put(path, b"".join(sent[name] for name in _PART_NAMES.findall(body.decode())), xml=True)
            case _:
                self._do_not_know()

    def _do_not_know(self) -> None:
        self.unknown.append(self.requests[-1])
        self._reply(501)

    @property
    def _is_azure(self) -> bool:
        return "x-ms-version" in self.headers

    def _put(self, path: str, data: bytes, *, xml: bool = False) -> None:
        there = self.blobs.get(path)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            self._reply(412, _error("PreconditionFailed"))
        elif self.headers.get("If-None-Match") == "*" and there is not None:
            self._reply(409, _error("BlobAlreadyExists"))
        elif (mark := self.headers.get("If-Match")) is not None and (there is None or mark != there.etag):
            self._reply(412, _error("ConditionNotMet"))
        else:
            said = {name: value for name, value in self.headers.items() if "content-" in name.lower()}
            blob = self.blobs[path] = Blob(data, next(self.numbers), said)
            text = _xml("CompleteMultipartUploadResult", f"<ETag>{escape(blob.etag)}</ETag>") if xml else b""
            self._reply(200 if xml or not self._is_azure else 201, text, headers=_marks(blob))

    def _get(self, path: str) -> None:
        blob = self.blobs.get(path)
        if blob is None:
            self._missing()
            return
        headers, data, status = _marks(blob), blob.data, 200
        for name, value in blob.headers.items():
            plain = name.lower().removeprefix("x-ms-blob-")
            if plain in {"content-type", "content-disposition"}:
                headers[plain.title()] = value
        if (span := self.headers.get("Range") or self.headers.get("x-ms-range")) is not None:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", span).groups()  # pyright: ignore[reportOptionalMemberAccess]
            stop = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
            data, status = data[int(first) : stop], 206
        self._reply(status, data, headers=headers)

    def _batch(self, body: str) -> None:
        """Delete what a batch of Azure's names; each of its requests has an answer."""
        answers: list[str] = []
        for number, target in enumerate(re.findall(r"DELETE (\S+) HTTP", body)):
            path = unquote(urlsplit(target).path).removeprefix("/devstoreaccount1").strip("/")
            status = "202 Accepted" if self.blobs.pop(path, None) else "404 The specified blob does not exist."
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n"
                "x-ms-request-id: 1\r\nx-ms-version: 2023-11-03\r\n\r\n"
            )
        text = "".join(answers) + "--batch--"
        self._reply(202, text.encode(), headers={"Content-Type": "multipart/mixed; boundary=batch"})

    def _listed(self, container: str, query: dict[str, str], after: str) -> list[tuple[str, Blob]]:
        names = ((path.removeprefix(f"{container}/"), blob) for path, blob in sorted(self.blobs.items()))
        return [(name, blob) for name, blob in names if name.startswith(query.get("prefix", "")) and name > after]

    def _azure_list(self, container: str, query: dict[str, str]) -> bytes:
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{formatdate(0, usegmt=True)}</Last-Modified>"
            f"<Content-Length>{len(blob.data)}</Content-Length><Content-Type>x</Content-Type>"
            f"<Etag>{escape(blob.etag)}</Etag></Properties></Blob>"
            for name, blob in self._listed(container, query, "")
        )
        return _xml("EnumerationResults", f"<Blobs>{blobs}</Blobs><NextMarker/>")

    def _google_list(self, bucket: str, query: dict[str, str]) -> bytes:
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(blob.data)}</Size><LastModified>{_NOW}</LastModified>"
            f"<ETag>{escape(blob.etag)}</ETag></Contents>"
            for name, blob in self._listed(bucket, query, query.get("start-after", ""))
        )
        return _xml("ListBucketResult", contents)

    def _missing(self) -> None:
        self._reply(404, _error("BlobNotFound"))

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        given = {"Content-Type": "application/xml", **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _marks(blob: Blob) -> dict[str, str]:
    return {
        "ETag": blob.etag,
        "x-goog-generation": str(blob.generation),
        "Last-Modified": formatdate(0, usegmt=True),
    }


def _xml(tag: str, inner: str) -> bytes:
    return f'<?xml version="1.0" encoding="utf-8"?><{tag}>{inner}</{tag}>'.encode()


def _error(code: str) -> bytes:
    return _xml("Error", f"<Code>{code}</Code><Message>{code}</Message>")


@contextmanager
def bucket_stub() -> Generator[tuple[type[Stub], int]]:
    """Run a server for the time of the block; gives what it keeps, and its port."""
    kept = type("KeptStub", (Stub,), {"blobs": {}, "staged": {}, "unknown": [], "requests": []})
    kept.lock, kept.numbers = threading.Lock(), itertools.count(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), kept)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kept, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(port: int, folder: Path) -> dict[str, str]:
    """Return what the environment must say for obstore to find the server, as it would an emulator."""
    account = {
        "gcs_base_url": f"http://127.0.0.1:{port}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    key = folder / "google.json"
    key.write_text(json.dumps(account))
    return {
        "GOOGLE_SERVICE_ACCOUNT": str(key),
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
        "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"a key").decode(),
    }
