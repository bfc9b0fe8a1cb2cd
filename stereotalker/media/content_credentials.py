"""C2PA content credentials: every video says that a trained model made it, which one, and with whose consent.

The marking follows C2PA 2 (`c2pa.actions.v2`, `c2pa.created`) with IPTC's digital source type trainedAlgorithmicMedia,
because the EU AI Act's Article 50 asks for machine-readable marking. The signature is ES256, with the certificate of
the studio, or with a local certificate that is made at first use. A local certificate proves that the file was not
changed; it does not prove who made it.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from stereotalker import __version__
from stereotalker.errors import Unavailable, UserError
from stereotalker.params import ProvenanceParams
from stereotalker.store.digests import digest
from stereotalker.store.files import write_atomic

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_ASSERTION = "org.stereotalker.generation"  # label of our assertion: clip, avatar, models and consent
_BLOCK = 1 << 20  # bytes that are written at once
_YEARS = 10  # for which a local certificate is valid
_MIME = {".mp4": "video/mp4", ".mov": "video/quicktime"}


@dataclass(frozen=True)
class C2paSigner:
    """A certificate chain (PEM, leaf first) and its private key (PEM, P-256)."""

    chain: bytes
    key: bytes

    @property
    def identity(self) -> str:
        """Digest of the certificate chain."""
        return digest(self.chain)

    def sign(self, source: Path, target: Path, title: str, claims: dict) -> None:
        """Write a copy of a video that holds content credentials.

        claims: plain values that say how the video was made. Raises UserError if it cannot be signed.
        """
        manifest = {
            "claim_generator_info": [{"name": "StereoTalker", "version": __version__}],
            "title": title,
            "format": _MIME[source.suffix],
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
                },
                {"label": _ASSERTION, "data": claims},
            ],
        }
        info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=self.chain, private_key=self.key, ta_url=None)
        try:
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
                builder.sign_file(str(source), str(target), signer)
        except c2pa.C2paError as error:
            # For a full disk, c2pa's text names neither the disk nor an error number.
            _check_room(target, source.stat().st_size)
            raise UserError(
                f"{source.name} could not be signed: {error}; check provenance.certificate and provenance.key"
            ) from None


def _check_room(path: Path, size: int) -> None:
    """Raise OSError if no file of this size can be written in place of `path`."""
    try:
        with open(path, "wb") as file:
            for _ in range(size // _BLOCK + 1):
                file.write(bytes(_BLOCK))
            file.flush()
    finally:
        path.unlink(missing_ok=True)


def needs_local_signer(params: ProvenanceParams) -> bool:
    """Whether videos are signed with the local certificate, because the studio has given none."""
    return params.sign and params.certificate is None and params.key is None


def open_signer(params: ProvenanceParams, folder: Path) -> C2paSigner | None:
    """The signer with the studio's certificate, or else with the local one in `folder`, which is made at first use.

    Returns None if signing is switched off. Raises Unavailable if the certificate or its key cannot be used.
    """
    if not params.sign:
        return None
    if needs_local_signer(params):
        return _local_signer(folder)
    if params.certificate is None or params.key is None:
        raise Unavailable("provenance: give certificate and key, or neither for a local one")
    try:
        signer = C2paSigner(params.certificate.read_bytes(), params.key.read_bytes())
        leaf, is_pair = x509.load_pem_x509_certificates(signer.chain)[0], _is_pair(signer)
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(f"provenance: {params.certificate} with {params.key} cannot be used: {error}") from None
    if leaf.not_valid_after_utc < datetime.now(UTC):
        raise Unavailable(f"provenance: {params.certificate} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; renew it")
    if not is_pair:
        raise Unavailable(f"provenance: {params.key} is not the key of {params.certificate}")
    return signer


@dataclass(frozen=True)
class Credentials:
    """The content credentials of a file, as `verify` read them."""

    state: str  # "Valid" (unchanged, signer not on a trust list), "Trusted" or "Invalid"
    signer: str
    signed: str  # time of signing, as the signer states it
    source_type: str
    claims: dict
    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the file is unchanged and marked as generated."""
        return self.state in ("Valid", "Trusted") and self.source_type == SOURCE_TYPE


