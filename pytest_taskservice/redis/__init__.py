"""Where a test gets its Redis."""

from pytest_taskservice.redis.acquire import acquire
from pytest_taskservice.redis.base import PROVIDERS, RedisRequest, RedisServer

__all__ = ["PROVIDERS", "RedisRequest", "RedisServer", "acquire"]
