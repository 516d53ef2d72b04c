"""Whether a thread is in a transaction that a bus or the call of a handler has begun."""

from __future__ import annotations

import os
import threading


class ThreadState(threading.local):
    """Whether the current thread is in a transaction of any store.

    So a bus can refuse to begin a transaction within a transaction of another store. Otherwise, the
    inner transaction would be committed even if the outer one fails.

    Attributes:
        in_transaction: set by each bus and each call of a handler while its block runs in a
            transaction of a store.
    """

    in_transaction = False


thread_state = ThreadState()


def _reset() -> None:
    thread_state.in_transaction = False  # a forked process is in no transaction of its parent


os.register_at_fork(after_in_child=_reset)
