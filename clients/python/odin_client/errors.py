"""What can go wrong, as types.

OdinError
├─ RequestError         the server answered a request with an error
├─ RequestTimeout       no answer in time, reconnects included
├─ ConnectFailed        no connection could be made
└─ ConnectionClosed     the connection ended for good
   └─ TakenOver         the same client_id connected elsewhere
"""


class OdinError(Exception):
    """Base of all errors of this package."""


class RequestError(OdinError):
    """The server refused a request. `code` is of the server's catalogue ("too_many_stocks")."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{message} ({code})" if code else message)


class RequestTimeout(OdinError, TimeoutError):
    """A request had no answer within `seconds`, although it was repeated after reconnects."""

    def __init__(self, action: str, seconds: float, state: str) -> None:
        self.action = action
        self.seconds = seconds
        super().__init__(f"{action} had no answer within {seconds:g} s (the client was {state})")


class ConnectFailed(OdinError):
    """No connection: the address refused (`status` is its HTTP status) or could not be reached."""

    def __init__(self, message: str, status: int | None = None, retry_after_s: float = 0.0) -> None:
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(message)


class ConnectionClosed(OdinError):
    """The connection ended and the client does not come back. `code` is the WebSocket close code;
    1000 is a close() of this client itself."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"the connection was closed: {code} {reason}".rstrip())


class TakenOver(ConnectionClosed):
    """Another connection with this client_id took the session. Reconnecting would take it back
    and make two programs fight for ever, so it is never done automatically."""
