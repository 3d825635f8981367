"""Every place of Celery, kombu and billiard that is replaced while a simulation is open. Each is checked to
be there.

- ``kombu.transport.TRANSPORT_ALIASES`` and ``_transport_cache``: connections lead to the simulated broker.
- ``kombu.pools``, and what each app keeps of them: the pools of before are put aside, those of the simulation
are forgotten.
- Defaults bound at import, which no module's name reaches: ``monotonic`` in kombu's timer and in
``build_tracer``,
  ``uuid4`` in ``kombu.utils.uuid.uuid``.
- ``celery.worker.components._Timer``: timers are events.
- ``celery.backends.asynchronous.drainers``: waits for results are waits in the simulation.
- ``AsyncBackendMixin.remove_pending_result``, before 5.7: a result's end is its own process' affair.
- ``ResultConsumer.start`` of ``celery.backends.redis`` and ``rpc``: what it begins ends with the simulation.
- ``billiard.pool.Lock``: a worker's hub exchanges it for the whole process.
- ``Request.send_event``: the history is told by the requests themselves.
- ``redis.utils.get_lib_version``: each result backend asks for it, and it reads a file each time.
- ``celery.fixups.django.DjangoWorkerFixup``: tasks share the test's thread, so its connections stay open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pytest_taskservice.simulator.celery.processes import install_process_state
from pytest_taskservice.simulator.celery.results import drainer_for
from pytest_taskservice.simulator.celery.transport import transport_of
from pytest_taskservice.simulator.celery.worker import SimulatedTimer
from pytest_taskservice.simulator.substitutes import Patches, real_monotonic, substitute

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["install_seams"]

Tell = Callable[[Any, str, dict[str, Any]], None]

_kombu_timer: Any = import_module("kombu.asynchronous.timer")
_kombu_uuid: Any = import_module("kombu.utils.uuid")
_kombu_transport: Any = import_module("kombu.transport")
_kombu_pools: Any = import_module("kombu.pools")
_trace: Any = import_module("celery.app.trace")
_state: Any = import_module("celery._state")
_components: Any = import_module("celery.worker.components")
_asynchronous: Any = import_module("celery.backends.asynchronous")
_requests: Any = import_module("celery.worker.request")
_billiard_pool: Any = import_module("billiard.pool")
_results: Any = import_module("celery.backends.redis")
_rpc: Any = import_module("celery.backends.rpc")
_redis_utils: Any = import_module("redis.utils")
_django: Any = import_module("celery.fixups.django")


def install_seams(patches: Patches, simulation: Simulation, tell: Tell) -> None:
    """Put everything in place; ``tell`` gets each request's events."""
    _connect(patches)
    _set_clocks(patches, simulation)
    patches.set(_components, "_Timer", SimulatedTimer)
    patches.set(_billiard_pool, "Lock", _billiard_pool.Lock)
    patches.item(_asynchronous.drainers, "default", drainer_for(simulation))
    if not hasattr(_asynchronous, "_waiting_on"):
        _keep_pending(patches)
    _end_consumers(patches, _results.ResultConsumer, _forget_channels)
    _end_consumers(patches, _rpc.ResultConsumer, _forget_queue)
    install_process_state(patches)
    _listen(patches, tell)
    if hasattr(_redis_utils, "get_lib_version"):
        patches.set(_redis_utils, "get_lib_version", _redis_version)
    # A child closes what it got from its parent under the parent's nose, and by another name.
    for name in ("close_database", "_close_database", "_maybe_close_db_fd", "close_cache"):
        patches.set(_django.DjangoWorkerFixup, name, _nothing)


def _connect(patches: Patches) -> None:
    aliases = _kombu_transport.TRANSPORT_ALIASES
    for scheme in list(aliases):
        patches.item(aliases, scheme, partial(transport_of, scheme))
    cache = _kombu_transport._transport_cache  # noqa: SLF001 - kombu offers no way to forget
    before = dict(cache)
    cache.clear()
    patches.on_undo(lambda: (cache.clear(), cache.update(before)))
    for group in (_kombu_pools.connections, _kombu_pools.producers):
        # These dicts hash every key they are given once more, so the keys they hold go past them.
        kept = list(dict.items(group))
        dict.clear(group)
        patches.on_undo(partial(_fill_again, group, kept))
    # An app that no world has in hand, beside the one under test, keeps its pool as well.
    held = [(owner, name, value) for owner, name in _holders() if (value := getattr(owner, name)) is not None]
    _forget_pools()
    patches.on_undo(_hand_back, held)


