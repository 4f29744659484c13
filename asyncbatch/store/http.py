"""A file behind https://, read by ranges. Redirects are followed, but never to a place without TLS."""

import http.client
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from asyncbatch.errors import ConfigError, StorageError
from asyncbatch.store.client import ConditionFailedError, ObjectInfo, UnavailableError

_TIMEOUT_S = 60.0
_BUSY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpClient:
    """The reading half of an `ObjectClient`, of one URL: the key is not looked at.

    Args:
        ca_bundle: PEM file of what alone is trusted; None: the usual.

    Raises:
        ConfigError: the URL holds a user name.
    """

    def __init__(self, url: str, *, ca_bundle: str | None = None) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ConfigError(
                f"the source at {parts.hostname} has credentials in its URL",
                hint="use a presigned URL, or copy the file first",
            )
        self._url = parts._replace(fragment="").geturl()
        self.place = f"{parts.scheme}://{parts.netloc}"
        handlers: list[Any] = [_Redirects()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_bundle)))
        self._opener = urllib.request.build_opener(*handlers)

    def head(self, key: str) -> ObjectInfo | None:
        """By a request for one byte: signed URLs are often for GET only."""
        try:
            return self._get("bytes=0-0", "")[1]
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, stop: int, *, token: str = "") -> bytes:
        return self._get(f"bytes={start}-{stop - 1}", token)[0]

    def tail(self, key: str, length: int) -> tuple[bytes, ObjectInfo]:
        return self._get(f"bytes=-{length}", "")

    def _get(self, wanted: str, token: str) -> tuple[bytes, ObjectInfo]:
        request = urllib.request.Request(  # noqa: S310  # the scheme was looked at
            self._url, headers={"Range": wanted, "Accept-Encoding": "identity"}
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                if reply.status != 206:
                    raise StorageError(
                        f"{self.place} sends whole files only, and the input is read by ranges",
                        hint="download it first",
                    )
                info = _info(reply.headers)
                if token and info.version != token:
                    raise ConditionFailedError(f"{self.place} has another file now")
                return bytes(reply.read()), info
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and str(error.headers.get("Content-Range", "")).endswith("/0"):
                return b"", _info(error.headers)
            raise self._refused(error.code) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise StorageError(
                    f"the certificate of {self.place} is not trusted", hint="--ca-bundle names what is"
                ) from error
            raise UnavailableError(f"{self.place} did not answer ({type(error.reason).__name__})") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"{self.place} did not answer ({type(error).__name__})") from error

    def _refused(self, status: int) -> Exception:
        if status in (404, 410):
            return FileNotFoundError(self.place)
        if status in (401, 403):
            return StorageError(
                f"{self.place} refuses the file ({status})",
                hint="a signed URL may have expired: get a new one",
            )
        if status in _BUSY_STATUS:
            return UnavailableError(f"{self.place} answered {status}")
        return StorageError(f"{self.place} answered {status}", hint="open the URL in a browser")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Never away from TLS."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise StorageError(
                f"{req.host} redirects to an address without TLS", hint="download the file another way"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _info(headers: Any) -> ObjectInfo:
    size = int(str(headers.get("Content-Range", "/0")).rpartition("/")[2])
    version = str(headers.get("ETag") or headers.get("Last-Modified") or "")
    return ObjectInfo(key="", size_bytes=size, version=version, token=version)
