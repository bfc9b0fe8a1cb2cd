"""Provenance: C2PA content credentials in every video. They say: made by a trained model, by which one, from whose consent.

The mark follows C2PA 2 (`c2pa.actions.v2`, `c2pa.created`) with IPTC's digital source type trainedAlgorithmicMedia, as the EU AI
Act's Article 50 asks for machine-readable marking. Signed with ES256 by the studio's certificate, or by a local one made at first
use: then the seal tells that nothing was changed, and not who made it.
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

from stereotalker import __version__
from stereotalker.errors import UserError
from stereotalker.params import ProvenanceParams
from stereotalker.store.digests import digest
from stereotalker.store.files import write_atomic

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_ASSERTION = "org.stereotalker.generation"  # what was made, with which models and whose consent
_YEARS = 10
_MIME = {".mp4": "video/mp4", ".mov": "video/quicktime"}


@dataclass(frozen=True)
class C2paSigner:
    """A certificate chain (PEM, leaf first) and its private key (PEM, P-256)."""

    chain: bytes
    key: bytes

    @property
    def identity(self) -> str:
        return digest(self.chain)

    def sign(self, source: Path, target: Path, title: str, claims: dict) -> None:
        """Copy a video with credentials put in. claims: plain values about how it was made. Raises UserError."""
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
            raise UserError(
                f"{source.name} could not be signed: {error}; check provenance.certificate and provenance.key"
            ) from None


def open_signer(params: ProvenanceParams, folder: Path) -> C2paSigner | None:
    """The studio's certificate, else the local one of `folder`, made at first use; None when signing is off. Raises UserError."""
    if not params.sign:
        return None
    if (params.certificate is None) != (params.key is None):
        raise UserError("provenance: give certificate and key, or neither for a local one")
    if params.certificate is None:
        return _local(folder)
    try:
        seal = C2paSigner(params.certificate.read_bytes(), params.key.read_bytes())
        leaf = x509.load_pem_x509_certificates(seal.chain)[0]
        private = serialization.load_pem_private_key(seal.key, None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"provenance: {params.certificate} with {params.key} cannot be used: {error}") from None
    if leaf.not_valid_after_utc < datetime.now(UTC):
        raise UserError(f"provenance: {params.certificate} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; renew it")
    if leaf.public_key() != private.public_key():
        raise UserError(f"provenance: {params.key} is not the key of {params.certificate}")
    return seal


@dataclass(frozen=True)
class Credentials:
    """What `verify` found in a file."""

    state: str  # "Valid" (whole, signer not on a trust list), "Trusted", or "Invalid"
    signer: str
    signed: str  # when, as the signer says
    source_type: str
    claims: dict
    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.state in ("Valid", "Trusted") and self.source_type == SOURCE_TYPE


def verify(file: Path) -> Credentials:
    """Read and check the credentials of a video. Raises UserError where there are none or the file cannot be read."""
    if not file.is_file():
        raise UserError(f"{file} not found; expected a video file")
    try:
        with c2pa.Reader(_MIME.get(file.suffix.lower(), _MIME[".mp4"]), io.BytesIO(file.read_bytes())) as reader:
            report = json.loads(reader.json())
            state = reader.get_validation_state() or "Invalid"
    except c2pa.C2paError as error:
        kind = (
            "holds no content credentials"
            if "ManifestNotFound" in str(error) or "no JUMBF" in str(error)
            else f"cannot be read: {error}"
        )
        raise UserError(
            f"{file} {kind}; expected a video made by `stereotalker produce` with provenance.sign on"
        ) from None
    active = report["manifests"][report["active_manifest"]]
    assertions = {entry["label"]: entry["data"] for entry in active.get("assertions", [])}
    actions = next((data["actions"] for label, data in assertions.items() if label.startswith("c2pa.actions")), [{}])
    signature = active.get("signature_info", {})
    failures = report.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    untrusted = {"signingCredential.untrusted"}  # a matter of trust lists, not of the file
    faults = tuple(
        f"{fault['code']}: {fault.get('explanation', '')}" for fault in failures if fault["code"] not in untrusted
    )
    return Credentials(
        state, signature.get("issuer") or signature.get("common_name") or "unknown", signature.get("time", "not stated"),
        actions[0].get("digitalSourceType", ""), assertions.get(_ASSERTION, {}), faults,
    )  # fmt: skip


def _local(folder: Path) -> C2paSigner:
    chain, key = folder / "local-chain.pem", folder / "local-key.pem"
    if not (chain.is_file() and key.is_file()):
        made = _make_local()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(key, made.key)
        os.chmod(key, 0o600)
        write_atomic(chain, made.chain)
    return C2paSigner(chain.read_bytes(), key.read_bytes())


def _make_local() -> C2paSigner:
    """A local authority and a leaf that it signs; C2PA refuses self-signed leaves. The authority's key is thrown away."""
    authority_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("StereoTalker local authority", authority_key, None, authority_key, True)
    leaf = _certificate("StereoTalker local signer", leaf_key, authority, authority_key, False)
    pem = serialization.Encoding.PEM
    key = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return C2paSigner(leaf.public_bytes(pem) + authority.public_bytes(pem), key)


def _certificate(name: str, key, issuer: x509.Certificate | None, issuer_key, authority: bool) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "local, not on a trust list"),
        ]
    )
    begin = datetime.now(UTC) - timedelta(days=1)
    usage = {
        name: False
        for name in (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        )
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )  # fmt: skip
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
