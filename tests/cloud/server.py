"""The local cloud's server: EC2, STS and IAM on 127.0.0.1, the machines' network and their metadata services.

Started by `scripts/local-cloud up` with the Python of the venv that holds moto.
"""

import argparse
import logging
import os
import pathlib
import signal
import socket
import sys
import threading

# Read by moto when it is imported. Images are ours; the other checks are done in launch.py with EC2's words.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "false"

from werkzeug.serving import make_server  # noqa: E402
from moto.moto_server.werkzeug_app import MotoRequestHandler  # noqa: E402

import ec2  # noqa: E402
from cloud import SSH, Cloud  # noqa: E402
from gateway import Gateway, RequestLog  # noqa: E402
from proxy import Proxy  # noqa: E402


class RequestHandler(MotoRequestHandler):
    # An answer is sent in two pieces; the second must not wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True

    def log_request(self, code="-", size="-") -> None:
        pass  # requests.log says more


def main() -> int:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    run = arguments.run
    run.mkdir(parents=True, exist_ok=True)

    make_machine = proxy = None
    if not arguments.api_only:
        problem = port_taken()
        if problem:
            print(problem, file=sys.stderr)
            return 1
        import machine

        machine.cleanup(arguments.folder)
        make_machine = lambda identifier, disk: machine.Machine(arguments.folder, identifier, disk)  # noqa: E731
        proxy = Proxy()
        proxy.start()
    cloud = Cloud(make_machine, proxy)
    ec2.install(cloud)

    stopped = threading.Event()
    requests = RequestLog(run / "requests.log")
    server = make_server(
        "127.0.0.1", arguments.port, Gateway(cloud, requests, stopped.set), threaded=True, request_handler=RequestHandler
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    # A connection thread may run Python for a while; the proxy's packets should not wait 5 ms for their turn.
    sys.setswitchinterval(0.0005)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (run / "pid").write_text(f"{os.getpid()}\n")
    stopped.wait()
    logging.info("ending %d machines", len(cloud.lives))
    cloud.close()
    if make_machine:
        machine.cleanup(arguments.folder)
    (run / "pid").unlink(missing_ok=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where the image and the machines are")
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder for the pid and the log of requests")
    parser.add_argument("--port", type=int, default=5566)
    parser.add_argument("--api-only", action="store_true", help="boot no machines")
    return parser.parse_args()


def port_taken() -> str | None:
    """Says who is in the way if the machines' addresses cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.2", SSH))
        except OSError as error:
            return (
                f"cannot listen on 127.0.0.2 port {SSH}: {error.strerror}. Machines are reached at port {SSH} of 127.0.0.x. "
                "If a ssh server of this host listens on all addresses, give it its own with ListenAddress in "
                "/etc/ssh/sshd_config and restart it, or use up --api-only"
            )
    return None


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking moto's tables apart object by object would need more than a second.
    os._exit(code)
