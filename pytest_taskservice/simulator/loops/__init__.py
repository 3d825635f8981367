"""Event loops in virtual time: asyncio and trio over one timeline, and the threads beside them."""
