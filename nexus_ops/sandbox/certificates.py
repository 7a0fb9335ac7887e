"""A certificate for the sandbox's gateway, signed by itself: what cert-manager or a person puts there elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

VALID = timedelta(days=365)


def make_certificate(host: str) -> dict[str, str]:
    """The data of a Secret of type kubernetes.io/tls: a new key, and its certificate for a host (PEM)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"tls.crt": certificate.public_bytes(pem).decode(), "tls.key": private.decode()}
