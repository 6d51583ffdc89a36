"""Keys, certificates, tokens, revocation: what is taken, and what is refused by name."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from m2fedsa.errors import IdentityError, RefusedError
from m2fedsa.identity import (
    Identity,
    Revoked,
    Token,
    certify,
    fingerprint,
    new_authority,
    new_key,
    read_certificate,
    read_key,
    write_certificate,
    write_key,
)

KEY, OTHER = new_key(), new_key()
AUTHORITY = (KEY, new_authority(KEY, "a run"))


def files(folder: Path, **changes: object) -> Identity:
    """A party's three files, written and read."""
    key = changes.get("key", OTHER)
    write_key(folder / "a.key", key)
    write_certificate(folder / "a.pem", changes.get("certificate", certify(AUTHORITY, OTHER.public_key(), "ann", "client")))
    write_certificate(folder / "ca.pem", changes.get("authority", AUTHORITY[1]))
    return Identity.read(folder / "a.key", folder / "a.pem", folder / "ca.pem")


def test_a_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path).private_numbers() == KEY.private_numbers()
    with pytest.raises(IdentityError, match="is there already"):
        write_key(path, OTHER)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(IdentityError, match=rf"a\.key: others .*mode 0{mode:o}.*chmod 600"):
            read_key(path)


def test_one_key_in_two_forms(tmp_path: Path) -> None:
    write_key(tmp_path / "a", KEY)
    write_key(tmp_path / "b", KEY, openssh=True)
    assert (tmp_path / "b").read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY")
    assert read_key(tmp_path / "a").private_numbers() == read_key(tmp_path / "b").private_numbers()


@pytest.mark.parametrize("kind", ["missing", "garbage", "rsa", "another curve"])
def test_keys_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.key"
    if kind == "garbage":
        path.write_bytes(b"no key")
    elif kind != "missing":
        made = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        path.write_bytes(made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    if path.exists():
        path.chmod(0o600)
    with pytest.raises(IdentityError, match=r"a\.key: (cannot be read|is no private key|is a key of another kind)"):
        read_key(path)


def test_an_identity_tells_no_secret(tmp_path: Path) -> None:
    found = files(tmp_path)
    assert found.name == "ann"
    secret = (tmp_path / "a.key").read_text()
    assert secret.splitlines()[1] in found.key_pem.decode()
    assert secret.splitlines()[1] not in repr(found)
    assert "PrivateKey" not in repr(found)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(IdentityError, match="certificate of another key"):
        files(tmp_path, key=new_key())
    with pytest.raises(IdentityError, match="was not issued by"):
        files(tmp_path / "b", authority=new_authority(OTHER, "another run"))


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    write_certificate(tmp_path / "a.pem", certify(AUTHORITY, OTHER.public_key(), "ann", "client", days=0))
    with pytest.raises(IdentityError, match="is valid from"):
        read_certificate(tmp_path / "a.pem")


def test_what_a_certificate_says() -> None:
    """Read with cryptography itself: who, for how long, what for."""
    server = certify(AUTHORITY, OTHER.public_key(), "main-server", "main server", ("example.org", "127.0.0.1"))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(server.signature_hash_algorithm, hashes.SHA384)
    server.verify_directly_issued_by(AUTHORITY[1])
    client = certify(AUTHORITY, OTHER.public_key(), "ann", "client")
    uses = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.SERVER_AUTH not in uses


TOKEN = Token("a run", "ann", "train", 3, 1000.0, fingerprint(OTHER.public_key()))


def test_a_token_comes_back_as_it_was_signed() -> None:
    found = Token.verified(TOKEN.signed(KEY), KEY.public_key())
    assert found == TOKEN
    found.check("a run", "ann", fingerprint(OTHER.public_key()), now=999.0)
    found.check_round(3)
    found.check_evaluation(2)
    replace(found, purpose="evaluate").check_evaluation(3)
    replace(found, purpose="predict").check_evaluation(17)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "no token",
        lambda text: text.replace(".", ""),
        lambda text: "A" + text[1:],
        lambda text: text[:-8] + "AAAAAAAA",
        lambda text: text.partition(".")[0] + ".",
        lambda text: TOKEN.signed(OTHER),
        lambda text: replace(TOKEN, round=4).signed(OTHER).partition(".")[0] + "." + text.partition(".")[2],
        lambda text: text + ".x",
    ],
)
def test_tokens_that_the_fed_server_did_not_sign(spoil) -> None:
    with pytest.raises(RefusedError, match="not one that this run's fed server signed"):
        Token.verified(spoil(TOKEN.signed(KEY)), KEY.public_key())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"run": "b run"}, "for the run a run, but this is b run"),
        ({"client": "bob"}, "client bob came with the token of client ann"),
        ({"key": fingerprint(KEY.public_key())}, "bound to another key"),
        ({"now": 1060.0}, "expired 60 seconds ago"),
    ],
)
def test_tokens_of_somebody_else_or_of_another_time(wrong: dict[str, object], said: str) -> None:
    right = {"run": "a run", "client": "ann", "key": fingerprint(OTHER.public_key()), "now": 0.0}
    with pytest.raises(RefusedError, match=said):
        TOKEN.check(**{**right, **wrong})


@pytest.mark.parametrize(("purpose", "round_number"), [("train", 2), ("train", 4), ("evaluate", 3), ("predict", 3)])
def test_a_token_opens_one_round_alone(purpose: str, round_number: int) -> None:
    with pytest.raises(RefusedError, match=f"no session of round {round_number}"):
        replace(TOKEN, purpose=purpose).check_round(round_number)


@pytest.mark.parametrize(("purpose", "at"), [("train", 3), ("train", 1), ("evaluate", 2), ("evaluate", 4)])
def test_a_token_evaluates_after_one_round_alone(purpose: str, at: int) -> None:
    with pytest.raises(RefusedError, match=f"not after round {at}"):
        replace(TOKEN, purpose=purpose).check_evaluation(at)


def test_revoked_keys_are_known_at_once_and_after_a_restart(tmp_path: Path) -> None:
    here, there = Revoked(tmp_path / "revoked.json"), Revoked(tmp_path / "revoked.json")
    assert "ab" not in here
    there.add("ab", "ann")
    time.sleep(0.01)
    there.add("cd", "bob")
    assert "ab" in here
    assert "cd" in here
    assert "ab" in Revoked(tmp_path / "revoked.json")
    (tmp_path / "revoked.json").write_text("nonsense")
    with pytest.raises(IdentityError, match="nobody is let in"):
        "ab" in here  # noqa: B015
