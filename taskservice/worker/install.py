"""What makes a Celery worker one of ours, whoever made its app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals

from taskservice.backends.definitions import register_definitions
from taskservice.backends.packed import register_packed
from taskservice.backends.probing import refuse_outlasting
from taskservice.backends.storage import locate_storage
from taskservice.backends.storing import install_storing
from taskservice.tasks import default_registry
from taskservice.worker.cancel import install_cancel
from taskservice.worker.counting import install_counting
from taskservice.worker.deadletters import install_dead_letters
from taskservice.worker.heartbeat import install_heartbeat
from taskservice.worker.installers import installers
from taskservice.worker.stopping import install_stopping
from taskservice.worker.taking import install_taking
from taskservice.worker.waking import install_waking

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["install_worker"]


def install_worker(app: Celery, settings: Settings) -> None:
    """Have workers of ``app`` do all that ours do; a second call does nothing.

    They know packed messages and every `task` of the modules that the app imports, store results in one
    round trip, keep what fails for good, beat, stop a run that is cancelled while it runs, take messages
    safely, stop within a bound, outlive processes of theirs that are killed, do not start with a task that
    Redis would deliver again while it runs, write traces if the settings ask for them, and do what the
    modules that the app imports have added, see `add_installer`.
    """
    locate_storage(app, settings)
    app.steps["worker"].add(_RefuseOutlasting)
    _register_at_start(app, settings)
    register_packed(app)
    install_storing(app)
    install_dead_letters(app, settings)
    install_heartbeat(app, settings)
    install_cancel(app)
    install_taking(app)
    install_stopping(app, settings)
    install_waking(app)
    install_counting()
    if settings.traces:
        from taskservice.worker.traces import install_traces

        install_traces(app)


def _register_at_start(app: Celery, settings: Settings) -> None:
    def register(sender: Any = None, **_: object) -> None:
        if getattr(sender, "app", None) is app:
            register_definitions(app, default_registry, payload_limit=settings.payload_limit)
            for installer in installers():
                installer(app, settings)

    # By then the worker has imported all that its app names or finds.
    signals.worker_init.connect(register, weak=False, dispatch_uid=f"taskservice-definitions-{id(app)}")


class _RefuseOutlasting(bootsteps.Step):
    """Checked when a worker is made: by then it has imported its tasks."""

    def __init__(self, parent: Any, **options: Any) -> None:
        refuse_outlasting(parent.app, parent.app.tasks.values())
        super().__init__(parent, **options)
