"""
One process of many: detaching, the lock of the pidfile, stopping, asking, the service manager.

Light to import: ``--status`` and ``--kill`` need no more than this.
"""
