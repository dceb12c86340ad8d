"""The gateway's own certificate authority, the leaves it signs, and the files in which Envoy reads them.

Certificates follow RFC 5280 (section numbers below) strictly enough for Python 3.13's `VERIFY_X509_STRICT`: critical
basicConstraints and keyUsage on the CA, subject and authority key identifiers everywhere, no empty issuer.
Private keys are created with mode 0600 and appear by rename, so that no reader sees half of one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import ssl
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from extproc.adapters.pki_files import check_ca, key_pem, read_certificates, read_key, to_pem
from extproc.adapters.pki_names import constraints_of, general_name, name_constraints, permitted
from extproc.errors import ConfigError

CA_CERTIFICATE: Final = "ca.pem"
CA_KEY: Final = "ca.key"
_SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type name
SKEW: Final = dt.timedelta(hours=1)  # a client whose clock is a little behind must accept a fresh certificate
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
    """What signs leaves: a root by itself, or an intermediate.

    `chain`: what a server sends after the leaf, the issuing certificate first, without the root; empty where the root
    signs. `roots`: what clients trust; empty: `certificate`.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    roots: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The root certificates, PEM: what an app has to trust."""
        return to_pem(*(self.roots or (self.certificate,)))

    @property
    def end(self) -> dt.datetime:
        """When the first certificate on the way to the root ends: nothing signed here is good for longer."""
        return min(certificate.not_valid_after_utc for certificate in (self.certificate, *self.chain))

    def check_host(self, host: str) -> x509.DNSName | x509.IPAddress:
        """The name as it stands in a certificate. Raises ConfigError for a bad one, or one that this CA may not sign for."""
        name = general_name(host)
        for certificate in dict.fromkeys((self.certificate, *self.chain)):
            constraints = constraints_of(certificate)
            if constraints is not None and not permitted(name, constraints):
                hint = (
                    "sign for it with a new intermediate (extproc ca rotate intermediate) or a new CA (extproc ca init)"
                )
                raise ConfigError(f"hosts.{host}", "this CA may not sign for that host (name constraints)", hint)
        return name

    def may_sign(self, host: str) -> bool:
        """Whether clients would take a leaf for the host."""
        try:
            self.check_host(host)
        except ConfigError:
            return False
        return True

    def issue(self, hosts: Sequence[str], days: float = 30) -> Leaf:
        """A leaf (EC P-256) for DNS names, wildcards and IP addresses, with `chain`; its common name is the first DNS name.

        It ends with the CA at the latest. Raises ConfigError for no host, a bad name, an expired CA, or a name that the
        CA's constraints exclude: every client would refuse such a leaf, with an error that is hard to read.
        """
        if not hosts:
            raise ConfigError("hosts", "a certificate needs at least one host", "name the hosts that apps call")
        return self.sign([self.check_host(host) for host in hosts], days)

    def sign(self, names: Sequence[x509.DNSName | x509.IPAddress], days: float) -> Leaf:
        """As `issue`, whatever the constraints say: for a trial of what clients make of it."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        if self.end <= now:
            raise ConfigError("ca", "the CA, or one above it, has expired", "extproc ca status says which")
        end = min(now + dt.timedelta(days=days), self.end)
        # an address is no common name: OpenSSL holds it against the CA's DNS constraints
        common = [
            name.value for name in names if isinstance(name, x509.DNSName) and len(name.value) <= _COMMON_NAME_LIMIT
        ]
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, value) for value in common[:1]]
        builder = _builder(x509.Name(subject), self.certificate.subject, key.public_key(), (now - SKEW, end))
        # 4.2.1.6: an empty subject makes the alternative name critical
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(_authority_id(self.certificate), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Leaf(to_pem(certificate, *self.chain), key_pem(key))


@dataclass(frozen=True, slots=True)
class CaShape:
    """A CA to make. `hosts`: all that it may vouch for (none: anything). `path_length`: how many CAs may stand below it."""

    name: str
    hosts: tuple[str, ...] = ()
    days: float = 3650
    path_length: int = 0

    def extend(self, builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        """The builder with the extensions of such a CA. Critical name constraints (4.2.1.10) where there are hosts."""
        basic = x509.BasicConstraints(ca=True, path_length=self.path_length)
        builder = builder.add_extension(basic, critical=True)
        builder = builder.add_extension(key_usage(signs_certificates=True), critical=True)
        if self.hosts:
            builder = builder.add_extension(name_constraints(self.hosts), critical=True)
        return builder

    @property
    def subject(self) -> x509.Name:
        """Its name."""
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name[:_COMMON_NAME_LIMIT])])


