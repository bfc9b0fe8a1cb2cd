"""Signatures of releases, in OpenSSF's format for models (model-signing, a Sigstore bundle with an EC key).

What is signed is a folder that holds the manifest alone. The manifest names the digest of every file, so the signature
covers all of them. `model_signing verify key` checks it without this package.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from filelock import FileLock

from stereotalker.errors import Unavailable
from stereotalker.releases.model_store import MANIFEST
from stereotalker.store.files import write_atomic

_KEY, _PUBLIC_KEY = "release-key.pem", "release-key.pub"


def sign(manifest: bytes, key: Path) -> bytes:
    """The signature of a manifest. key: PEM of a private EC key. Raises Unavailable if it cannot be used."""
    import model_signing

    with tempfile.TemporaryDirectory() as folder:
        signed, signature = _folder_of(manifest, Path(folder)), Path(folder) / "signature"
        try:
            config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
            config.sign(signed, signature)
        except (OSError, ValueError, TypeError) as error:
            raise Unavailable(f"releases.key {key} cannot sign: {error}; expected the PEM of an EC key") from None
        return signature.read_bytes()


def is_signed(manifest: bytes, signature: bytes, public_key: Path) -> bool:
    """Whether a signature of this manifest was made with the private key of `public_key`, a PEM file."""
    import model_signing

    with tempfile.TemporaryDirectory() as folder:
        signed, path = _folder_of(manifest, Path(folder)), Path(folder) / "signature"
        path.write_bytes(signature)
        try:
            config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
            config.verify(signed, path)
        except (OSError, ValueError, KeyError, TypeError):
            return False
    return True


def _folder_of(manifest: bytes, folder: Path) -> Path:
    signed = folder / "release"
    signed.mkdir()
    (signed / MANIFEST).write_bytes(manifest)
    return signed


def key_pair(key: Path | None, folder: Path) -> tuple[Path, Path]:
    """Paths of the private key and of its public key, which is written to `folder`.

    key: the studio's key, or None for a local one in `folder`, which is made at first use. Raises Unavailable if the
    studio's key cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / "release-key.lock"):
        private = key or folder / _KEY
        if key is None and not private.is_file():
            write_atomic(private, _pem(ec.generate_private_key(ec.SECP256R1())))
            private.chmod(0o600)
        try:
            loaded = serialization.load_pem_private_key(private.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise Unavailable(f"releases.key {private} cannot be read: {error}") from None
        public = loaded.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        path = folder / _PUBLIC_KEY
        if not path.is_file() or path.read_bytes() != public:
            write_atomic(path, public)
    return private, path


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
