"""An InfluxDB that asks for a user and a password."""

import base64
import json
import urllib.parse
import urllib.request

from influxd import Influxd

#: Its one user, as a writer's settings name it; with what an address or a header could trip over.
ADMIN = {"username": "admin", "password": "pa ss/wörd"}


class GuardedInfluxd(Influxd):
    """A real InfluxDB that knows only ADMIN, with an empty database power; its data is in *directory*."""

    def __init__(self, directory):
        super().__init__(directory, auth=True)

    def __enter__(self):
        super().__enter__()
        try:
            # Anyone may make the first user.
            self.query(f"CREATE USER {ADMIN['username']} WITH PASSWORD '{ADMIN['password']}' WITH ALL PRIVILEGES")
            self.query_as_admin("CREATE DATABASE power")
        except BaseException:
            self.stop()
            raise
        return self

    def query_as_admin(self, query):
        """The series that *query* on the database power gives to ADMIN."""
        credentials = base64.b64encode(f"{ADMIN['username']}:{ADMIN['password']}".encode()).decode()
        fields = urllib.parse.urlencode({"q": query, "db": "power", "epoch": "ns"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/query", fields, {"Authorization": f"Basic {credentials}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["results"][0].get("series", [])
