import argparse
import json
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedward.common.config.consortium import load_consortium
from fedward.common.errors import ConfigError, TrustError
from fedward.common.keys import fingerprint, load_key, public_text
from fedward.common.kit import load_kit
from fedward.deploy.commands import keys
from fedward.deploy.enroll import enroll_operator, enroll_site
from fedward.deploy.provision import Provisioned, provision
from tests.deploy.consortium import NOW, SITE, enroll, found, write

OPENSSL, KEYGEN = shutil.which("openssl"), shutil.which("ssh-keygen")
PUBLIC = {"kit.json", "ca.crt", "roster.json"}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def again(tmp_path: Path) -> Callable[..., Provisioned]:
    """Return a function that provisions anna and sites a and b, once more at each call."""

    def provision_again(*sites: str, text: str = "", **options: object) -> Provisioned:
        loaded = found(tmp_path, *(sites or ("a", "b")), text=text)
        now = options.pop("now", NOW)
        return provision(loaded, tmp_path / "kits", now=now, **options)  # type: ignore[arg-type]

    return provision_again


Again = Callable[..., Provisioned]


def test_everyone_gets_a_kit_and_only_the_server_secrets(again: Again, tmp_path: Path) -> None:
    made = again()
    assert [kit.name for kit in made.kits] == ["server", "operator-anna", "site-a", "site-b"]
    for kit in made.kits[1:]:
        assert {path.name for path in kit.iterdir()} == PUBLIC
    assert {path.name for path in made.kits[0].iterdir()} == {
        *PUBLIC,
        "server.crt",
        "server.key",
        "model.key",
    }
    secret = [path for path in (tmp_path / "kits").rglob("*") if b"PRIVATE" in content(path)]
    assert {path.name for path in secret} == {"ca.key", "server.key", "model.key"}
    assert {mode(path) for path in secret} == {0o600}
    assert {mode(path.parent) for path in secret} == {0o700}


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_no_secret_of_anyone_is_in_a_kit_in_any_form(again: Again, tmp_path: Path) -> None:
    made = again()
    key_files = [
        *(tmp_path / site / "site.key" for site in ("a", "b")),
        tmp_path / "anna.key",
        tmp_path / "kits" / "ca" / "ca.key",
        tmp_path / "kits" / "server" / "server.key",
        tmp_path / "kits" / "server" / "model.key",
    ]
    numbers = [load_key(path).private_numbers().private_value for path in key_files]
    salts = [(tmp_path / site / "id-salt").read_bytes() for site in ("a", "b")]
    for kit in made.kits[1:]:
        for name, found_bytes in files(kit).items():
            assert b"PRIVATE" not in found_bytes, name
            for number in numbers:
                assert number.to_bytes(48, "big") not in found_bytes
                assert f"{number:x}".encode() not in found_bytes.lower()
            assert not any(salt in found_bytes for salt in salts)


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
def test_openssl_verifies_the_servers_certificate_for_every_name(again: Again) -> None:
    server = again().kits[0]
    base = [str(OPENSSL), "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.crt"]
    base += ["-attime", str(int(NOW.timestamp()))]
    hosts = ["federation.example.org", "localhost"]
    addresses = ["10.0.0.7", "127.0.0.1", "::1"]
    options = [["-verify_hostname", one] for one in hosts]
    options += [["-verify_ip", one] for one in addresses]
    for option in options:
        command = [*base, *option, "server.crt"]
        done = subprocess.run(command, cwd=server, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    command = [*base, "-verify_hostname", "evil.example", "server.crt"]
    done = subprocess.run(command, cwd=server, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    later = [*base[:-1], str(int((NOW + timedelta(days=366)).timestamp())), "server.crt"]
    done = subprocess.run(later, cwd=server, capture_output=True, text=True, check=False)
    assert "expired" in done.stderr


@pytest.mark.network
def test_a_client_with_the_sites_kit_connects_and_one_of_another_consortium_does_not(
    tmp_path: Path,
) -> None:
    kits = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        loaded = found(tmp_path / name, "a")
        kits.append(provision(loaded, tmp_path / name / "kits", now=datetime.now(UTC)).kits)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kits[0][0] / "server.crt", kits[0][0] / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            plain, _ = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as peer:
                    peer.recv(1)
            except (ssl.SSLError, OSError):
                plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        connect(listener.getsockname(), kits[0][2] / "ca.crt")
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(listener.getsockname(), kits[1][2] / "ca.crt")
        thread.join()


def connect(address: tuple[str, int], ca_file: Path) -> None:
    context = ssl.create_default_context(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(address) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        wrapped.sendall(b"x")


def test_a_second_call_changes_no_byte(again: Again, tmp_path: Path) -> None:
    again()
    before = files(tmp_path / "kits")
    made = again(now=NOW + timedelta(days=7))
    assert files(tmp_path / "kits") == before
    assert (made.roster.serial, made.changes) == (1, ())


def test_a_site_that_joins_or_leaves_raises_the_serial(again: Again, tmp_path: Path) -> None:
    first = again()
    server_secrets = {name: (first.kits[0] / name).read_bytes() for name in ("server.key",)}
    second = again("a", "b", "c")
    assert (second.roster.serial, len(second.roster.sites)) == (2, 3)
    assert any(line.startswith("site joined: c") for line in second.changes)
    third = again("a", "c")
    assert third.roster.serial == 3
    assert "site left: b" in third.changes
    assert not (tmp_path / "kits" / "site-b").exists()
    assert load_kit(tmp_path / "kits" / "site-c", "site").roster == third.roster
    assert (third.kits[0] / "server.key").read_bytes() == server_secrets["server.key"]
    assert third.roster.revoked == ()


def test_what_a_person_put_into_a_kit_is_not_removed_with_it(again: Again) -> None:
    note = again().kits[3] / "note.txt"
    note.write_text("ours", encoding="utf-8")
    again("a")
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]


def test_a_new_address_needs_a_new_certificate(again: Again, tmp_path: Path) -> None:
    first = again()
    old = (first.kits[0] / "server.crt").read_bytes()
    path = tmp_path / "consortium.yaml"
    text = path.read_text(encoding="utf-8").replace("federation.example", "new.example")
    path.write_text(text, encoding="utf-8")
    made = provision(load_consortium(path), tmp_path / "kits", now=NOW + timedelta(days=1))
    assert (made.kits[0] / "server.crt").read_bytes() != old
    assert made.roster.address == "new.example.org:8443"
    assert load_kit(made.kits[0], "server").roster.serial == 2


def test_renewal_keeps_the_authority_and_the_models_key(again: Again, tmp_path: Path) -> None:
    first = again()
    before = files(tmp_path / "kits")
    later = NOW + timedelta(days=340)
    second = again(renew=True, now=later)
    after = files(tmp_path / "kits")
    changed = {name for name in after if after[name] != before.get(name)}
    rosters = {f"{folder}/roster.json" for folder in ("ca", *(kit.name for kit in second.kits))}
    assert changed == {"server/server.crt", "server/server.key", *rosters}
    assert second.roster.serial == first.roster.serial + 1
    assert second.roster.expires == (later + timedelta(days=365)).isoformat()
    assert second.roster.model_key == first.roster.model_key
    assert load_kit(second.kits[0], "server")


def test_a_certificate_never_outlives_its_authority(again: Again) -> None:
    again()
    made = again(renew=True, now=NOW + timedelta(days=3500))
    assert made.roster.expires == (NOW + timedelta(days=3650)).isoformat()


def test_a_revoked_site_is_out_for_good_until_it_has_a_new_key(
    again: Again, tmp_path: Path
) -> None:
    first = again()
    stolen = first.roster.sites[1].public_key
    second = again(revoke="b")
    assert second.roster.revoked == (fingerprint(stolen),)
    assert (second.roster.serial, second.roster.site_of(stolen)) == (2, None)
    assert second.left_out == ("site b",)
    assert not (tmp_path / "kits" / "site-b").exists()
    before = files(tmp_path / "kits")
    for options in ({}, {"revoke": "b"}):
        third = again(**options)
        assert third.left_out == ("site b",)
        assert files(tmp_path / "kits") == before
    shutil.rmtree(tmp_path / "b")
    fourth = again()
    assert (fourth.roster.serial, fourth.left_out) == (3, ())
    assert fourth.roster.revoked == (fingerprint(stolen),)
    assert fourth.roster.site_of(stolen) is None
    assert [one.name for one in fourth.roster.sites] == ["a", "b"]


def test_a_lost_key_is_revoked_although_the_file_already_holds_the_new_one(
    again: Again, tmp_path: Path
) -> None:
    stolen = again().roster.sites[1].public_key
    shutil.rmtree(tmp_path / "b")
    made = again(revoke="b")
    assert made.roster.revoked == (fingerprint(stolen),)
    assert made.roster.sites[1].public_key == enroll(tmp_path, "b").public_key


def test_an_operators_key_can_be_revoked_too(again: Again) -> None:
    again()
    made = again(revoke="anna")
    assert (made.roster.operators, made.left_out) == ((), ("operator anna",))
    with pytest.raises(TrustError, match="knows no operator"):
        made.roster.operator("anna")


def test_nobody_is_revoked_by_a_misspelled_name(again: Again, tmp_path: Path) -> None:
    again("berlin")
    before = files(tmp_path / "kits")
    with pytest.raises(ConfigError, match="nobody is called 'berln', did you mean 'berlin'"):
        again("berlin", revoke="berln")
    assert files(tmp_path / "kits") == before


def test_a_folder_that_lost_a_part_is_refused_and_not_filled_with_new_keys(
    again: Again, tmp_path: Path
) -> None:
    kits = again().kits[0].parent
    (kits / "server" / "model.key").rename(tmp_path / "model.key")
    with pytest.raises(ConfigError, match=r"model\.key not there; put it back"):
        again()
    (tmp_path / "model.key").rename(kits / "server" / "model.key")
    (kits / "ca").rename(tmp_path / "ca")
    with pytest.raises(ConfigError, match="there are kits but not the folder ca"):
        again()
    (tmp_path / "ca").rename(kits / "ca")
    (kits / "ca" / "ca.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        again()


def test_kits_of_another_consortium_are_not_overwritten(again: Again, tmp_path: Path) -> None:
    again()
    (tmp_path / "other").mkdir()
    loaded = found(tmp_path / "other", "a")
    config = loaded.config.model_copy(update={"name": "Heart South"})
    other = type(loaded)(config, loaded.path)
    with pytest.raises(ConfigError, match="give each consortium a folder of its own"):
        provision(other, tmp_path / "kits", now=NOW)


def test_a_call_that_was_cut_off_is_completed_by_the_next(again: Again, tmp_path: Path) -> None:
    kits = again().kits[0].parent
    (kits / "site-a" / "roster.json").unlink()
    (kits / "server" / "server.crt").unlink()
    made = again()
    assert load_kit(kits / "server", "server").roster == made.roster
    assert load_kit(kits / "site-a", "site").roster == made.roster


def test_a_site_is_enrolled_once_with_a_key_and_a_salt(tmp_path: Path) -> None:
    first = enroll(tmp_path, "a")
    salt = (tmp_path / "a" / "id-salt").read_bytes()
    second = enroll_site(tmp_path / "a" / "site.yaml")
    assert (first.is_new, second.is_new) == (True, False)
    assert first.public_key == second.public_key
    assert first.public_key == public_text(load_key(tmp_path / "a" / "site.key"))
    assert (len(salt), (tmp_path / "a" / "id-salt").read_bytes()) == (32, salt)
    assert mode(tmp_path / "a" / "id-salt") == 0o600
    assert (tmp_path / "a" / "site.key.pub").read_text(encoding="utf-8").strip() == first.public_key


def test_a_lost_salt_is_not_replaced_while_something_was_hashed_with_it(tmp_path: Path) -> None:
    enroll(tmp_path, "a")
    (tmp_path / "a" / "id-salt").unlink()
    (tmp_path / "a" / "site.sqlite").touch()
    with pytest.raises(ConfigError, match="put it back from your backup"):
        enroll_site(tmp_path / "a" / "site.yaml")
    assert not (tmp_path / "a" / "id-salt").exists()


def test_an_operators_name_must_fit_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this name cannot be used"):
        enroll_operator("../anna", tmp_path / "key")
    assert not (tmp_path / "key").exists()


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    keys.add(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    code: int = args.command(args)
    return code


def test_the_commands_lead_from_nothing_to_kits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE.format(name="hospital-a"), encoding="utf-8")
    assert run("enroll", "--site", str(path)) == 0
    shown = capsys.readouterr().out
    assert run("enroll", "--site", str(path), "--json") == 0
    site = json.loads(capsys.readouterr().out)
    assert site["public_key"] in shown
    assert f"fingerprint: {site['fingerprint']}" in shown
    assert "cohort_bound: NUMBER" in shown
    secret = (tmp_path / "site.key").read_text(encoding="utf-8").splitlines()[2]
    assert secret not in shown
    assert run("enroll", "--operator", "anna", "--key", str(tmp_path / "anna.key"), "--json") == 0
    anna = json.loads(capsys.readouterr().out)
    write(tmp_path, anna["public_key"], {"hospital-a": site["public_key"]})
    command = ["provision", str(tmp_path / "consortium.yaml"), "--out", str(tmp_path / "kits")]
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert run(*command, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    kit = load_kit(tmp_path / "kits" / "site-hospital-a", "site")
    assert kit.roster.fingerprint == made["fingerprint"]
    assert f"fingerprint: {made['fingerprint']}" in shown
    assert kit.roster.site_of(site["public_key"]) == "hospital-a"
    assert "PRIVATE" not in shown
    assert run(*command, "--revoke", "hospital-a") == 0
    shown = capsys.readouterr().out
    assert "left out: site hospital-a: its key was revoked" in shown
    assert "changed: site left: hospital-a" in shown


@pytest.mark.skipif(KEYGEN is None, reason="ssh-keygen is not installed")
def test_the_fingerprint_shown_is_the_one_of_ssh_keygen(tmp_path: Path) -> None:
    enrolled = enroll(tmp_path, "a")
    command = [str(KEYGEN), "-l", "-f", str(tmp_path / "a" / "site.key.pub")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.split()[1] == enrolled.fingerprint


@pytest.mark.parametrize(
    "argv",
    [
        ["enroll", "--operator", "anna"],
        ["enroll", "--site", "site.yaml", "--key", "anna.key"],
    ],
)
def test_options_that_do_not_go_together_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="--key"):
        run(*argv)
