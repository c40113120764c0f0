"""A real nginx on loopback, with a port and files of its own; for tests."""

from pathlib import Path

from server import Server, free_port, unpacked

CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} {listen};
        location = /is-up {{ return 204; }}
        {lines}
    }}
}}
"""


def nginx_path() -> Path:
    """The nginx that ``make servers`` has unpacked."""
    return unpacked("nginx", "nginx")


class Nginx(Server):
    """An nginx with the *lines* in its server block; with the *certificate* and *key* it speaks TLS."""

    def __init__(self, directory: Path, lines: str, *, certificate: tuple[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port, config = free_port(), directory / "nginx.conf"
        if certificate:
            lines = f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]}; {lines}"
        listen = "ssl" if certificate else ""
        config.write_text(CONFIG.format(directory=directory, port=port, listen=listen, lines=lines))
        command = [str(nginx_path()), "-p", str(directory), "-c", str(config), "-e", "stderr"]
        super().__init__(port, command, directory / "nginx.log", "/is-up", tls=certificate is not None)
