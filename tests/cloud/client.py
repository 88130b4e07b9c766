"""The other half of scripts/local-cloud: commands that are one request to the server's control endpoints."""

import argparse
import json
import pathlib
import socket
import sys
import urllib.parse


def request(endpoint: str, method: str, verb: str, arguments: dict, body: bytes = b"") -> bytes:
    # Tests run this hundreds of times: the standard library's HTTP takes three times as long to load as all else here.
    address = urllib.parse.urlsplit(endpoint)
    head = f"{method} /local-cloud/{verb}?{urllib.parse.urlencode(arguments)} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        with socket.create_connection((address.hostname, address.port), timeout=180) as connection:
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        head, body = answer.split(b"\r\n\r\n", 1)
    except (OSError, ValueError):
        raise SystemExit(f"local-cloud: nothing answers at {endpoint}: run local-cloud up") from None
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise SystemExit(f"local-cloud: {json.loads(body)['error']}")
    return body


def main() -> None:
    endpoint, command, *rest = sys.argv[1:]
    words = parse(command, rest)

    def post(verb: str, body: bytes = b"", **arguments) -> bytes:
        return request(endpoint, "POST", verb, {k: v for k, v in arguments.items() if v is not None}, body)

    if command == "answers":
        # Asked in a loop while the server starts.
        try:
            request(endpoint, "GET", "status", {})
        except SystemExit:
            sys.exit(1)
    elif command == "status":
        print_status(json.loads(request(endpoint, "GET", "status", {})))
    elif command == "log":
        sys.stdout.buffer.write(request(endpoint, "GET", "log", {}))
    elif command == "console":
        sys.stdout.buffer.write(request(endpoint, "GET", "console", {"machine": words.machine}))
    elif command in ("cut", "heal", "kill"):
        post(command, machine=words.machine)
    elif command == "delay":
        post("delay", ms=words.ms, machine=words.machine)
    elif command == "reset":
        post("reset")
    elif command == "fault":
        post("fault", kind=words.kind, value=words.value, action=words.action, zone=words.zone, region=words.region)
    elif command == "set":
        post("set", **{words.name: words.seconds}, machine=words.machine)
    elif command == "iam":
        iam(post, words.policy)
    elif command == "raw":
        pairs = dict(pair.split("=", 1) for pair in words.arguments)
        body = b"" if words.method == "GET" or sys.stdin.isatty() else sys.stdin.buffer.read()
        sys.stdout.buffer.write(request(endpoint, words.method, words.verb, pairs, body))


def iam(post, policy: str) -> None:
    if policy == "off":
        post("iam-off")
        return
    key = json.loads(post("iam", body=pathlib.Path(policy).read_bytes()))
    print(f"export AWS_ACCESS_KEY_ID={key['accessKeyId']} AWS_SECRET_ACCESS_KEY={key['secretAccessKey']}")


def parse(command: str, rest: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"local-cloud {command}")
    if command in ("console", "cut", "heal", "kill"):
        parser.add_argument("machine", metavar="M", help="name or instance id")
    elif command == "delay":
        parser.add_argument("ms", metavar="MS", type=float)
        parser.add_argument("machine", metavar="M", nargs="?", help="only this machine (name or instance id)")
    elif command == "fault":
        parser.add_argument("kind", metavar="KIND")
        parser.add_argument("value", metavar="VALUE", nargs="?")
        parser.add_argument("--action", help="only this EC2 action, such as RunInstances")
        parser.add_argument("--zone", help="capacity only: the availability zone that is full")
        parser.add_argument("--region", help="deny, no-console and clear only: the region it concerns; every one unless said")
    elif command == "set":
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("seconds", metavar="SECONDS", type=float)
        parser.add_argument("machine", metavar="M", nargs="?", help="only for disk: machines of this name")
    elif command == "iam":
        parser.add_argument("policy", metavar="POLICY|off")
    elif command == "raw":
        parser.add_argument("method", choices=("GET", "POST"))
        parser.add_argument("verb")
        parser.add_argument("arguments", metavar="NAME=VALUE", nargs="*")
    return parser.parse_args(rest)


def print_status(status: dict) -> None:
    kind = "API only, no machines are booted" if status["apiOnly"] else f"delay {status['delayMs']} ms"
    print(f"cloud: {kind}, {status['requests']} requests")
    for fault in status["faults"]:
        print("fault:", " ".join(f"{key}={value}" for key, value in fault.items() if value))
    for error in status["errors"]:
        print("error:", error)
    terminated = sum(machine["state"] == "terminated" for machine in status["machines"])
    if terminated:
        print(f"terminated instances that are still listed: {terminated}")
    for machine in status["machines"]:
        if machine["state"] == "terminated":
            continue
        marks = [mark for mark in ("killed", "cut") if machine.get(mark)]
        print(
            f"{machine['id']}  {' '.join([machine['state'], *marks]):14}  {machine['publicIp'] or '-':12}  "
            f"{machine['region']}  {machine['name'] or '-'}"
        )


if __name__ == "__main__":
    main()
