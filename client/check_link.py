"""Looks at what a site reaches the coordinator with: key, roster, certificates, way out, clock.

One HTTPS request to the server's address, the way the SuperNode goes: through the site's proxy, and
trusting the kit's authority only.
"""

import datetime
import email.utils
import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx

from fedward.client.findings import Finding
from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError
from fedward.common.keys import fingerprint, load_key, public_text
from fedward.common.kit import Kit, expiry_warning

TIMEOUT_S = 15.0
WARN_DAYS = 30
# The SuperLink refuses what a site signed more than 5 s in its future or 305 s in its past.
MOST_AHEAD_S = 5.0
MOST_BEHIND_S = 300.0
SKEW_WORTH_A_WARNING_S = 2.5  # the server's Date header counts whole seconds
_NEW_KIT = "ask the coordinator for a new kit"


def check_key(site: LoadedSite, kit: Kit | None) -> Iterator[Finding]:
    """Yield whether the private key can be used, and is the one in the roster."""
    try:
        public = public_text(load_key(site.file(site.config.key_file)))
    except ConfigError as error:
        yield Finding("config.key", "fail", str(error), "run: fedward enroll --site site.yaml")
        return
    if kit is None:
        text = f"{fingerprint(public)}; not compared with a roster"
        yield Finding("config.key", "ok", text)
        return
    name = site.config.site
    found = kit.roster.site_of(public)
    if found == name and kit.name == name:
        yield Finding("config.key", "ok", f"{fingerprint(public)}, in the roster as {name}")
    elif found is None:
        is_revoked = fingerprint(public) in kit.roster.revoked
        text = "is revoked" if is_revoked else "is not in the roster"
        yield Finding(
            "config.key",
            "fail",
            f"the key {fingerprint(public)} {text}",
            f"send the coordinator what `fedward enroll` prints, and {_NEW_KIT}",
        )
    else:
        text = f"site.yaml names {name}, the kit {kit.name}, and the roster has the key as {found}"
        yield Finding("config.key", "fail", text, "use one name, and the kit of that name")


def check_roster(kit: Kit, now: datetime.datetime) -> Iterator[Finding]:
    """Yield whether the roster is of today, and when something in the kit ends."""
    roster = kit.roster
    warning = expiry_warning(kit, now)
    if roster.is_expired(now):
        text = f"the roster of {roster.consortium} expired on {roster.expires[:10]}"
        yield Finding("network.roster", "fail", text, _NEW_KIT)
    elif warning is not None:
        yield Finding("network.roster", "warn", warning, _NEW_KIT)
    else:
        text = f"{roster.consortium}, serial {roster.serial}, {len(roster.sites)} sites, until"
        yield Finding("network.roster", "ok", f"{text} {roster.expires[:10]}")


def check_server(site: LoadedSite, kit: Kit) -> Iterator[Finding]:
    """Yield whether the server answers over TLS, how long its certificate holds, and the clock."""
    way = f" through {site.config.proxy}" if site.config.proxy else ""
    try:
        context = _trust(site, kit)
    except (OSError, ssl.SSLError) as error:
        text = f"ca.crt or ca_file cannot be used: {error}"
        yield Finding("network.server", "fail", text, _NEW_KIT)
        return
    try:
        with (
            httpx.Client(
                verify=context, proxy=site.config.proxy, trust_env=False, timeout=TIMEOUT_S
            ) as client,
            client.stream("GET", f"https://{kit.address}/") as response,
        ):
            received = time.time()
            stream: Any = response.extensions["network_stream"]
            certificate = stream.get_extra_info("ssl_object").getpeercert()
    except httpx.HTTPError as error:
        yield _unreachable(error, f"{kit.address}{way}", proxy=site.config.proxy)
        return
    yield Finding("network.server", "ok", f"{kit.address} answers over TLS{way}")
    yield from _certificate(certificate, received)
    yield clock(response.headers.get("date"), received)


def clock(date: str | None, received: float) -> Finding:
    """Return whether the site's clock is near enough to the server's.

    Args:
        date: the server's `Date` header.
        received: this machine's time when it came, in seconds since 1970.
    """
    try:
        theirs = email.utils.parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        text = "the server did not say what time it is"
        return Finding("network.clock", "warn", text, "compare the clocks by hand")
    ahead = received - theirs
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's clock"
    advice = "synchronise the clock (timedatectl, chrony)"
    if ahead > MOST_AHEAD_S or -ahead > MOST_BEHIND_S:
        return Finding("network.clock", "fail", f"{text}; the server refuses the site", advice)
    if abs(ahead) > SKEW_WORTH_A_WARNING_S:
        return Finding("network.clock", "warn", text, advice)
    return Finding("network.clock", "ok", "within 2 s of the server's")


def _trust(site: LoadedSite, kit: Kit) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(kit.ca_file)
    if site.config.ca_file is not None:
        context.load_verify_locations(site.file(site.config.ca_file))
    return context


def _certificate(certificate: dict[str, Any], now: float) -> Iterator[Finding]:
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = int((ends - now) / 86_400)
    day = datetime.datetime.fromtimestamp(ends, datetime.UTC).date().isoformat()
    if days <= WARN_DAYS:
        text = f"the server's certificate ends on {day}, in {days} days"
        yield Finding("network.certificate", "warn", text, "tell the coordinator to renew it")
    else:
        yield Finding("network.certificate", "ok", f"the server's certificate ends on {day}")


def _unreachable(error: httpx.HTTPError, address: str, *, proxy: str | None) -> Finding:
    reason = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        what = "its certificate is not one of the kit's authority"
        advice = (
            "does a proxy open encrypted connections here? Exempt this address from that, or name "
            f"the proxy's authority under ca_file; otherwise {_NEW_KIT}"
        )
        return Finding("network.server", "fail", f"{address}: {what} ({reason})", advice)
    if isinstance(error, httpx.ProxyError):
        advice = "let the proxy allow CONNECT to this address, without a password from this host"
    elif isinstance(error, httpx.TimeoutException):
        reason = f"no answer within {TIMEOUT_S:g} s"
        advice = "open the firewall outward to this address and port, or set proxy in site.yaml"
    elif proxy is None:
        advice = "is it the right address, and is the way out open? If there is a proxy, name it"
    else:
        advice = "is the proxy's address right, and does it reach the server?"
    return Finding("network.server", "fail", f"{address}: {reason}", advice)