def verify(file: Path) -> Credentials:
    """Read and check the credentials of a video. Raises UserError if it has none, or if it cannot be read."""
    if not file.is_file():
        raise UserError(f"{file} not found; expected a video file")
    try:
        with c2pa.Reader(_MIME.get(file.suffix.lower(), _MIME[".mp4"]), io.BytesIO(file.read_bytes())) as reader:
            report = json.loads(reader.json())
            state = reader.get_validation_state() or "Invalid"
    except c2pa.C2paError as error:
        has_none = "ManifestNotFound" in str(error) or "no JUMBF" in str(error)
        problem = "holds no content credentials" if has_none else f"cannot be read: {error}"
        raise UserError(
            f"{file} {problem}; expected a video made by `stereotalker produce` with provenance.sign on"
        ) from None
    active = report["manifests"][report["active_manifest"]]
    assertions = {entry["label"]: entry["data"] for entry in active.get("assertions", [])}
    actions: list[dict] = next(
        (data["actions"] for label, data in assertions.items() if label.startswith("c2pa.actions")), [{}]
    )
    signature = active.get("signature_info", {})
    failures = report.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    untrusted = {"signingCredential.untrusted"}  # this says nothing about the file, only that no trust list was given
    faults = tuple(
        f"{fault['code']}: {fault.get('explanation', '')}" for fault in failures if fault["code"] not in untrusted
    )
    return Credentials(
        state=state,
        signer=signature.get("issuer") or signature.get("common_name") or "unknown",
        signed=signature.get("time", "not stated"),
        source_type=actions[0].get("digitalSourceType", ""),
        claims=assertions.get(_ASSERTION, {}),
        faults=faults,
    )


def _local_signer(folder: Path) -> C2paSigner:
    """The signer whose certificate chain and key are in `folder`.

    They are made if they do not exist, or do not belong together because a process was killed between the two.
    """
    chain, key = folder / "local-chain.pem", folder / "local-key.pem"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / "local.lock"):
        if chain.is_file() and key.is_file():
            signer = C2paSigner(chain.read_bytes(), key.read_bytes())
            if _is_pair(signer):
                return signer
        signer = _make_local_signer()
        write_atomic(key, signer.key)
        os.chmod(key, 0o600)
        write_atomic(chain, signer.chain)
    return signer


def _is_pair(signer: C2paSigner) -> bool:
    """Whether the key is that of the leaf certificate. Raises ValueError or TypeError if one cannot be read."""
    leaf = x509.load_pem_x509_certificates(signer.chain)[0]
    return leaf.public_key() == serialization.load_pem_private_key(signer.key, None).public_key()


def _make_local_signer() -> C2paSigner:
    """Make a local certificate authority and a leaf certificate that it signs.

    The signer is the end of a chain, as with a certificate that a studio buys. The key of the authority is not kept.
    """
    authority_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("StereoTalker local authority", authority_key, None, authority_key, True)
    leaf = _certificate("StereoTalker local signer", leaf_key, authority, authority_key, False)
    pem = serialization.Encoding.PEM
    key = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return C2paSigner(leaf.public_bytes(pem) + authority.public_bytes(pem), key)


def _certificate(name: str, key, issuer: x509.Certificate | None, issuer_key, is_authority: bool) -> x509.Certificate:
    """An X.509 certificate for `key`, signed with `issuer_key`. issuer None: the certificate names itself."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "local, not on a trust list"),
        ]
    )
    begin = datetime.now(UTC) - timedelta(days=1)
    unused = (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    )
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        **{name: False for name in unused},
    )
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_id, critical=False)
    )
    if not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
