"""Running a test once more, with fresh fixtures and without a word to anybody.

Leans on pytest's private ``Function._initrequest``, which its own runner calls for plugins that run tests
again, on ``Item._report_sections`` and on ``Session._setupstate``; a subprocess test holds them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from _pytest.runner import CallInfo

__all__ = ["leave", "run_again"]

_ENDS_ALL = (KeyboardInterrupt, pytest.exit.Exception)


def run_again(item: pytest.Item) -> None:
    """Set ``item`` up, call it and tear it down; what it shares with its neighbours stays as it is."""
    found: Any = item
    sections, properties = list(found._report_sections), list(item.user_properties)  # noqa: SLF001 - see above
    _renew(found)
    try:
        for name in ("setup", "call"):
            hook = getattr(item.ihook, f"pytest_runtest_{name}")
            # No report is made of it, so neither debuggers nor other plugins hear of a failure.
            call = CallInfo.from_call(partial(hook, item=item), when=name, reraise=_ENDS_ALL)
            if call.excinfo is not None:
                break
    finally:
        hook = partial(item.ihook.pytest_runtest_teardown, item=item, nextitem=item.parent)
        CallInfo.from_call(hook, when="teardown", reraise=_ENDS_ALL)
        found._report_sections[:] = sections  # noqa: SLF001 - as above
        item.user_properties[:] = properties
        _renew(found)


def leave(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Tear down what ``nextitem`` does not share."""
    session: Any = item.session
    # Whatever is wrong with it was told when the test itself left.
    with suppress(Exception):
        session._setupstate.teardown_exact(nextitem)  # noqa: SLF001 - as above


def _renew(item: Any) -> None:
    if hasattr(item, "_initrequest"):
        item._initrequest()  # noqa: SLF001 - as above
