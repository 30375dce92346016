import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import ConfigError, TrustError
from fedward.common.keys import make_key, private_pem, write_private
from fedward.common.kit import certificate_expiry, expiry_warning, load_kit
from fedward.deploy.provision import provision
from tests.deploy.consortium import NOW, found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the kits of two sites and an operator."""
    folder = tmp_path_factory.mktemp("consortium")
    provision(found(folder, "a", "b"), folder / "kits", now=NOW)
    return folder / "kits"


@pytest.fixture
def kits(made: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return shutil.copytree(made, tmp_path / "kits")


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def test_each_kit_says_whose_it_is_and_where_the_server_is(kits: Path) -> None:
    server, operator, site = (
        load_kit(kits / "server", "server"),
        load_kit(kits / "operator-anna", "operator"),
        load_kit(kits / "site-b", "site"),
    )
    assert [kit.name for kit in (server, operator, site)] == ["server", "anna", "b"]
    assert server.roster == operator.roster == site.roster
    assert (site.consortium, site.address) == ("Heart North", "federation.example.org:8443")
    assert (site.host, site.port) == ("federation.example.org", 8443)
    assert all(
        path.is_file()
        for path in (
            server.ca_file,
            server.roster_file,
            server.server_cert,
            server.server_key,
            server.model_key_file,
        )
    )


def test_what_kit_json_says_beside_the_roster_is_not_believed(kits: Path) -> None:
    edit(kits / "site-a" / "kit.json", address="evil.example:1", consortium="Evil")
    kit = load_kit(kits / "site-a", "site")
    assert (kit.address, kit.consortium) == ("federation.example.org:8443", "Heart North")
    edit(kits / "site-a" / "kit.json", name="c")
    with pytest.raises(TrustError, match="knows no site 'c'"):
        load_kit(kits / "site-a", "site")


def test_the_kit_of_another_role_is_refused(kits: Path) -> None:
    with pytest.raises(ConfigError, match="not the kit of a site"):
        load_kit(kits / "operator-anna", "site")
    with pytest.raises(ConfigError, match=r"server\.crt, server\.key, model\.key not there"):
        load_kit(kits / "site-a", "server")
    with pytest.raises(ConfigError, match="no kit of a site"):
        load_kit(kits / "nothing", "site")


@pytest.mark.parametrize("name", ["server.key", "model.key"])
def test_a_secret_of_the_server_that_others_can_read_is_refused(kits: Path, name: str) -> None:
    (kits / "server" / name).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_kit(kits / "server", "server")


def test_a_kit_whose_parts_do_not_belong_together_is_refused(kits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = provision(found(folder, "a"), folder / "kits", now=NOW).kits
    for name in ("ca.crt", "roster.json"):
        spoilt = shutil.copytree(kits / "site-a", tmp_path / f"with-other-{name}")
        shutil.copy(other[0] / name, spoilt)
        with pytest.raises(TrustError, match="does not fit"):
            load_kit(spoilt, "site")
    for name, says in (
        ("server.crt", "not issued by the authority"),
        ("server.key", r"not the key of server\.crt"),
        ("model.key", "not the key that the roster names"),
    ):
        spoilt = shutil.copytree(kits / "server", tmp_path / f"with-other-{name}")
        shutil.copy(other[0] / name, spoilt)
        with pytest.raises(TrustError, match=says):
            load_kit(spoilt, "server")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2, "role": "site", "name": "a"}'])
def test_a_kit_json_of_another_make_is_refused(kits: Path, text: str) -> None:
    (kits / "site-a" / "kit.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"kit\.json"):
        load_kit(kits / "site-a", "site")


def test_a_kit_warns_a_month_before_its_end_and_after(kits: Path) -> None:
    ends = NOW + timedelta(days=365)
    server, site = load_kit(kits / "server", "server"), load_kit(kits / "site-a", "site")
    assert certificate_expiry(server.server_cert) == ends
    for kit, todo in ((server, "--renew"), (site, "ask the coordinator")):
        assert expiry_warning(kit, NOW) is None
        assert expiry_warning(kit, ends - timedelta(days=31)) is None
        soon = expiry_warning(kit, ends - timedelta(days=30)) or ""
        late = expiry_warning(kit, ends) or ""
        assert "ends in 30 days (2031-01-01 00:00 UTC)" in soon
        assert "has expired" in late
        assert todo in soon
        assert todo in late


def test_a_file_without_a_certificate_has_no_end(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    with pytest.raises(ConfigError, match="no certificate"):
        certificate_expiry(tmp_path / "key")


def test_the_servers_key_may_not_be_swapped_for_one_that_was_not_certified(kits: Path) -> None:
    fresh = private_pem(ec.generate_private_key(ec.SECP384R1()))
    write_private(kits / "server" / "server.key", fresh)
    with pytest.raises(TrustError, match=r"not the key of server\.crt"):
        load_kit(kits / "server", "server")
