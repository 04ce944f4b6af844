"""A certificate authority that lives as long as a test, made with the openssl command."""

import subprocess
from pathlib import Path
from typing import Final

_DAYS: Final = "2"


class ThrowawayCa:
    """A key and a certificate to sign others with.

    Args:
        folder: where everything is written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder: Final = folder
        self.certificate: Final = folder / "ca.pem"
        self._key = folder / "ca-key.pem"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", _DAYS,
            "-subj", "/CN=Greenroom test CA", "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def issue(self, name: str, *, address: str, host: str | None = None) -> tuple[Path, Path]:
        """Return certificate and key of a server at an IP address or a `host`, fit for being a client as well."""
        key, request, certificate = (self.folder / f"{name}{suffix}" for suffix in ("-key.pem", ".csr", ".pem"))
        extensions = self.folder / f"{name}.ext"
        holder = f"DNS:{host}" if host else f"IP:{address}"
        extensions.write_text(f"subjectAltName={holder}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-days", _DAYS, "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def hashed_folder(self) -> Path:
        """Return a folder that OpenSSL finds the certificate in by the hash of its subject (`SSL_CERT_DIR`)."""
        digest = _openssl("x509", "-hash", "-noout", "-in", str(self.certificate)).strip()
        folder = self.folder / "hashed"
        folder.mkdir(exist_ok=True)
        (folder / f"{digest}.0").write_bytes(self.certificate.read_bytes())
        return folder


def _openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=20).stdout
