"""Full disks: small file systems in memory that somebody else fills up."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.faults.federation import Federation
from tests.faults.figures import Figure, case, is_true, none_of
from tests.faults.processes import TooLateError, wait_for
from tests.faults.run_folder import RunFolder, broken_rules

ROUNDS = 400
START_MIB = 4096


def why_not() -> str | None:
    """Return why no small file system can be mounted here, or None."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "a small file system needs root and mount"
    return None


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system at `folder`, large enough for a site to start on it."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={START_MIB}m,mode=700", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder.parent, ignore_errors=True)


def shrink(folder: Path, num_mib: int) -> None:
    """Leave the file system `num_mib` in all."""
    subprocess.run(["mount", "-o", f"remount,size={num_mib}m", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more fits, and return the file."""
    file = folder / "somebody-elses.bin"
    with file.open("wb", buffering=0) as out:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while out.write(b"\0" * size) == size:
                    pass
    return file


@case("disk-full-server")
def disk_full_server() -> list[Figure]:
    """The coordinator's disk fills up in mid-run: clear error, and the last checkpoint loads."""
    federation = Federation()
    with small_disk(federation.state), federation:
        run = federation.submit(rounds=ROUNDS)
        run.wait_round(3)
        before = run.round_number
        shrink(federation.state, 60)
        file = fill(federation.state)
        said = wait_for_text(federation, "No space left", within_s=180)
        kept = run.checkpoint()
        figures = [
            is_true("the server's log says what is wrong", bool(said), said[:60]),
            is_true("the last good checkpoint loads", bool(len(kept)), f"round {run.round_number}"),
            is_true("no committed round is lost", run.round_number >= before),
        ]
        ended = run.status.get("state") in {"failed", "finished"}
        file.unlink()
        another = federation.submit(rounds=2)
        state = another.wait_end(within_s=300)["state"]
        figures += [
            is_true("the run ended as failed, or went on", ended or goes_on(run)),
            is_true("with space again a run finishes", state == "finished"),
            none_of("broken rules", broken_rules(run)),
        ]
    return figures


def goes_on(run: RunFolder) -> bool:
    """Return whether further rounds are committed."""
    try:
        run.wait_round(run.round_number + 1, within_s=180)
    except (TooLateError, AssertionError):
        return False
    return True


def wait_for_text(federation: Federation, text: str, *, within_s: float) -> str:
    """Return the first line of the server's log that holds `text`; empty if none comes."""

    def found() -> str:
        lines = federation.last_words(num_lines=400).splitlines()
        return next((line.strip() for line in lines if text in line), "")

    try:
        return wait_for(found, text, within_s=within_s)
    except TooLateError:
        return ""


@case("disk-full-site")
def disk_full_site() -> list[Figure]:
    """A site's disk fills up: it answers with an error, the others go on, and it comes back."""
    federation = Federation()
    folder = federation.folder / "cork"
    with small_disk(folder), federation:
        run = federation.submit(rounds=ROUNDS)
        run.wait_round(2)
        site = federation.site("cork")
        shrink(folder, 40)
        file = fill(folder)
        number = run.round_number + 2
        run.wait_round(number, within_s=240)
        told = sorted(set(run.reasons("cork").values()))
        others = {"aachen", "bern"} <= run.replies(number)
        file.unlink()
        back_in, back_s = run.wait_reply("cork", after=run.round_number, within_s=300)
        with closing(sqlite3.connect(site.folder / "site.sqlite")) as connection:
            sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        federation.stop_run(run)
        verdict = federation.fedward("audit", "verify", "--site", str(site.file))
        return [
            is_true(f"the site tells the coordinator: {'; '.join(told)[:60]}", bool(told)),
            is_true("the other sites go on", others),
            is_true("it counts again with space", bool(back_in), f"{back_s:.0f} s"),
            is_true("its database is sound", sound == "ok"),
            is_true("its audit log is valid", bool(verdict), verdict.strip()[:40]),
            none_of("broken rules", broken_rules(run)),
        ]
