"""
Runs Home Assistant with little more than MQTT, the recorder and the energy dashboard; by Home Assistant's own Python.

minimal.py DIRECTORY HTTP_PORT MQTT_PORT: its configuration is in DIRECTORY. Where that is new it gets an owner whose
token is in DIRECTORY/token, and is connected to the broker already: what a person would have clicked.
"""

import base64
import datetime as dt
import hashlib
import hmac
import json
import secrets
import sys
from pathlib import Path

from homeassistant import __main__, bootstrap

CONFIGURATION = """
homeassistant: {{name: test, unit_system: metric, time_zone: UTC, latitude: 52, longitude: 13, country: DE}}
http: {{server_host: 127.0.0.1, server_port: {port}}}
recorder: {{commit_interval: 1}}
history:
energy:
api:
websocket_api:
config:
frontend:
logbook:
logger: {{default: warning}}
"""

#: In s of its own clock, which runs so much faster than the broker's.
KEEPALIVE_S = 7200


def store(directory: Path, key: str, version: int, minor: int, data: dict) -> None:
    """Write what Home Assistant keeps under *key*."""
    content = {"version": version, "minor_version": minor, "key": key, "data": data}
    (directory / ".storage" / key).write_text(json.dumps(content))


def token(issuer: str, key: str) -> str:
    """A token of ten years, signed with *key* (RFC 7519)."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    now = dt.datetime.now(dt.UTC).timestamp()
    years = 10 * 366 * 86400
    claims = {"iss": issuer, "iat": int(now - years), "exp": int(now + years)}
    signed = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest())}"


def prepare(directory: Path, http_port: int, mqtt_port: int) -> None:
    """Make the configuration."""
    (directory / ".storage").mkdir(parents=True)
    (directory / "configuration.yaml").write_text(CONFIGURATION.format(port=http_port))
    user, issuer, key = (secrets.token_hex(n) for n in (16, 16, 64))
    now = dt.datetime.now(dt.UTC).isoformat()
    owner = {
        "id": user,
        "group_ids": ["system-admin"],
        "is_owner": True,
        "is_active": True,
        "name": "Test",
        "system_generated": False,
        "local_only": False,
    }
    refresh = {
        "id": issuer,
        "user_id": user,
        "client_id": None,
        "client_name": "test",
        "client_icon": None,
        "token_type": "long_lived_access_token",
        "created_at": now,
        "access_token_expiration": 10 * 366 * 86400.0,
        "token": secrets.token_hex(64),
        "jwt_key": key,
        "last_used_at": None,
        "last_used_ip": None,
        "expire_at": None,
        "credential_id": None,
        "version": "0",
    }
    groups = [{"id": name, "name": name} for name in ("system-admin", "system-users", "system-read-only")]
    store(directory, "auth", 1, 1, {"users": [owner], "groups": groups, "credentials": [], "refresh_tokens": [refresh]})
    store(directory, "onboarding", 4, 1, {"done": ["user", "core_config", "analytics", "integration"]})
    entry = {
        "created_at": now,
        "modified_at": now,
        "data": {"broker": "127.0.0.1", "port": mqtt_port, "keepalive": KEEPALIVE_S},
        "disabled_by": None,
        "discovery_keys": {},
        "domain": "mqtt",
        "entry_id": "01TEST00000000000000000000",
        "minor_version": 2,
        "options": {},
        "pref_disable_new_entities": False,
        "pref_disable_polling": False,
        "source": "user",
        "subentries": [],
        "title": "test",
        "unique_id": None,
        "version": 1,
    }
    store(directory, "core.config_entries", 1, 5, {"entries": [entry]})
    (directory / "token").write_text(token(issuer, key))


def main() -> int:
    """Run it until a signal."""
    directory = Path(sys.argv[1])
    if not (directory / "token").exists():
        prepare(directory, int(sys.argv[2]), int(sys.argv[3]))
    # Its defaults include much that looks for devices on the network.
    bootstrap.DEFAULT_INTEGRATIONS.clear()
    sys.argv = ["hass", "-c", str(directory), "--skip-pip"]
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
