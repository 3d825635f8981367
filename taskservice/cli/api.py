"""``taskservice api``: the HTTP and WebSocket API, served."""

from __future__ import annotations

import click

from taskservice.cli.common import LEVELS, Mistake, read_app, read_settings

__all__ = ["api"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any.")
@click.option("--loglevel", "-l", type=LEVELS, default="INFO", show_default=True, help="Log level.")
@click.option("--app", "-A", "app_name", help="Your own Celery app, as package.module:attribute.")
def api(host: str, port: int, loglevel: str, app_name: str | None) -> None:
    """Serve tasks and workflows over HTTP until it is told to stop.

    TASKSERVICE_API_TOKENS says who may use it: '{"<token>": "<owner>"}'.
    """
    import logging

    from taskservice.errors import ConfigurationError

    settings = read_settings()
    app = read_app(app_name)
    logging.basicConfig(level=loglevel.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from taskservice.api import run_api

        run_api(app=app, settings=settings, host=host, port=port)
    except ConfigurationError as error:
        raise Mistake(str(error)) from error
