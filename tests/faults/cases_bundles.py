"""A coordinator that sends evil bundles: nothing of them is executed, even where accepted."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import yaml
from flwr.app import Message, RecordDict

from fedward.client.resident.commands import site_processes
from fedward.common.config.loader import load_run_config
from fedward.common.config.site import load_site_config
from fedward.common.deployment import make_request, schema_of, study_of
from fedward.common.keys import load_key
from fedward.common.kit import load_kit
from fedward.common.records import Binding
from fedward.common.request import RunRequest, sign_request
from fedward.server.link.flower_control import Control
from fedward.server.link.flower_runtime import Runtime, TaskLink
from fedward.server.link.superlink import secret_file, superlink_command
from tests.faults.evil_bundles import KINDS, evil_bundle
from tests.faults.federation import (
    OPERATOR,
    RUN,
    Federation,
    Site,
    answers,
    free_port,
    public_text_of,
)
from tests.faults.figures import Figure, case, is_true, none_of
from tests.faults.processes import Tree, wait_for

FOOLED = "cork"
"""Whose list of accepted bundles holds the evil ones, on purpose."""


@case("bundles")
def bundles() -> list[Figure]:
    """Five evil bundles in signed runs to three sites, one of which has them on its list."""
    figures: list[Figure] = []
    with rogue() as (federation, marks):
        for kind in KINDS:
            told = send(federation, evil_bundle(kind, marks))
            refusals = [site for site, text in told.items() if "not on this site's list" in text]
            figures += [
                is_true(f"{kind}: sites that answered: {len(told)}", len(told) == 3),
                is_true(f"{kind}: refused by", set(refusals) == {"aachen", "bern"}, str(refusals)),
                is_true(f"{kind}: on the list: {told.get(FOOLED, '')[:30]}", FOOLED in told),
            ]
        left = [path.name for path in marks.iterdir()]
        apps = [str(p) for name in federation.names for p in unpacked_apps(federation.site(name))]
        figures += [
            none_of("executed at", left),
            none_of("bundles unpacked at a site", apps),
        ]
        figures += control(federation, marks)
    return figures


def unpacked_apps(site: Site) -> Iterator[Path]:
    """Yield files of a bundle that somebody has unpacked."""
    for name in ("evil_app.py", "sitecustomize.py", "client_app.py"):
        yield from site.folder.rglob(name)


def control(federation: Federation, marks: Path) -> list[Figure]:
    """The same code does leave its mark and reads the keys when it is executed."""
    folder = federation.folder / "unpacked"
    for kind, files in KINDS.items():
        with zipfile.ZipFile(BytesIO(evil_bundle(kind, marks))) as archive:
            archive.extractall(folder / kind)
        command = [sys.executable, "-I", str(folder / kind / files[0])]
        subprocess.run(command, check=True, capture_output=True)
    left = sorted(marks.iterdir())
    read = [path for path in left if len(path.read_text().split()) == len(federation.names)]
    return [is_true("control: executed, it marks and reads keys", len(read) == len(KINDS))]


@contextmanager
def rogue() -> Iterator[tuple[Federation, Path]]:
    """Yield a federation whose coordinator is a SuperLink that we steer; all sites are online."""
    federation = Federation()
    marks = federation.folder / "marks"
    marks.mkdir()
    try:
        federation.prepare()
        superlink = start_superlink(federation)
        register(federation)
        trees = start_fooled(federation.site(FOOLED), marks)
        for name in set(federation.names) - {FOOLED}:
            federation.site(name).start()
        try:
            wait_for(lambda: len(nodes(federation)) == 3, "three online sites", within_s=120)
            wait_for(lambda: ready(federation), "three runners", within_s=120)
            yield federation, marks
        finally:
            for tree in [*trees, superlink]:
                tree.stop()
    except BaseException as error:
        error.add_note(federation.last_words())
        raise
    finally:
        federation.close()


def start_superlink(federation: Federation) -> Tree:
    """Start the SuperLink alone, as the server's kit allows."""

    kit = load_kit(federation.kits / "server", "server")
    argv, env = superlink_command(kit, federation.state, federation.address)
    tree = Tree(argv, federation.folder / "superlink.log", {**federation.env, **env}).start()
    wait_for(lambda: answers(federation.port), "the SuperLink", within_s=60)
    return tree


def start_fooled(site: Site, marks: Path) -> list[Tree]:
    """Start the three processes of a site whose runner has the evil bundles on its list."""

    hashes = [hashlib.sha256(evil_bundle(kind, marks)).hexdigest() for kind in KINDS]
    loaded, kit = load_site_config(site.file), load_kit(site.kit, "site")
    trees = []
    for process in site_processes(loaded, kit, accept=hashes[0], port=free_port()):
        argv = list(process.argv)
        if process.name == "runner":
            argv += [word for one in hashes[1:] for word in ("--accept", one)]
        env = {**site.env, **process.env}
        trees.append(Tree(argv, site.folder / f"{process.name}.log", env).start())
    return trees


def ready(federation: Federation) -> bool:
    """Return whether each site's runner has found its worker."""
    return all("runner ready" in federation.site(name).log for name in federation.names)


def control_of(federation: Federation) -> Control:
    """Return a connection to the SuperLink's Control API."""
    return Control(federation.address, (federation.kits / "server/ca.crt").read_bytes())


def register(federation: Federation) -> None:
    """Register all sites' keys, as the conductor would."""

    with control_of(federation) as link:
        for site in federation.sites.values():
            link.register(public_text_of(site.folder / "site.key"), site.name)


def nodes(federation: Federation) -> dict[str, int]:
    """Return the node ids of the sites that are online."""
    with control_of(federation) as link:
        return {node.name: node.node_id for node in link.nodes() if node.is_online}


def send(federation: Federation, bundle: bytes) -> dict[str, str]:
    """Send one message with a bundle to every site, and return what each answered."""

    ca = (federation.kits / "server/ca.crt").read_bytes()
    request = request_of(federation)
    text = sign_request(request, load_key(federation.operator_key))
    with control_of(federation) as link:
        link.start_run(bundle, text)
    runtime = Runtime(federation.address, ca, secret_file(federation.state).read_bytes())
    task = wait_for(runtime.acquire, "the run's task", within_s=30)
    runtime.close()
    at_task = TaskLink(federation.address, ca, task.token)
    grid = at_task.grid(at_task.start())
    sites = {node: name for name, node in nodes(federation).items()}
    messages = [
        Message(statistics_query(request), dst_node_id=node, message_type="query.statistics")
        for node in sites
    ]
    replies = grid.send_and_receive(messages, timeout=90)
    told = {
        sites[reply.metadata.src_node_id]: str(reply.error.reason)
        if reply.has_error()
        else f"records {sorted(reply.content)}"
        for reply in replies
    }
    grid.close()
    at_task.finish(completed=True)
    return told


def request_of(federation: Federation) -> RunRequest:
    """Return an honest request of the operator: the bundle alone is evil."""
    file = federation.folder / "evil.yaml"
    file.write_text(yaml.safe_dump(RUN), encoding="utf-8")
    return make_request(
        load_run_config(file).config, OPERATOR, base_dir=federation.folder, consortium="faults"
    )


def statistics_query(request: RunRequest) -> RecordDict:
    """Return a query that an honest coordinator would send for this request."""
    study = study_of(request, "federated", schema=schema_of(request))
    binding = Binding(study.run_key, 0, "0" * 32, "", "")
    return RecordDict({"binding": binding.to_record()})
