"""The simulator's core: an agenda of events, a clock that only they move, seeded draws, fibers."""
