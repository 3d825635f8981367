"""Load tests: users, shapes, accounts and reports. Imported by ``taskservice load`` and ``loadtests/``, never by the runtime.

Nothing is re-exported: Locust's process must load Locust, which patches the world, before anything else, and the
command line must not load it at all.
"""
