"""The instance metadata service of one machine, at 169.254.169.254 inside its own network namespace.

Paths and the token protocol are those of the EC2 User Guide, "Access instance metadata for an EC2 instance" and
"How Instance Metadata Service Version 2 works".
"""

import base64
import http.server
import json
import logging
import secrets
import threading
import time

log = logging.getLogger("imds")
MOST_TTL = 21600


def serve(listener, life) -> "Service":
    """Answers on a listening socket until `close`."""
    return Service(listener, life)


class Service(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener, life):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.life = life
        self.tokens: dict[str, float] = {}
        threading.Thread(target=self.serve_forever, name=f"imds {life.id}", daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        log.debug("%s: a client left", self.life.id, exc_info=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    timeout = 20

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/latest/api/token":
            return self._answer(404)
        # A request that came through a proxy is refused, so that an open one does not give tokens away.
        if self.headers.get("X-Forwarded-For"):
            return self._answer(403)
        try:
            ttl = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", ""))
        except ValueError:
            return self._answer(400)
        if not 1 <= ttl <= MOST_TTL:
            return self._answer(400)
        token = base64.b64encode(secrets.token_bytes(40)).decode()
        self.server.tokens[token] = time.monotonic() + ttl
        self._answer(200, token.encode(), [("X-aws-ec2-metadata-token-ttl-seconds", str(ttl))])

    def do_GET(self) -> None:
        life = self.server.life
        options = life.instance.metadata_options
        if options.http_endpoint == "disabled":
            return self._answer(403)
        token = self.headers.get("X-aws-ec2-metadata-token")
        if token is None and options.http_tokens == "required":
            return self._answer(401)
        if token is not None and self.server.tokens.get(token, 0) < time.monotonic():
            return self._answer(401)
        parts = self.path.split("?")[0].strip("/").split("/")
        # Dated versions of the tree hold the same for what is served here.
        with life.cloud.lock:
            value = find(tree(life), parts[1:])
        if value is None:
            return self._answer(404)
        self._answer(200, value)

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes | None = None, headers=()) -> None:
        if body is None:
            body = b"" if status == 200 else f"{status} - {self.responses[status][0]}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, form, *args) -> None:
        log.debug("%s: " + form, self.server.life.id, *args)


def tree(life) -> dict:
    """The metadata as nested dictionaries; a list of keys is what EC2 answers for a folder."""
    instance = life.instance
    meta = {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "ami-manifest-path": "(unknown)",
        "hostname": instance.private_dns_name,
        "instance-action": "none",
        "instance-id": instance.id,
        "instance-life-cycle": "spot" if instance.lifecycle else "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": instance.private_ip,
        "mac": instance.nics[0].mac_address,
        "placement": {
            "availability-zone": instance.placement.zone,
            "region": instance.region_name,
        },
        "public-hostname": instance.public_dns_name,
        "public-ipv4": instance.public_ip,
        "reservation-id": reservation_id(instance),
        "security-groups": "\n".join(group.name for group in instance.security_groups),
    }
    if life.public_key:
        meta["public-keys"] = {f"0={instance.key_name}": None, "0": {"openssh-key": life.public_key}}
    if instance.metadata_options.instance_metadata_tags == "enabled":
        meta["tags"] = {"instance": dict(instance.ec2_backend.tags.get(instance.id, {}))}
    top = {"meta-data": meta, "dynamic": {"instance-identity": {"document": identity(instance)}}}
    if instance.user_data:
        top["user-data"] = base64.b64decode(str(instance.user_data))
    return top


def find(value, parts: list[str]) -> bytes | None:
    for part in parts:
        if part == "":
            continue
        value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            return None
    if isinstance(value, dict):
        # public-keys lists "0=name" but is walked by "0".
        hidden = "0" if any(key.startswith("0=") for key in value) else None
        names = [key + ("/" if isinstance(child, dict) else "") for key, child in value.items() if key != hidden]
        return "\n".join(names).encode()
    return value if isinstance(value, bytes) else value.encode()


def identity(instance) -> str:
    return json.dumps(
        {
            "accountId": instance.owner_id,
            "architecture": instance.architecture,
            "availabilityZone": instance.placement.zone,
            "imageId": instance.image_id,
            "instanceId": instance.id,
            "instanceType": instance.instance_type,
            "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": instance.private_ip,
            "region": instance.region_name,
            "version": "2017-09-30",
        },
        indent=2,
    )


def reservation_id(instance) -> str:
    for reservation in instance.ec2_backend.reservations.values():
        if any(i.id == instance.id for i in reservation.instances):
            return reservation.id
    return ""
