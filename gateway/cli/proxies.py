"""Configurations of the proxies before a gateway: what `offhook tunnel-help nginx` and `haproxy` print."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from offhook.gateway.config import Settings

__all__ = ["PROXIES"]

EXAMPLE = "https://voice.example.com"

NGINX = """\
# /etc/nginx/conf.d/offhook.conf
map $http_upgrade $offhook_connection {{ default upgrade; "" ""; }}

server {{
    listen 443 ssl;
    server_name {name};
    ssl_certificate     /etc/letsencrypt/live/{name}/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/{name}/privkey.pem;

    location / {{
        proxy_pass http://{gateway};  # no path and no slash: path and query are signed
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $offhook_connection;
        proxy_set_header Host $host;
        proxy_buffering off;
        proxy_read_timeout 4h;  # as long as a call may last
        proxy_send_timeout 4h;
    }}
}}
"""

HAPROXY = """\
# /etc/haproxy/haproxy.cfg
defaults
    mode http
    timeout connect 5s
    timeout client 75s  # longer than clients keep idle connections
    timeout server 30s
    timeout tunnel 4h  # a media stream: as long as a call may last

frontend offhook
    bind :443 ssl crt /etc/haproxy/certs/{name}.pem alpn http/1.1
    default_backend offhook

backend offhook
    server gateway {gateway}
"""


def _filled(template: str) -> Callable[[Settings], str]:
    def text(settings: Settings) -> str:
        """For the public URL's host, and a gateway on the same machine as the proxy."""
        name = urlsplit(settings.public_url or EXAMPLE).hostname
        return template.format(name=name, gateway=f"127.0.0.1:{settings.port}")

    return text


PROXIES = {"nginx": _filled(NGINX), "haproxy": _filled(HAPROXY)}
