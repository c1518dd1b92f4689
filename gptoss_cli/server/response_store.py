"""The last responses, in memory only, so that a request can continue one by its id."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from gptoss_cli.server.failures import ApiError

MOST_RESPONSES: Final = 64


class ResponseStore:
    """Response id -> its input and output items. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: OrderedDict[str, Sequence[Any]] = OrderedDict()

    def add(self, id_: str, items: Sequence[Any]) -> None:
        """Keep the items of a response; the oldest one is dropped."""
        with self._lock:
            self._items[id_] = items
            while len(self._items) > MOST_RESPONSES:
                self._items.popitem(last=False)

    def items(self, id_: str | None) -> Sequence[Any]:
        """Return the items of a response, [] for None. Raises ApiError if it is not kept."""
        if id_ is None:
            return []
        with self._lock:
            items = self._items.get(id_)
        if items is None:
            raise ApiError(
                f"Previous response with id '{id_}' not found.",
                status=HTTPStatus.BAD_REQUEST,
                code="previous_response_not_found",
                param="previous_response_id",
            )
        return items
