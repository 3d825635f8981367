"""What can be told to a worker process, and what it makes of it."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import timedelta
from typing import Any

import pytest
from kombu import Exchange, Queue

from pytest_taskservice.drivers.portable import UnportableError, decode, encode


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "text"]},
        (1, (2, [3])),
        {"json", "yaml"},
        timedelta(minutes=3),
        {1: "one", (2, 3): "pair"},
        {"!place": "of mine"},
        OSError,
        os.path.join,
        logging,
    ],
    ids=["json", "tuple", "set", "timedelta", "keys", "mark", "class", "function", "module"],
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value


def test_a_queue_comes_back_with_its_exchange_and_options() -> None:
    queue = Queue("mails", Exchange("post", "topic"), routing_key="mail.#", max_priority=3)

    told = decode(json.loads(json.dumps(encode([queue]))))

    assert told[0].as_dict(recurse=True) == queue.as_dict(recurse=True)


@pytest.mark.parametrize("value", [threading.Lock(), lambda: 1, object()], ids=["lock", "lambda", "object"])
def test_what_cannot_be_told_is_named(value: Any) -> None:
    with pytest.raises(UnportableError, match="cannot be told to another process"):
        encode({"deep": [value]})
