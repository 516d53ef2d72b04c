"""Certificates for tests of TLS, made by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = "2"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a folder, which signs certificates for names."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Authority:
        """Make an authority."""
        folder.mkdir(parents=True)
        authority = cls(folder)
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", DAYS, "-subj", f"/CN=authority of {folder.name}"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", folder / "ca.key", "-out", authority.certificates),
        )
        return authority

    @property
    def certificates(self) -> Path:
        """The file of its own certificate."""
        return self.folder / "ca.pem"

    def sign(self, name: str, *, passphrase: str = "") -> tuple[Path, Path]:
        """Make a certificate for one DNS name; return its file and that of its key."""
        kind = f"{name}-locked" if passphrase else name
        certificate, key = self.folder / f"{kind}.pem", self.folder / f"{kind}.key"
        request, extensions = self.folder / f"{kind}.csr", self.folder / f"{kind}.ext"
        extensions.write_text(
            f"subjectAltName=DNS:{name}\nauthorityKeyIdentifier=keyid\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
        )
        protected = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *protected),
            *("-subj", f"/CN={name}", "-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-days", DAYS, "-in", request, "-CA", self.certificates),
            *("-CAkey", self.folder / "ca.key", "-CAcreateserial"),
            *("-extfile", extensions, "-out", certificate),
        )
        return certificate, key


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
