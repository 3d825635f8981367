"""For ``locust -f``: every user, and the flags. Locust comes first, since it patches the world."""

from __future__ import annotations

from locust import events

from taskservice.load.api_user import ApiUser
from taskservice.load.flags import add_flags
from taskservice.load.hooks import take_part
from taskservice.load.users import CeleryUser, StoryUser, TaskUser, WorkflowUser

events.init_command_line_parser.add_listener(add_flags)
events.init.add_listener(take_part)

__all__ = ["ApiUser", "CeleryUser", "StoryUser", "TaskUser", "WorkflowUser"]
