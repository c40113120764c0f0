"""
The program as a process: detaching, the lock of the pidfile, stopping, asking, the service manager.

Light to import: ``--status`` and ``--kill`` need nothing else.
"""