def make_ca(shape: CaShape, signer: Authority | None = None) -> Authority:
    """A new CA (EC P-256): a root, or an intermediate that `signer` signs, which may serve TLS servers only.

    Raises ConfigError for a host that is none, or that the signer may not vouch for.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    if signer is None:
        return Authority(_sign_ca(shape, key.public_key(), shape.subject, key), key)
    for host in shape.hosts:
        signer.check_host(host.removeprefix("*."))
    certificate = _sign_ca(shape, key.public_key(), signer.certificate.subject, signer)
    return Authority(certificate, key, (certificate, *signer.chain), signer.roots or (signer.certificate,))


def _sign_ca(
    shape: CaShape, key: ec.EllipticCurvePublicKey, issuer: x509.Name, signer: Authority | ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    end = now + dt.timedelta(days=shape.days)
    if isinstance(signer, Authority):
        builder = _builder(shape.subject, issuer, key, (now - SKEW, min(end, signer.end)))
        # 4.2.1.12: clients hold what stands below to it as well
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(_authority_id(signer.certificate), critical=False)
        return shape.extend(builder).sign(signer.key, hashes.SHA256())
    builder = _builder(shape.subject, issuer, key, (now - SKEW, end))
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
    return shape.extend(builder).sign(signer, hashes.SHA256())


def create_ca(folder: Path, common_name: str, *, hosts: Sequence[str] = (), days: float = 3650) -> Authority:
    """Make a root that signs leaves itself in `folder` (`ca.pem`, `ca.key`). One that is there stays (ConfigError).

    With `hosts` it carries critical name constraints: these DNS names and their subdomains, these addresses, nothing
    else, so that a stolen key cannot impersonate the rest of the Internet. `pki_chain` makes a root with an intermediate.
    """
    for name in (CA_CERTIFICATE, CA_KEY):
        if (folder / name).exists():
            raise ConfigError(str(folder / name), "there is a CA already", "use it, or move it away to make a new one")
    authority = make_ca(CaShape(common_name, tuple(hosts), days))
    make_folder(folder)
    write_atomic(folder / CA_KEY, key_pem(authority.key))
    write_atomic(folder / CA_CERTIFICATE, authority.pem, mode=0o644)
    return authority


def load_ca(folder: Path) -> Authority:
    """The CA that `create_ca` left in `folder`.

    Raises ConfigError, with the cure, where a file is missing or unreadable, the key can be read by group or others,
    key and certificate do not belong together, or the certificate is not a CA or has expired.
    """
    certificate, *others = read_certificates(folder / CA_CERTIFICATE)
    key = read_key(folder / CA_KEY)
    check_ca(certificate, key, folder / CA_CERTIFICATE)
    return Authority(certificate, key, roots=(certificate, *others))


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
    """Write `data` by rename, with `mode` from the start: a reader (and Envoy's watch) sees the old file or the new.

    Run by root, the file keeps its owner, and a new one gets its folder's: what `sudo extproc ca` writes into the state of
    a service user must stay readable to the gateway. Raises OSError, with `path` as its file.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp creates with 0600
        with os.fdopen(handle, "wb") as file:
            _give(file.fileno(), path if path.exists() else path.parent)
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_folder(path: Path) -> None:
    """Make a folder (0700) and those above it. Run by root, they belong to the owner of the one that was there."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in missing:
        _give(folder, missing[-1].parent)


def _give(target: int | Path, like: Path) -> None:
    if os.geteuid() == 0:
        owner = like.stat()
        with contextlib.suppress(PermissionError):  # root of a container may have no right to: then it stays root's
            os.chown(target, owner.st_uid, owner.st_gid)


def group_shares(folder: Path) -> bool:
    """Whether a folder is made for its group to read: set-group-ID, and open to the group.

    So Kubernetes makes a volume for a pod with `fsGroup` (kubelet: `rwxrws---` at least). A folder that we make is not.
    """
    mode = folder.stat().st_mode
    shared = stat.S_ISGID | stat.S_IRGRP | stat.S_IXGRP
    return mode & shared == shared


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
    data = yaml.safe_dump({"resources": [resource]}, sort_keys=False, width=1000).encode()
    # Envoy of another user reads it through the group of a folder that was made for that
    write_atomic(path, data, mode=0o640 if group_shares(path.parent) else 0o600)


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


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _authority_id(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """4.2.1.1: equal to the subject key identifier of the CA, so that a client finds the right one of two."""
    try:
        identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # a CA that is not ours may lack it: lenient clients match by name then
        identifier = x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
