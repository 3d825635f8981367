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
    """How the service is; see `ServiceHealth`."""

    backend: str
    healthy: bool
    detail: str
    workers: list[dict[str, Any]]
    queues: list[dict[str, Any]]


router = APIRouter(tags=["state"])


@router.get("/health")
async def health() -> Up:
    """Say that the API is up; that needs no token."""
    return Up()


@router.get("/status", responses=documented())
async def status(core: Held, _: Asker) -> StatusView:
    """Say whether something would run a task, and show workers and queues."""
    found = await core.service.health()
    return StatusView(
        backend=found.backend,
        healthy=found.healthy,
        detail=found.detail,
        workers=[asdict(each) for each in found.workers],
        queues=[asdict(each) for each in found.queues],
    )
