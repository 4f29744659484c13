"""Where requests go and whom they trust: loopback, proxies, certificates. Standard library and yarl only."""

import ipaddress
import re
import ssl
import urllib.request
from pathlib import Path

from yarl import URL

from asyncbatch.errors import ConfigError


def bare(text: str) -> str:
    """What was given as a URL, however malformed, as messages show it: without user, password and query."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text.split("?", maxsplit=1)[0])


def is_loopback(host: str | None) -> bool:
    """Whether rows sent to `host` stay on this machine."""
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: URL) -> str | None:
    """The proxy by `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`; none for this machine itself."""
    if is_loopback(url.host) or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


def tls_context(ca_bundle: str | None, *, more: str | None = None) -> ssl.SSLContext:
    """Verification of servers by `ca_bundle` (PEM) alone, or else by the system's certificates.

    Blocking: reads files, about 30 ms.

    Args:
        more: certificates to trust beside the system's, for machines whose own store is empty.

    Raises:
        ConfigError: the bundle cannot be read or holds no certificate.
    """
    if ca_bundle is None:
        context = ssl.create_default_context()
        if more is not None:
            context.load_verify_locations(cafile=more)
        return context
    try:
        if Path(ca_bundle).is_dir():
            return ssl.create_default_context(capath=ca_bundle)
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ValueError) as error:
        reason = "it holds no certificate"
        if not isinstance(error, ssl.SSLError):
            reason = (getattr(error, "strerror", "") or "it is unreadable").lower()
        raise ConfigError(
            f"--ca-bundle {ca_bundle} cannot be used: {reason}",
            hint="give a PEM file with the certificates to trust; AWS_CA_BUNDLE names one too",
        ) from error
