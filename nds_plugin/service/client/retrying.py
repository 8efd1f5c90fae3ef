"""How long to wait before asking again: exponential back-off with jitter, or what the server says."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_WAIT = 0.5  # seconds
LONGEST_WAIT = 60.0
# Answers that another attempt may change (RFC 9110): a time-out, too early, too many, or the server's own trouble.
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

_random = random.Random()


def back_off(attempt: int, first: float = FIRST_WAIT, longest: float = LONGEST_WAIT) -> float:
    """Seconds to wait after a failed attempt (0, 1, ...): doubling, the upper half of it random.

    Without the random part, clients that failed together would come back together.
    """
    wait = min(longest, first * 2.0 ** min(attempt, 30))
    return wait * _random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (a number or a date), None without a valid one."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))
