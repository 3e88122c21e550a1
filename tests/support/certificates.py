"""Certificates for tests: an authority and the certificates that it signs."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A certificate authority in a directory; its own certificate is ``ca.crt``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.certificate, self._key = root / "ca.crt", root / "ca-key.pem"
        _openssl(
            *("req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=authority of tests"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def sign(self, name: str, subject: str) -> tuple[Path, Path]:
        """Write a certificate and its key; return their paths.

        :param subject: a subjectAltName such as ``IP:127.0.0.1``.
        """
        certificate, key = self.root / f"{name}.pem", self.root / f"{name}-key.pem"
        request = self.root / f"{name}.csr"
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extension = self.root / f"{name}.ext"
        # RFC 5280, section 4.2: Python 3.13 verifies with X509_V_FLAG_X509_STRICT.
        extension.write_text(
            "basicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
            "subjectKeyIdentifier=hash\n"
            "authorityKeyIdentifier=keyid\n"
            f"subjectAltName={subject}\n"
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key),
            *("-set_serial", str(len(list(self.root.iterdir()))), "-days", "2"),
            *("-extfile", extension, "-out", certificate),
        )
        return certificate, key

    def context(self, subject: str, *, wants_ours: bool = False) -> ssl.SSLContext:
        """Return a server's TLS context; with ``wants_ours`` it demands a client certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.sign(f"server-{len(subject)}", subject))
        if wants_ours:
            context.load_verify_locations(self.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
