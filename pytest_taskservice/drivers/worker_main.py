"""The worker process: a real Celery worker of the user's own app, with the harness's agent in it.

Started early as ``python -m pytest_taskservice.drivers.worker_main``, with ``story`` if it is to play in a
scenario. It imports Celery while the test process is still collecting, then waits on stdin for one line, the
:class:`WorkerSpec`.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.ledger import Ledger
from pytest_taskservice.drivers.worker_spec import ModuleSource, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

    from celery import Celery

__all__ = ["STORY", "learn", "load_app", "load_module", "main"]

STORY = "story"

_KEPT_MAIL = "pytest_taskservice.drivers.kept_mail"
_WARM = (
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "pytest_taskservice.drivers.agent",
    "pytest_taskservice.drivers.synthetic",
    "taskservice.backends.packed",
    "taskservice.worker.counting",
)
_STORY = (
    "pytest_taskservice.drivers.worker_acks",
    "pytest_taskservice.drivers.worker_sends",
    "pytest_taskservice.drivers.worker_strikes",
    "pytest_taskservice.drivers.workflow_worker",
)


def main() -> int:
    """Wait for a spec, serve it until told to stop, and return the exit code."""
    # The process begins in a directory of its own, which goes with it; one of multiprocessing's would stay.
    process: Any = multiprocessing.current_process()
    process._config["tempdir"] = str(Path.cwd())  # noqa: SLF001 - where get_temp_dir() looks first
    for name in (*_WARM, *(_STORY if STORY in sys.argv else ())):
        importlib.import_module(name)
    line = sys.stdin.readline()
    if not line:
        return 0

    return _serve(WorkerSpec.from_json(line))


def load_app(spec: WorkerSpec) -> Celery:
    """Return the app of ``spec``, imported or built, with all its tasks."""
    from celery import Celery

    from pytest_taskservice.drivers import redirects
    from pytest_taskservice.drivers.app_patch import override
    from pytest_taskservice.drivers.configured import configure_django
    from pytest_taskservice.drivers.databases import use_databases
    from pytest_taskservice.drivers.exchanges import teach
    from pytest_taskservice.drivers.portable import decode
    from pytest_taskservice.drivers.staging import rebind
    from taskservice.worker.counting import install_counting

    configure_django(spec.django)
    use_databases(spec.databases)
    if spec.mail:
        importlib.import_module(_KEPT_MAIL).keep_mail()
    teach(spec.exchanges)
    redirects.install(spec.redirects)
    if spec.app is None:
        app = Celery(spec.main, set_as_current=True, **decode(dict(spec.app_options)))
    else:
        source, attribute = spec.app
        app = getattr(load_module(source), attribute)
    app.set_current()
    before = {name: app.conf.get(name) for name in spec.world}
    override(app.conf, decode(dict(spec.settings)))
    override(app.conf, spec.world)
    # Those that its modules have bound already; all others are bound under these.
    rebind(app, spec.world, before)
    app.backend_cls = None
    # As a worker begins: Django is set up, and tasks are discovered, before a module of tasks is imported.
    app.loader.init_worker()
    learn(app, modules=spec.modules, classes=spec.classes, carried=spec.carried)
    _register_ours(app)
    install_counting()
    if spec.takes_safely:
        from taskservice.worker.taking import install_taking

        install_taking(app)
    if spec.workflows:
        from pytest_taskservice.drivers.workflow_worker import install

        install(app)
    return app


def learn(
    app: Celery,
    *,
    modules: Iterable[ModuleSource],
    classes: Iterable[str] = (),
    carried: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Import ``modules``, and have ``app`` know class-based tasks and carried ones."""
    for module in modules:
        load_module(module)
    if classes:
        from pytest_taskservice.drivers.portable import thing_at

        for place in classes:
            app.register_task(thing_at(place)())
    if carried:
        from pytest_taskservice.drivers.carried import define

        define(app, carried)


