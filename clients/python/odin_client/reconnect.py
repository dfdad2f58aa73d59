"""When to come back after a connection ended: the close codes and what each asks of a client.

Full jitter (a random share of an exponentially growing delay) spreads the clients of a restarted
server; codes that a retry cannot cure end the client instead.
"""

from collections.abc import Callable

CLIENT_CLOSED = 1000
ABNORMAL = 1006
"""No close frame arrived: the link broke, or no connection could be made."""
TAKEN_OVER = 4409
TERMINAL_CODES = frozenset({1002, 1003, 1007, 1008, 1009, 4401, 4403, TAKEN_OVER})
RESTART_CODES = frozenset({1001, 1012})
RESTART_SPREAD_S = 5.0
LEAST_DELAY_S = {1013: 5.0, 4429: 10.0}
STEADY_AFTER_S = 10.0
"""A connection that lived so long starts the backoff anew; a shorter one counts as a failure."""
RETRYABLE_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that do not mean the request itself is wrong."""


def is_terminal(code: int) -> bool:
    """Whether a close code says that coming back is of no use."""
    return code in TERMINAL_CODES


def is_refusal(status: int) -> bool:
    """Whether an HTTP status before the upgrade says that trying again is of no use."""
    return 400 <= status < 500 and status not in RETRYABLE_STATUSES


def reconnect_delay_s(
    code: int, failures: int, least_s: float, most_s: float, random: Callable[[], float]
) -> float:
    """Return how long to wait before the next attempt.

    failures: how many connections in a row ended or failed before this one, 0 for the first.
    least_s, most_s: bound of the first delay, and of all. random: a number in [0, 1).
    """
    share = random()
    if code in RESTART_CODES and failures == 0:
        return share * RESTART_SPREAD_S
    backoff = min(most_s, least_s * 2.0 ** min(failures, 32))
    return LEAST_DELAY_S.get(code, 0.0) + share * backoff
