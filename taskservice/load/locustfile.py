"""For ``locust -f``: every user, the flags, the shape. Locust's process loads Locust first, which patches the world."""

from __future__ import annotations

from locust import events  # noqa: F401 - first

import taskservice.load.flags
import taskservice.load.hooks
from taskservice.load.api_user import ApiUser
from taskservice.load.users import CeleryUser, StoryUser, TaskUser, WorkflowUser

__all__ = ["ApiUser", "CeleryUser", "StoryUser", "TaskUser", "WorkflowUser"]
