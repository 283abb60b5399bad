"""The certificates and keys of a dev cluster, made with the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path

_CONFIGURATION = """\
[req]
distinguished_name = dn
prompt = no
[dn]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:{address}, IP:127.0.0.1, IP:10.96.0.1, DNS:localhost, DNS:kubernetes.default.svc
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificates:
    """A certificate authority in a folder, with what it signs."""

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        """`address` is where the API server listens."""
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._configuration = directory / "openssl.cnf"
        self._configuration.write_text(_CONFIGURATION.format(address=address))
        self.ca = directory / "ca.crt"
        self._certificate("ca", "ca", "/CN=devcluster-ca")
        self.server, self.server_key = self._certificate("server", "server", "/CN=kube-apiserver")
        self.service_account_key = directory / "service-account.key"
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.service_account_key)
        self.service_account_public_key = directory / "service-account.pub"
        _openssl("pkey", "-in", self.service_account_key, "-pubout", "-out", self.service_account_public_key)

    def client(self, user: str, group: str | None = None) -> tuple[Path, Path]:
        """A client certificate and key for a user."""
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        return self._certificate(user.replace(":", "-"), "client", subject)

    def _certificate(self, name: str, kind: str, subject: str) -> tuple[Path, Path]:
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        signed_by = () if kind == "ca" else ("-CA", self.ca, "-CAkey", self.ca.with_suffix(".key"))
        _openssl(
            *("req", "-x509", "-new", "-nodes", "-days", "365", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-config", self._configuration, "-extensions", kind, "-subj", subject),
            *("-keyout", key, "-out", certificate, *signed_by),
        )
        return certificate, key


def _openssl(*arguments: str | Path) -> None:
    answer = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {answer.stderr}")