def _holders() -> Iterator[tuple[Any, str]]:
    for app in list(_state._get_active_apps()):  # noqa: SLF001 - Celery has no public name for it
        yield app, "_pool"
        if "amqp" in vars(app):
            yield app.amqp, "_producer_pool"


def _forget_pools() -> None:
    for owner, name in _holders():
        setattr(owner, name, None)


def _hand_back(held: list[tuple[Any, str, Any]]) -> None:
    _forget_pools()
    for owner, name, value in held:
        setattr(owner, name, value)


def _keep_pending(patches: Patches) -> None:
    """Let a result that is collected leave those alone who wait for the same id, as 5.7 does by itself.

    Simulated processes share a result backend: a worker sends the body of a chord, and the test awaits it.
    """
    mixin = _asynchronous.AsyncBackendMixin
    original = mixin.remove_pending_result

    def remove_pending_result(backend: Any, result: Any) -> Any:
        pending = backend._pending_results  # noqa: SLF001 - its own
        held = [known[result.id] for known in pending if result.id in known]
        return original(backend, result) if not held or any(each is result for each in held) else result

    patches.set(mixin, "remove_pending_result", remove_pending_result)


def _end_consumers(patches: Patches, kind: Any, forget: Callable[[Any], None]) -> None:
    """Let consumers of results ``forget`` what they follow on leaving.

    A result may be collected long after its simulation: what it leaves then is no real server's affair. And
    an app that no world has changed keeps its consumer, to which the next simulation would bring nothing.
    """
    original = kind.start
    begun: dict[Any, None] = {}

    def start(consumer: Any, *args: Any, **kwargs: Any) -> Any:
        begun[consumer] = None
        return original(consumer, *args, **kwargs)

    def end() -> None:
        for consumer in begun:
            forget(consumer)

    patches.set(kind, "start", start)
    patches.on_undo(end)


def _forget_channels(consumer: Any) -> None:
    consumer._pubsub = None  # noqa: SLF001 - what it follows
    consumer.subscribed_to.clear()


def _forget_queue(consumer: Any) -> None:
    consumer._consumer = consumer._connection = None  # noqa: SLF001 - what it follows


def _fill_again(group: Any, kept: list[Any]) -> None:
    dict.clear(group)
    dict.update(group, kept)


def _set_clocks(patches: Patches, simulation: Simulation) -> None:
    timer = _kombu_timer.Timer
    for function in (
        _kombu_timer.to_timestamp,
        timer.enter_at,
        timer.enter_after,
        timer.__iter__,
        _beneath(_trace.build_tracer, _trace),
    ):
        patches.default(function, real_monotonic, substitute(real_monotonic))
    # It makes text of whatever it gets.
    patches.default(_kombu_uuid.uuid, uuid4, simulation.random.ids("kombu"))


def _beneath(found: Any, module: Any) -> Any:
    """Return the function of ``module`` that ``found`` is or wraps, by a closure (sentry_sdk) or openly."""
    seen: dict[int, Any] = {}
    waiting = [found]
    while waiting:
        function = waiting.pop(0)
        if type(function) is FunctionType and function.__globals__ is vars(module):
            return function
        if id(function) in seen or not callable(function):
            continue
        seen[id(function)] = function
        cells = getattr(function, "__closure__", None) or ()
        waiting += [getattr(function, "__wrapped__", None), *map(_content, cells)]
    return found


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # its variable has no value yet


def _listen(patches: Patches, tell: Tell) -> None:
    original = _requests.Request.send_event

    def send_event(request: Any, type: str, **fields: Any) -> Any:  # noqa: A002 - Celery's word
        tell(request, type, fields)
        return original(request, type, **fields)

    patches.set(_requests.Request, "send_event", send_event)


@cache
def _redis_version() -> str:
    return version("redis")


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Keep the test's connections open."""
