"""TLS: the context from the certificate's files, and a socket that speaks it."""

import asyncio
import ssl

from aiohttp import web

from odin.errors import ConfigError
from odin.settings import ServerSettings


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """Return what TLS connections are made with, None without a certificate.

    Raises ConfigError where certificate and key cannot be used.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, settings)
    return context


def _load(context: ssl.SSLContext, settings: ServerSettings) -> None:
    try:
        # A password would be asked for on a terminal that a service has not.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        problem = getattr(error, "strerror", None) or str(error)
        text = f"the certificate and its key could not be used: {problem}"
        raise ConfigError([("server.tls_cert", text)]) from None


class TlsSite(web.TCPSite):
    """A listening socket that drops half a TLS handshake in time; aiohttp's own waits a minute."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        backlog: int,
        handshake_timeout_s: float,
    ) -> None:
        super().__init__(runner, host, port, ssl_context=context, backlog=backlog)
        self._handshake_timeout_s = handshake_timeout_s

    def renew(self, settings: ServerSettings) -> None:
        """Take the certificate that its files hold now for connections to come. Raises ConfigError
        where they cannot be used; the one in use stays then."""
        tls_context(settings)  # a failed load would leave the new certificate with the old key
        assert self._ssl_context is not None
        _load(self._ssl_context, settings)

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            server,
            self._host,
            self._port,
            ssl=self._ssl_context,
            ssl_handshake_timeout=self._handshake_timeout_s,
            backlog=self._backlog,
        )
