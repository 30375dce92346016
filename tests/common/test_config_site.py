from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.config.consortium import load_consortium
from fedward.common.config.site import load_site_config
from fedward.common.errors import ConfigError
from fedward.common.keys import make_key, public_text

SITE = """\
version: 1
site: hospital-a
data:
  path: cohort.csv
  schema: heart-disease
limits:
  epochs: 5
min_cohort: 10
"""
KEYS = [public_text(ec.generate_private_key(ec.SECP384R1())) for _ in range(3)]
CONSORTIUM = f"""\
version: 1
name: Heart North
server:
  address: federation.example.org:8443
operators:
  - name: anna
    public_key: {KEYS[0]}
sites:
  - name: hospital-a
    public_key: {KEYS[1]} root@host
    cohort_bound: 500
  - name: hospital-b
    public_key: {KEYS[2]}
    cohort_bound: 900
"""

Change = tuple[str, str]


def write(folder: Path, name: str, text: str, *changes: Change) -> Path:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def complaint(load: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_a_short_site_file_has_the_cautious_defaults(tmp_path: Path) -> None:
    config = load_site_config(write(tmp_path, "site.yaml", SITE)).config
    assert (config.approve, config.telemetry, config.plugins) == ("ask", (), ())
    assert (config.limits.epochs, config.limits.min_replies, config.limits.rounds) == (5, 2, None)
    assert (config.key_file, config.id_salt_file, config.database) == (
        "site.key",
        "id-salt",
        "site.sqlite",
    )
    assert (config.data.format, config.data.exclude, config.show_metrics) == ("table", None, True)


def test_a_full_site_file_is_read(tmp_path: Path) -> None:
    text = SITE.replace("  epochs: 5", "  epochs: 5\n  epsilon: 4\n  delta: 1e-5\n  rounds: 100")
    text += f"""\
approve: listed
device: cuda
telemetry: [cme.rho, cme.log_mag]
plugins: [{{name: my-models, hash: {"ab" * 32}}}]
proxy: http://proxy.hospital:3128
ca_file: proxy.crt
retention_days: 365
show_metrics: false
"""
    config = load_site_config(write(tmp_path, "site.yaml", text)).config
    assert (config.limits.epsilon, config.limits.delta) == (4, 1e-5)
    assert config.plugins[0].name == "my-models"
    assert config.telemetry == ("cme.rho", "cme.log_mag")
    assert config.proxy == "http://proxy.hospital:3128"


def test_files_stand_beside_site_yaml_wherever_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "site.yaml", SITE)
    monkeypatch.chdir(tmp_path)
    site = load_site_config("site.yaml")
    monkeypatch.chdir("/")
    assert site.file(site.config.data.path) == tmp_path.resolve() / "cohort.csv"
    assert site.file("/data/cohort.csv") == Path("/data/cohort.csv")
    assert site.where("data.path") == "site.yaml:4"
    assert site.where("limits.rounds") == "site.yaml:6"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("min_cohort: 10\n", ""), "1: min_cohort: missing, expected a whole number, at least 1"),
        (("min_cohort", "min_cohor"), "8: min_cohor: unknown key, did you mean 'min_cohort'?"),
        (("min_cohort: 10", "min_cohort: 0"), "8: min_cohort: given 0, expected a whole number"),
        (("  epochs: 5", "  epoch: 5"), "7: limits.epoch: unknown key, did you mean 'epochs'?"),
        (("  epochs: 5", "  epochs: 5\n  delta: 1"), "8: limits.delta: given 1, expected a number"),
        (("site: hospital-a", "site: a/b"), "2: site: given text, expected text such as site-a"),
        (("version: 1", "version: 1\napprove: any-run"), "2: approve: given 'any-run', expected"),
        (("version: 1", "version: 1\nproxy: proxy:3128"), "2: proxy: given text, expected http:"),
        (("version: 1", "version: 1\nproxy: 'http://a:0'"), "2: proxy: given text, expected http:"),
        (("version: 1", "version: 1\nproxy: http://a"), "2: proxy: given text, expected http://h"),
        (
            ("version: 1", "version: 1\ntelemetry: [cme.roh]"),
            "2: telemetry[0]: given text, expected one of cme, cme.log_mag, cme.rho, cme.map_cos, "
            "cme.top1, did you mean 'cme.rho'?",
        ),
        (
            ("version: 1", "version: 1\nplugins: [{name: x, hash: abc}]"),
            "2: plugins[0].hash: given text, expected text such as 64 hexadecimal digits",
        ),
        (("  path: cohort.csv\n", ""), "3: data.path: missing, expected text, not empty: A file"),
    ],
)
def test_a_complaint_about_a_site_file_names_line_key_and_what_is_expected(
    tmp_path: Path, change: Change, says: str
) -> None:
    path = write(tmp_path, "site.yaml", SITE, change)
    assert complaint(load_site_config, path).startswith(f"site.yaml:{says}")


