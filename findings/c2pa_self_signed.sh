#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check c2pa-python==0.38.1 cryptography==50.0.2 pillow==12.0.0
cd "$folder"
# A certificate that signed itself, the usual first try with TLS, is refused when a picture is signed, although nobody has
# asked whether the certificate is trusted. The same key under a certificate that a local authority signed works, and the
# result reads back: its signature is valid, and its signer untrusted, which is all that trust would have changed.
"$folder/env/bin/python" - <<'PY'
import datetime
import io
import json

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image


def certificate(name, key, issuer, issuer_key, authority):
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = dict(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
                 key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False)
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(*certificates):
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def sign(chain, key):
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=secret, ta_url=None))
    manifest = {"claim_generator_info": [{"name": "finding"}], "assertions": []}
    picture, result = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(picture, "JPEG")
    picture.seek(0)
    c2pa.Builder(json.dumps(manifest)).sign(signer, "image/jpeg", picture, result)
    result.seek(0)
    return json.loads(c2pa.Reader("image/jpeg", result).json())


key, authority_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
try:
    sign(pem(certificate("self", key, None, key, False)), key)
    raise SystemExit("a certificate that signed itself was accepted")
except c2pa.C2paError as error:
    print("self-signed:", type(error).__name__, error)
root = certificate("root", authority_key, None, authority_key, True)
leaf = certificate("leaf", key, root, authority_key, False)
found = sign(pem(leaf, root), key)
codes = [status["code"] for status in found.get("validation_status", [])]
print("under an authority:", found.get("validation_state"), codes)
assert found["validation_state"] == "Valid" and codes == ["signingCredential.untrusted"]
PY
echo "seen: c2pa 0.38.1 refuses to sign with a certificate that signed itself"
