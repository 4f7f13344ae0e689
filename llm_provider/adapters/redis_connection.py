"""The one kind of connection to Redis: it leaves a server that answers, and does not serve."""

from collections.abc import Iterable, Set
from functools import cache
from typing import Any, ClassVar

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

# A replica, a full disk, a start, another's script, a permission taken away, a cluster: another server may serve by
# now, or this one in a moment.
_NOT_SERVING = {"READONLY", "UNBLOCKED", "MISCONF", "LOADING", "BUSY", "MASTERDOWN", "NOREPLICAS", "NOPERM"} | {
    "CLUSTERDOWN", "CROSSSLOT", "MOVED", "ASK", "TRYAGAIN"
}  # fmt: skip


class NotServing(RedisConnectionError):
    """The server answered that it does not serve, so its connection is closed; `code` is its word for why."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Redis does not serve ({code}).")
        self.code = code


class _Serving(AbstractConnection):
    """Takes such a reply for a lost connection, which everybody survives, Celery among them: the pool's next command
    connects anew, to whoever serves then."""

    not_serving: ClassVar[Set[str]] = _NOT_SERVING
    _is_greeting = False

    def on_connect_check_health(self, check_health: bool = True) -> None:
        # Greeting it, redis-py asks for things that it can do without, and passes over what it may not.
        self._is_greeting = True
        try:
            super().on_connect_check_health(check_health)
        finally:
            self._is_greeting = False

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            response = super().read_response(*args, **options)
        except ResponseError as error:
            self._leave_if_not_serving([error])
            raise
        if isinstance(response, list):
            # A transaction's errors lie among its answers.
            self._leave_if_not_serving(response)
        return response

    def _leave_if_not_serving(self, answers: Iterable[object]) -> None:
        codes = (_code(answer) for answer in answers if isinstance(answer, ResponseError))
        code = next((code for code in codes if code in self.not_serving), None)
        if code is not None and not self._is_greeting:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise NotServing(code)


def _code(error: ResponseError) -> str:
    """The first word of the reply, which redis-py takes out of the text when it knows it."""
    if "ACL failure in script" in str(error):
        return "NOPERM"
    return str(getattr(error, "status_code", None) or str(error).partition(" ")[0])


@cache
def serving(connection_class: type[AbstractConnection], *also: str) -> type[AbstractConnection]:
    """That class, whose connections leave a server which does not serve; `also` are more replies that say so."""
    return type(
        f"Serving{connection_class.__name__}",
        (_Serving, connection_class),
        {"not_serving": _NOT_SERVING | {*also}},
    )