def load_module(source: ModuleSource) -> ModuleType:
    """Import a module by name, or from its file where the name finds nothing or another file."""
    if source.name in sys.modules:
        return sys.modules[source.name]
    if source.file is None or _finds(source):
        return importlib.import_module(source.name)

    spec = importlib.util.spec_from_file_location(source.name, source.file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {source.name} from {source.file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.name] = module
    spec.loader.exec_module(module)
    return module


def _serve(spec: WorkerSpec) -> int:
    os.environ.clear()
    os.environ.update(spec.environment)
    # Celery refuses root with pickle, for fear of strangers; a test's messages are its own.
    os.environ.setdefault("C_FORCE_ROOT", "1")
    os.chdir(spec.cwd)
    sys.path[:] = spec.sys_path
    if spec.echo is not None:
        from pytest_taskservice.drivers.echo import speak

        speak(spec.echo)
    app = load_app(spec)
    ledger = Ledger(Path(spec.ledger)) if spec.ledger else None
    ending = ExitStack()
    if ledger is not None and spec.story:
        _take_part(spec, ledger, ending)
    if spec.beat:
        from pytest_taskservice.drivers.beat_main import serve_beat

        return serve_beat(app, spec)

    from pytest_taskservice.drivers.agent import install

    options = _options(app, spec)
    agent = install(app, spec.agent, journal=ledger.journal(spec.hostname) if ledger else None)
    if ledger is not None and spec.story:
        from pytest_taskservice.drivers.worker_strikes import Strikes

        agent.strikes = Strikes(ledger, spec.hostname, spec.pool, lost=agent.child_lost)
        agent.strikes.install(app)
    worker = app.Worker(
        hostname=spec.hostname,
        pool=_pool(spec.pool),
        concurrency=spec.concurrency,
        loglevel=spec.loglevel,
        quiet=True,
        **options,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _take_part(spec: WorkerSpec, ledger: Ledger, ending: ExitStack) -> None:
    """Tell what is sent from here, and let it be delivered badly until the end of the process."""
    from pytest_taskservice.drivers.worker_acks import lose_acks
    from pytest_taskservice.drivers.worker_sends import deliver_badly, tell_sends

    tell_sends(ledger.journal(spec.hostname), spec.hostname)
    ending.enter_context(deliver_badly(ledger))
    ending.enter_context(lose_acks(ledger, spec.hostname))


def _options(app: Celery, spec: WorkerSpec) -> dict[str, Any]:
    """Return what else the worker is made with."""
    from pytest_taskservice.drivers.app_patch import override
    from pytest_taskservice.drivers.portable import decode

    given = decode(dict(spec.worker_options))
    if "task_events" in given:
        override(app.conf, {"worker_send_task_events": bool(given["task_events"])})
    return {
        "queues": ",".join(spec.queues) or None,
        "without_gossip": True,
        "without_mingle": True,
        "without_heartbeat": True,
        **given,
        # Without events its requests tell nobody what becomes of them.
        "task_events": True,
    }


def _pool(name: str) -> Any:
    from celery.concurrency import get_implementation

    return get_implementation(name)


def _register_ours(app: Celery) -> None:
    from pytest_taskservice.drivers.synthetic import register
    from taskservice.backends.packed import register_packed
    from taskservice.tasks import default_registry

    register(app)
    register_packed(app)
    if default_registry:
        from taskservice.backends.definitions import register_definitions
        from taskservice.settings import load_settings
        from taskservice.worker.cancel import install_cancel
        from taskservice.worker.deadletters import install_dead_letters

        register_definitions(app, default_registry)
        # Whoever has tasks of ours may cancel them where they run, and look for those that failed.
        settings = load_settings()
        install_cancel(app)
        install_dead_letters(app, settings)


def _finds(source: ModuleSource) -> bool:
    try:
        spec = importlib.util.find_spec(source.name)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None or spec.origin is None or source.file is None:
        return False
    return os.path.realpath(spec.origin) == os.path.realpath(source.file)


if __name__ == "__main__":
    sys.exit(main())
