"""Routes that say how the service is: to anybody that it is up, to its clients the rest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from taskservice.api.core import Asker, Held
from taskservice.api.problems import documented

__all__ = ["router"]


class Up(BaseModel):
    """The API answers."""

    status: Literal["ok"] = "ok"


class StatusView(BaseModel):
    """Whether something would run a task; administrators see why, and the workers and queues."""

    backend: str
    healthy: bool
    detail: str | None = None
    workers: list[dict[str, Any]] | None = None
    queues: list[dict[str, Any]] | None = None


router = APIRouter(tags=["state"])


@router.get("/health")
async def health() -> Up:
    """Say that the API is up; that needs no token."""
    return Up()


@router.get("/status", responses=documented())
async def status(core: Held, asker: Asker) -> StatusView:
    """Say whether something would run a task, and to administrators what is known of workers and queues."""
    found = await core.service.health()
    view = StatusView(backend=found.backend, healthy=found.healthy)
    if asker.admin:
        # These name hosts.
        view.detail = found.detail
        view.workers = [asdict(each) for each in found.workers]
        view.queues = [asdict(each) for each in found.queues]
    return view
