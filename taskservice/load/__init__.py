"""Load tests: users, shapes, accounts, reports. For ``taskservice load`` and ``loadtests/``.

Nothing is re-exported: Locust's process must load Locust, which patches the world, before anything else,
and the command line must not load it at all.
"""
