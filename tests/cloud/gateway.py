"""The HTTP front of the cloud: logs each call, lets faults happen to it, hands it to moto or to the control endpoint."""

import datetime
import hashlib
import io
import json
import logging
import pathlib
import re
import secrets
import select
import socket
import threading
import time
import urllib.parse

from botocore.model import OperationNotFoundError
from moto.ec2.exceptions import FilterNotImplementedError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from control import Control
from ec2 import denied

log = logging.getLogger("gateway")

# Codes that AWS answers with another status than 400 (EC2 API reference, "Error codes").
STATUS = {
    "AuthFailure": 401,
    "DryRunOperation": 412,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "RequestLimitExceeded": 503,
    "UnauthorizedOperation": 403,
}
CODE = re.compile(rb"<Code>([^<]+)</Code>")
MADE = re.compile(rb"<(instanceId|groupId|keyPairId|allocationId)>([^<]+)<")
# Actions whose answers name what they have made.
MAKERS = ("RunInstances", "CreateSecurityGroup", "ImportKeyPair", "CreateKeyPair", "AllocateAddress")


class RequestLog:
    """One JSON object a line, in a file and in memory, for assertions."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._lock = threading.Lock()
        self.entries: list[dict] = []
        self.clear()

    def add(self, entry: dict) -> None:
        with self._lock:
            self.entries.append(entry)
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def clear(self) -> None:
        with self._lock:
            self.entries = []
            self._path.write_text("")


# Of all filters of a call together.
MOST_FILTER_VALUES = 200
FILTER_VALUE = re.compile(r"Filter\.\d+\.Value\.\d+")


class Gateway:
    def __init__(self, cloud, requests: RequestLog, stop):
        self.cloud = cloud
        self.requests = requests
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.control = Control(cloud, requests, stop)

    def __call__(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        if path.startswith("/local-cloud/"):
            return self.control(environ, start_response)
        if path.startswith("/moto-api"):
            # A reset there would leave the machines running.
            return answer(start_response, 404, b"not here: use /local-cloud/\n", "text/plain")
        return self._call(environ, start_response)

    def _call(self, environ, start_response):
        began = time.monotonic()
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        params = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        params = params or dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", "")))
        action = params.pop("Action", "")
        service, region = scope(environ.get("HTTP_AUTHORIZATION", ""))
        entry = {
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            "service": service,
            "region": region,
            "action": action,
            "params": elide(params),
            "status": None,
            "error": None,
            "made": [],
            "fault": None,
        }
        fault = self.cloud.faults.wire(action) if service == "ec2" else None
        entry["fault"] = fault
        if fault == "hang":
            self.requests.add(entry)
            wait_for_client_to_leave(environ["werkzeug.socket"])
            return drop(environ, start_response)
        if fault == "cut-before":
            self.requests.add(entry)
            return drop(environ, start_response)
        if fault == "throttle":
            status, headers, reply = error("RequestLimitExceeded", "Request limit exceeded.")
        elif service == "ec2" and sum(1 for name in params if FILTER_VALUE.fullmatch(name)) > MOST_FILTER_VALUES:
            status, headers, reply = error(
                "FilterLimitExceeded", f"The maximum number of filter values specified on a single call is {MOST_FILTER_VALUES}"
            )
        else:
            status, headers, reply = self._moto(environ, body, action, service)
        entry["status"] = status
        code = CODE.search(reply) if status >= 300 else None
        entry["error"] = code[1].decode() if code else None
        if action in MAKERS and status == 200:
            entry["made"] = list(dict.fromkeys(value.decode() for _, value in MADE.findall(reply) if own(value, action)))
        entry["seconds"] = round(time.monotonic() - began, 4)
        self.requests.add(entry)
        if fault == "cut-after":
            return drop(environ, start_response)
        return answer(start_response, status, reply, headers.get("Content-Type", "text/xml"), headers)

    def _moto(self, environ, body: bytes, action: str, service: str):
        """moto's answer, its crashes turned into the errors that EC2 gives."""
        environ = dict(environ, **{"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))})
        try:
            with self.cloud.lock:
                self.cloud.settle()
                chunks, status, headers = run_wsgi_app(self.moto, environ, buffered=True)
                reply = b"".join(chunks)
                self.cloud.route()
        except OperationNotFoundError:
            return error("InvalidAction", f"The action {action} is not valid for this web service.")
        except NotImplementedError as cause:
            text = str(cause)
            named = re.search(r"(?:filter '|for ')([^']+)'", text)
            if isinstance(cause, FilterNotImplementedError) or "Filter dicts" in text:
                return error("InvalidParameterValue", f"The filter '{named[1] if named else text}' is invalid")
            log.error("%s %s: %s", service, action, text)
            return error("UnsupportedOperation", f"the local cloud has no {action}: {text}")
        except Exception as cause:  # a bug here or in moto is for the log; the client sees EC2's word for it
            log.exception("%s %s failed", service, action)
            return error("InternalError", f"An internal error has occurred ({type(cause).__name__})")
        code = CODE.search(reply)
        if service == "ec2" and code and code[1] == b"AccessDenied":
            # moto's IAM answers for EC2 as other services do.
            user = re.search(rb":user/(\S+) ", reply)
            needed = re.search(rb"perform: ec2:(\w+)", reply)
            region = scope(environ["HTTP_AUTHORIZATION"])[1]
            action = needed[1].decode() if needed else action
            return error("UnauthorizedOperation", denied(action, region, user[1].decode() if user else "unknown"))
        number = int(status.split()[0])
        if number >= 300 and code:
            number = STATUS.get(code[1].decode(), number)
        return number, dict(headers), reply


def scope(authorization: str) -> tuple[str, str]:
    """Service and region out of the credential scope of a signature (AWS Signature Version 4)."""
    match = re.search(r"Credential=[^/]*/\d+/([^/]+)/([^/]+)/aws4_request", authorization)
    return (match[2], match[1]) if match else ("", "")


def elide(params: dict) -> dict:
    """User data may hold a host key: the log has its digest only."""
    kept = {}
    for key, value in params.items():
        if key.startswith("UserData"):
            value = f"sha256:{hashlib.sha256(value.encode()).hexdigest()} length:{len(value)}"
        kept[key] = value
    return kept


def own(value: bytes, action: str) -> bool:
    prefix = {
        "RunInstances": b"i-", "CreateSecurityGroup": b"sg-", "AllocateAddress": b"eipalloc-",
    }.get(action, b"key-")
    return value.startswith(prefix)


def error(code: str, message: str):
    escaped = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    reply = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{escaped}</Message>'
        f"</Error></Errors><RequestID>{secrets.token_hex(16)}</RequestID></Response>"
    )
    return STATUS.get(code, 400), {"Content-Type": "text/xml;charset=UTF-8"}, reply.encode()


def answer(start_response, status: int, body: bytes, kind: str, headers: dict | None = None):
    fields = [(k, v) for k, v in (headers or {}).items() if k.lower().startswith("x-amz")]
    start_response(f"{status} {'OK' if status == 200 else 'Error'}", [
        ("Content-Type", kind), ("Content-Length", str(len(body))), *fields,
    ])
    return [body]


def drop(environ, start_response):
    """Cuts the connection: the client sees its end and not one byte."""
    try:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client was faster
    start_response("200 OK", [("Connection", "close")])
    return [b""]


def wait_for_client_to_leave(client: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([client], [], [], 60)
        try:
            if readable and not client.recv(65536, socket.MSG_PEEK):
                return
        except OSError:
            return
        if readable:
            time.sleep(0.2)  # bytes of a next request: nobody reads them
