"""The control endpoints under /local-cloud/: what `scripts/local-cloud` does, for tests without a shell.

GET reads, POST changes. Arguments are query parameters; answers are JSON, errors `{"error": ...}` with status 400.
"""

import json
import logging
import urllib.parse

log = logging.getLogger("control")


class Control:
    def __init__(self, cloud, requests, stop):
        self.cloud, self.requests, self.stop = cloud, requests, stop

    def __call__(self, environ, start_response):
        method = environ["REQUEST_METHOD"].lower()
        words = environ["PATH_INFO"].split("/")[2:]
        arguments = dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        step = getattr(self, f"{method}_{words[0].replace('-', '_')}", None)
        status, kind = "200 OK", "application/json"
        if step is None:
            status, result = "404 Not Found", {"error": f"there is no {method.upper()} /local-cloud/{words[0]}"}
        else:
            try:
                result = step(arguments, body)
            except KeyError as error:
                status, result = "400 Bad Request", {"error": f"the parameter {error} is missing"}
            except (ValueError, LookupError, RuntimeError) as error:
                status, result = "400 Bad Request", {"error": str(error)}
            except Exception as error:  # a bug: the caller gets a word, the log the rest
                log.exception("%s %s failed", method, environ["PATH_INFO"])
                status, result = "500 Internal Server Error", {"error": f"{words[0]} failed, see server.log: {error}"}
        if isinstance(result, bytes):
            kind, reply = "text/plain", result
        else:
            reply = json.dumps(result).encode() + b"\n"
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(reply)))])
        return [reply]

    def get_status(self, arguments, body):
        cloud = self.cloud
        with cloud.lock:
            cloud.settle()
            machines = [self._machine(life) for life in cloud.lives.values()]
        return {
            "machines": machines,
            "apiOnly": cloud.make_machine is None,
            "delayMs": round(cloud.proxy.delay * 1000) if cloud.proxy else 0,
            "faults": cloud.faults.listed(),
            "settings": vars(cloud.settings),
            "requests": len(self.requests.entries),
            "errors": list(cloud.proxy.errors.values()) if cloud.proxy else [],
        }

    def _machine(self, life) -> dict:
        instance = life.instance
        machine = {
            "id": life.id,
            "name": life.name,
            "region": instance.region_name,
            "state": instance.state,
            "publicIp": instance.public_ip,
            "privateIp": instance.private_ip_address,
            "up": life.up,
            "killed": life.killed,
        }
        if self.cloud.proxy:
            count = self.cloud.proxy.count(life.id)
            machine |= {
                "cut": self.cloud.proxy.is_cut(life.id),
                "connections": count.connections,
                "turns": count.turns,
                "bytesToMachine": count.to_machine,
                "bytesFromMachine": count.from_machine,
            }
        return machine

    def get_log(self, arguments, body):
        """The requests since `since`, a number of entries to skip."""
        entries = self.requests.entries[int(arguments.get("since", 0)):]
        return "".join(json.dumps(entry) + "\n" for entry in entries).encode()

    def post_clear_log(self, arguments, body):
        self.requests.clear()
        return {}

    def get_console(self, arguments, body):
        return self.cloud.find(arguments["machine"]).console(latest=True)

    def post_console(self, arguments, body):
        """Puts a text in the place of a machine's console, for what a real machine would do once in a year."""
        self.cloud.find(arguments["machine"]).console_text = body
        return {}

    def post_fault(self, arguments, body):
        self.cloud.faults.add(
            arguments["kind"], arguments.get("value"), arguments.get("action"), arguments.get("zone"),
            arguments.get("region"),
        )
        return {"faults": self.cloud.faults.listed()}

    def post_set(self, arguments, body):
        machine = arguments.pop("machine", None)
        if machine:
            if set(arguments) != {"disk"}:
                raise ValueError("of one machine only its disk can be set")
            self.cloud.disks[machine] = float(arguments["disk"])
            return {"disks": self.cloud.disks}
        for name, value in arguments.items():
            if not hasattr(self.cloud.settings, name):
                raise ValueError(f"no setting is called {name}: there are {' '.join(vars(self.cloud.settings))}")
            setattr(self.cloud.settings, name, float(value))
        return vars(self.cloud.settings)

    def post_delay(self, arguments, body):
        milliseconds = float(arguments["ms"])
        if not 0 <= milliseconds <= 10_000:
            raise ValueError("a delay is 0 to 10000 milliseconds for the round trip")
        proxy = self._proxy()
        if "machine" in arguments:
            proxy.delays[self.cloud.find(arguments["machine"]).id] = milliseconds / 1000
        else:
            proxy.delays.clear()
            proxy.delay = milliseconds / 1000
        return {"delayMs": milliseconds}

    def post_cut(self, arguments, body):
        life = self.cloud.find(arguments["machine"])
        self._proxy().cut(life.id)
        self._proxy().settled()
        return {"id": life.id}

    def post_heal(self, arguments, body):
        life = self.cloud.find(arguments["machine"])
        self._proxy().heal(life.id)
        life.revive()
        life.wait()
        self._proxy().settled()
        return {"id": life.id}

    def post_kill(self, arguments, body):
        life = self.cloud.find(arguments["machine"])
        self._proxy()
        if life.instance.state not in ("pending", "running"):
            raise ValueError(f"{life.id} is {life.instance.state}: only a running machine can be killed")
        life.kill()
        life.wait()
        return {"id": life.id}

    def post_reset(self, arguments, body):
        self.cloud.reset()
        self.requests.clear()
        return {}

    def post_iam(self, arguments, body):
        """Makes a user with the policy in the body and lets moto ask IAM about every call from now on.

        moto looks at actions and effects, not at resources and conditions.
        """
        from moto import settings
        from moto.iam.access_control import IAMRequestBase
        from moto.iam.models import iam_backends

        # moto computes a signature from the parameters as it would encode them: a client that writes a space as
        # %20 fails. Who asks is told by the key id alone.
        IAMRequestBase.check_signature = lambda request: None
        policy = json.loads(body)
        backend = iam_backends["123456789012"]["aws"]
        with self.cloud.lock:
            name = f"user-{len(backend.users) + 1}"
            backend.create_user("us-east-1", name)
            backend.put_user_policy(name, "policy", json.dumps(policy))
            key = backend.create_access_key(name)
            settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        return {"accessKeyId": key.access_key_id, "secretAccessKey": key.secret_access_key}

    def post_iam_off(self, arguments, body):
        from moto import settings

        settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
        return {}

    def post_down(self, arguments, body):
        self.stop()
        return {}

    def _proxy(self):
        if self.cloud.proxy is None:
            raise ValueError("this cloud has no machines: it was started with --api-only")
        return self.cloud.proxy