def test_a_password_in_the_proxy_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = f"{SITE}proxy: http://me:hunter2@proxy.hospital:3128\n"
    said = complaint(load_site_config, write(tmp_path, "site.yaml", text))
    assert said.startswith("site.yaml:9: proxy: user and password do not belong in this file")
    assert "hunter2" not in said


def test_a_consortium_is_read_with_its_keys_without_their_comments(tmp_path: Path) -> None:
    config = load_consortium(write(tmp_path, "consortium.yaml", CONSORTIUM)).config
    assert [one.public_key for one in config.sites] == KEYS[1:]
    assert config.operators[0].public_key == KEYS[0]
    assert (config.validity_days, config.server.host) == (365, "federation.example.org")


def test_a_public_key_may_stand_in_a_file_beside_the_consortium(tmp_path: Path) -> None:
    (tmp_path / "anna.pub").write_text(f"{KEYS[0]} anna\n", encoding="utf-8")
    path = write(tmp_path, "consortium.yaml", CONSORTIUM, (KEYS[0], "anna.pub"))
    assert load_consortium(path).config.operators[0].public_key == KEYS[0]


def test_a_private_key_is_refused_in_clear_words(tmp_path: Path) -> None:
    key = tmp_path / "anna.key"
    make_key(key)
    path = write(tmp_path, "consortium.yaml", CONSORTIUM, (KEYS[0], "anna.key"))
    said = complaint(load_consortium, path)
    assert said.startswith("consortium.yaml:7: operators[0].public_key: this file holds a PRIVATE")
    assert key.read_text(encoding="utf-8").splitlines()[1] not in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((KEYS[2], KEYS[1]), "13: sites[1].public_key: the same key as sites[0]; each makes its"),
        ((KEYS[1], KEYS[0]), "10: sites[0].public_key: the same key as operators[0]; each makes"),
        ((KEYS[1], "ecdsa-sha2-nistp384 AAAA"), "10: sites[0].public_key: this is no public key"),
        ((KEYS[1], "no-such.pub"), "10: sites[0].public_key: neither a public key nor a file"),
        (("hospital-b", "Hospital-A"), "8: sites: a name is given twice"),
        (("org:8443", "org"), "4: server.address: given text, expected host:port such as"),
        (("org:8443", "org:99999"), "4: server.address: given text, expected host:port such as"),
        (("8443", "8443\n  names: [a b]"), "5: server.names: an entry is neither a host name nor"),
        (("cohort_bound: 500", "cohort_bund: 500"), "11: sites[0].cohort_bund: unknown key, did"),
        (("Heart North", "Heart/North"), "2: name: given text, expected text such as Heart North"),
    ],
)
def test_a_complaint_about_a_consortium_names_line_key_and_what_is_expected(
    tmp_path: Path, change: Change, says: str
) -> None:
    path = write(tmp_path, "consortium.yaml", CONSORTIUM, change)
    assert complaint(load_consortium, path).startswith(f"consortium.yaml:{says}")


@pytest.mark.parametrize(
    ("address", "host"),
    [("10.0.0.7:8443", "10.0.0.7"), ("'[::1]:8443'", "::1"), ("localhost:1", "localhost")],
)
def test_an_address_may_be_a_name_or_a_number(tmp_path: Path, address: str, host: str) -> None:
    change = ("federation.example.org:8443", address)
    path = write(tmp_path, "consortium.yaml", CONSORTIUM, change)
    assert load_consortium(path).config.server.host == host


def test_a_file_for_another_command_is_told_by_its_keys(tmp_path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    (tmp_path / "key").write_bytes(pem)
    said = complaint(load_site_config, tmp_path / "key")
    assert said.startswith("key:1: given a single value, expected a section with the keys version")
    assert complaint(load_site_config, tmp_path / "site.yml") == "site.yml: there is no such file"
