"""The gateway's own certificate authority, the leaves it signs, and the files in which Envoy reads them.

Certificates follow RFC 5280 (section numbers below) strictly enough for Python 3.13's `VERIFY_X509_STRICT`: critical
basicConstraints and keyUsage on the CA, subject and authority key identifiers everywhere, no empty issuer.
Private keys are created with mode 0600 and appear by rename, so that no reader sees half of one.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from extproc.errors import ConfigError

CA_CERTIFICATE: Final = "ca.pem"
CA_KEY: Final = "ca.key"
_SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type name
_SKEW: Final = dt.timedelta(hours=1)  # a client whose clock is a little behind must accept a fresh certificate
_COMMON_NAME_LIMIT: Final = 64  # ub-common-name, RFC 5280 appendix A.1
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server certificate (PEM) with its private key (PKCS #8 PEM)."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    def server_context(self, alpn: Sequence[str] = ("h2", "http/1.1")) -> ssl.SSLContext:
        """A TLS server context that presents this leaf. The key touches a 0600 file for as long as loading takes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(alpn))
        # `load_cert_chain` reads files only
        with tempfile.NamedTemporaryFile(prefix="leaf-", suffix=".pem") as file:
            file.write(self.key_pem + self.cert_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


@dataclass(frozen=True, slots=True)
class Authority:
    """A root that signs leaves directly (path length 0)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The CA certificate, PEM: what an app has to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, hosts: Sequence[str], days: float = 30) -> Leaf:
        """A leaf (EC P-256) for DNS names, wildcards and IP addresses; the first DNS name is its common name.

        It ends with the CA at the latest. Raises ConfigError for no host, a bad name, or one that the CA's name
        constraints exclude: every client would refuse such a leaf, with an error that is hard to read.
        """
        if not hosts:
            raise ConfigError("hosts", "a certificate needs at least one host", "name the hosts that apps call")
        names = [_general_name(host) for host in hosts]
        constraints = _constraints(self.certificate)
        for host, name in zip(hosts, names, strict=True):
            if constraints is not None and not _permitted(name, constraints):
                hint = "make a new CA whose hosts include it: extproc ca init"
                raise ConfigError(f"hosts.{host}", "this CA may not sign for that host (name constraints)", hint)
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        end = min(now + dt.timedelta(days=days), self.certificate.not_valid_after_utc)
        # an address is no common name: OpenSSL holds it against the CA's DNS constraints
        common = [
            name.value for name in names if isinstance(name, x509.DNSName) and len(name.value) <= _COMMON_NAME_LIMIT
        ]
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, value) for value in common[:1]]
        builder = _builder(x509.Name(subject), self.certificate.subject, key.public_key(), (now - _SKEW, end))
        # 4.2.1.6: an empty subject makes the alternative name critical
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(_authority_id(self.certificate), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Leaf(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))

    def bundle(self, extra: Path | None = None) -> bytes:
        """Public roots, then the certificates of `extra` (a PEM file), then this CA: a file for `SSL_CERT_FILE`."""
        parts = [public_roots()]
        if extra is not None:
            parts.append(_read(extra))
        return b"".join(part.rstrip(b"\n") + b"\n" for part in (*parts, self.pem))


def create_ca(folder: Path, common_name: str, *, hosts: Sequence[str] = (), days: float = 3650) -> Authority:
    """Make a CA in `folder` (`ca.pem`, `ca.key`) and return it. An existing one is never overwritten (ConfigError).

    With `hosts` the CA carries critical name constraints (4.2.1.10): these DNS names and their subdomains, these
    addresses, nothing else, so that a stolen CA key cannot impersonate the rest of the Internet.
    """
    for name in (CA_CERTIFICATE, CA_KEY):
        if (folder / name).exists():
            raise ConfigError(str(folder / name), "there is a CA already", "use it, or move it away to make a new one")
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_LIMIT])])
    builder = _builder(subject, subject, key.public_key(), (now - _SKEW, now + dt.timedelta(days=days)))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    if hosts:
        builder = builder.add_extension(_name_constraints(hosts), critical=True)
    authority = Authority(builder.sign(key, hashes.SHA256()), key)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CA_KEY, _key_pem(key))
    write_atomic(folder / CA_CERTIFICATE, authority.pem, mode=0o644)
    return authority


def load_ca(folder: Path) -> Authority:
    """The CA that `create_ca` left in `folder`.

    Raises ConfigError, with the cure, where a file is missing or unreadable, the key can be read by group or others,
    key and certificate do not belong together, or the certificate is not a CA or has expired.
    """
    key_path, certificate_path = folder / CA_KEY, folder / CA_CERTIFICATE
    pem, key_pem = _read(certificate_path), _read(key_path)
    mode = stat.S_IMODE(key_path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            str(key_path), f"the CA key is open to other users (mode {mode:04o})", f"chmod 600 {key_path}"
        )
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        # from None: a parser's message may quote what it read
        raise ConfigError(
            str(folder), f"not a PEM certificate with its unencrypted key ({type(error).__name__})"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(str(key_path), "not the (EC) key of the certificate beside it", "restore the pair together")
    if not _is_ca(certificate):
        raise ConfigError(str(certificate_path), "not a CA certificate", "make one with: extproc ca init")
    if certificate.not_valid_after_utc <= dt.datetime.now(dt.UTC):
        raise ConfigError(str(certificate_path), "the CA has expired", "move it away and run: extproc ca init")
    return Authority(certificate, key)


def public_roots() -> bytes:
    """The machine's public root certificates (PEM), or certifi's where the machine has none.

    `SSL_CERT_FILE` is not looked at: on a machine that already trusts the gateway it names our own bundle.
    """
    for name in (*_SYSTEM_BUNDLES, ssl.get_default_verify_paths().openssl_cafile):
        path = Path(name)
        if path.is_file():
            return path.read_bytes()
    try:
        import certifi
    except ImportError:
        hint = "install the ca-certificates package of this system, or the Python package certifi"
        raise ConfigError("roots", "no public root certificates on this machine", hint) from None
    return Path(certifi.where()).read_bytes()


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` by rename, with `mode` from the start: a reader (and Envoy's watch) sees the old file or the new."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp creates with 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_sds_certificate(path: Path, name: str, leaf: Leaf) -> None:
    """An SDS file with certificate and key inline.

    Two files would be renamed one after the other, and Envoy would load a pair that does not match in between.
    """
    body = {
        "certificate_chain": {"inline_string": leaf.cert_pem.decode("ascii")},
        "private_key": {"inline_string": leaf.key_pem.decode("ascii")},
    }
    _write_sds(path, name, {"tls_certificate": body})


def write_sds_secret(path: Path, name: str, value: str) -> None:
    """An SDS file with a generic secret inline, mode 0600, for Envoy's credential_injector.

    Raises ConfigError where `value` is empty or has characters that an HTTP field value must not have (RFC 9110, 5.5).
    """
    if not value or value != value.strip() or not value.isascii() or not value.isprintable():
        hint = "check the variable or file for a stray line break or blank"
        raise ConfigError(name, "the credential is empty or cannot stand in an HTTP header", hint)
    _write_sds(path, name, {"generic_secret": {"secret": {"inline_string": value}}})


def write_sds_file_secret(path: Path, name: str, secret: Path) -> None:
    """An SDS file that refers to a mounted file (a Kubernetes Secret): Envoy reads it, and again when its folder moves."""
    source = {"filename": str(secret), "watched_directory": {"path": str(secret.parent)}}
    _write_sds(path, name, {"generic_secret": {"secret": source}})


def write_sds_trust(path: Path, name: str, roots: bytes) -> None:
    """An SDS file with the roots (PEM) that an upstream TLS connection is checked against."""
    _write_sds(path, name, {"validation_context": {"trusted_ca": {"inline_string": roots.decode("utf-8")}}})


def _write_sds(path: Path, name: str, secret: Mapping[str, object]) -> None:
    resource = {"@type": _SECRET_TYPE, "name": name, **secret}
    write_atomic(path, yaml.safe_dump({"resources": [resource]}, sort_keys=False, width=1000).encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "make a CA with: extproc ca init") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: tuple[dt.datetime, dt.datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """4.2.1.3: a CA signs certificates and nothing else; an EC leaf signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _authority_id(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """4.2.1.1: equal to the subject key identifier of the CA, so that a client finds the right one of two."""
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _constraints(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(_dns(host))
    except ValueError:
        raise ConfigError(
            f"hosts.{host}", "not a host name or an IP address", "write names in ASCII (A-labels)"
        ) from None


def _dns(host: str) -> str:
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(_is_label(label) for label in labels):
        raise ValueError
    return host.lower()


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= 63 and plain.isascii() and plain.isalnum() and label[0] != "-" and label[-1] != "-"


def _name_constraints(hosts: Iterable[str]) -> x509.NameConstraints:
    """A type of name without a permitted subtree is unconstrained (4.2.1.10): without addresses, all are excluded."""
    permitted: list[x509.GeneralName] = []
    for host in hosts:
        name = _general_name(host.removeprefix("*."))
        if isinstance(name, x509.IPAddress):
            name = x509.IPAddress(ipaddress.ip_network(host))
        permitted.append(name)
    everything = [x509.IPAddress(ipaddress.ip_network(net)) for net in ("0.0.0.0/0", "::/0")]
    with_addresses = any(isinstance(name, x509.IPAddress) for name in permitted)
    if not any(isinstance(name, x509.DNSName) for name in permitted):
        permitted.append(x509.DNSName("invalid"))  # RFC 2606: permits a name that cannot exist, so no DNS name at all
    return x509.NameConstraints(permitted, None if with_addresses else everything)


def _permitted(name: x509.DNSName | x509.IPAddress, constraints: x509.NameConstraints) -> bool:
    allowed = constraints.permitted_subtrees or []
    if isinstance(name, x509.DNSName):
        trees = [tree.value for tree in allowed if isinstance(tree, x509.DNSName)]
        plain = name.value.removeprefix("*.")
        return not trees or any(plain == tree or plain.endswith("." + tree) for tree in trees)
    networks = [ipaddress.ip_network(str(tree.value)) for tree in allowed if isinstance(tree, x509.IPAddress)]
    return not allowed or any(ipaddress.ip_address(str(name.value)) in network for network in networks)
