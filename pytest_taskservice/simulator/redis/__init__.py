"""The Redis of a simulated world: redis-py's own clients, servers in this process, virtual time."""

from pytest_taskservice.simulator.redis.simulated import ROUND_TRIP, SimulatedRedis

__all__ = ["ROUND_TRIP", "SimulatedRedis"]
