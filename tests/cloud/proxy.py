"""The network between a client and the machines: ports of a public address lead to the same ports of one machine.

It can be slow (`delay`) and it can be cut. One thread carries all connections; data is never looked into.
"""

import asyncio
import collections
import concurrent.futures
import logging
import socket
import struct
import threading
import typing

log = logging.getLogger("proxy")

# What one direction of a connection may hold while it travels; more than 150 ms of a 1 Gbit/s link.
MOST_IN_FLIGHT = 64 << 20
MOST_WAITING = 1 << 20  # without a delay nothing is in flight: what the sink does not take stays with the source
CHUNK = 256 << 10


class Count:
    """What went to and from a port of a machine since it was made."""

    def __init__(self):
        self.connections = 0
        self.turns = 0  # times that the client spoke after the machine had: a round trip that was waited for
        self.to_machine = 0
        self.from_machine = 0


Place = tuple[str, int]  # address and port
Route = tuple[str, typing.Callable[[int], socket.socket]]  # machine id, and how to connect to one of its ports


class Proxy(threading.Thread):
    def __init__(self):
        super().__init__(name="proxy", daemon=True)
        self.loop = asyncio.new_event_loop()
        # Only for connecting, which waits for the machine.
        self.loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(64))
        self.delay = 0.0  # seconds for the round trip
        self.delays: dict[str, float] = {}  # those of single machines
        self.errors: dict[Place, str] = {}  # those that could not be listened on
        self._counts: dict[tuple[str, int], Count] = collections.defaultdict(Count)
        self._cut: set[str] = set()
        self._wanted: dict[Place, Route] = {}
        self._listeners: dict[Place, tuple[Route, socket.socket]] = {}
        self._links: dict[str, set] = collections.defaultdict(set)

    def run(self) -> None:
        self.loop.run_forever()

    # Called from other threads.

    def route(self, routes: dict[Place, Route]) -> None:
        """Makes `routes` all that is reachable. Everything else is refused."""
        if routes != self._wanted:
            self._wanted = dict(routes)
            self._call(self._apply)

    def cut(self, machine: str) -> None:
        self._cut.add(machine)
        self._call(self._apply)

    def heal(self, machine: str) -> None:
        self._cut.discard(machine)
        self._call(self._apply)

    def is_cut(self, machine: str) -> bool:
        return machine in self._cut

    def clear(self) -> None:
        """Forgets cuts, delays and counts."""
        self._cut.clear()
        self._counts.clear()
        self.delays.clear()
        self.delay = 0.0

    def count(self, machine: str, port: int = 22) -> Count:
        return self._counts[machine, port]

    def settled(self, seconds: float = 5) -> None:
        """Waits until what was asked for so far is in force."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(done.set)
        done.wait(seconds)

    def _call(self, function) -> None:
        self.loop.call_soon_threadsafe(function)

    # In the proxy's own thread.

    def _apply(self) -> None:
        wanted = {place: route for place, route in self._wanted.items() if route[0] not in self._cut}
        for place in list(self._listeners):
            route, listener = self._listeners[place]
            if route != wanted.get(place):
                del self._listeners[place]
                self.loop.remove_reader(listener)
                listener.close()
                for link in list(self._links.pop(place, ())):
                    link.reset()
        for place, route in wanted.items():
            if place not in self._listeners:
                self._listen(place, route)

    def _listen(self, place: Place, route: Route) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind(place)
        except OSError as error:
            listener.close()
            self.errors[place] = f"cannot listen on {place[0]} port {place[1]}: {error.strerror}"
            log.error("%s", self.errors[place])
            return
        listener.listen(128)
        self.errors.pop(place, None)
        self._listeners[place] = (route, listener)
        self.loop.add_reader(listener, self._accept, place, route, listener)

    def _accept(self, place: Place, route: Route, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client left again before its turn came
        machine, connect = route
        port = place[1]
        count = self._counts[machine, port]
        count.connections += 1
        link = Link(self, machine, count, self._links[place])
        self.loop.create_task(link.open(client, lambda: connect(port)))


class Link:
    """One connection: two pipes."""

    def __init__(self, proxy: Proxy, machine: str, count: Count, links: set):
        self.proxy, self.machine, self.count, self.links = proxy, machine, count, links
        self.loop = proxy.loop
        self.sockets: list[socket.socket] = []
        self.pipes: list[Pipe] = []
        self.client_spoke = True  # so that a machine that greets first and its client's answer make one turn
        links.add(self)

    @property
    def delay(self) -> float:
        return self.proxy.delays.get(self.machine, self.proxy.delay)

    async def open(self, client: socket.socket, connect) -> None:
        client.setblocking(False)
        self.sockets.append(client)
        born = self.loop.time()
        delay = self.delay
        # The kernel has accepted already. A far machine hears of it when the third packet of the handshake is there.
        if delay:
            await asyncio.sleep(1.5 * delay)
        try:
            server = await self.loop.run_in_executor(None, connect)
        except OSError:
            self.reset()  # nobody listens in the machine: refused
            return
        if self not in self.links:  # cut meanwhile
            server.close()
            return
        server.setblocking(False)
        self.sockets.append(server)
        for end in self.sockets:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pipes = [Pipe(self, client, server, to_machine=True), Pipe(self, server, client, to_machine=False)]
        self.pipes[0].not_before = born + 1.5 * delay
        for pipe in self.pipes:
            pipe.read_more()

    def heard(self, size: int, to_machine: bool) -> None:
        if to_machine:
            self.count.to_machine += size
            if not self.client_spoke:
                self.count.turns += 1
        else:
            self.count.from_machine += size
        self.client_spoke = to_machine

    def ended(self) -> None:
        if all(pipe.done for pipe in self.pipes):
            self._close()

    def reset(self) -> None:
        """Ends both sides at once with a reset, as when the other end is gone."""
        for end in self.sockets:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass  # closed already
        self._close()

    def _close(self) -> None:
        self.links.discard(self)
        for pipe in self.pipes:
            pipe.done = True
            pipe.queue.clear()
        for end in self.sockets:
            if end.fileno() >= 0:
                self.loop.remove_reader(end)
                self.loop.remove_writer(end)
                end.close()
        self.sockets.clear()


class Pipe:
    """One direction: what is read at one moment is written half a round trip later, in order, at full rate."""

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket, to_machine: bool):
        self.link, self.source, self.sink, self.to_machine = link, source, sink, to_machine
        self.loop = link.loop
        self.queue: collections.deque = collections.deque()  # (when due, bytes); empty bytes are the end
        self.size = 0
        self.not_before = 0.0
        self.reading = False
        self.ended = False  # the source has nothing more to say
        self.waiting = False  # for the sink to take more, or for the time to come
        self.done = False

    def read_more(self) -> None:
        if not (self.reading or self.ended or self.done):
            self.reading = True
            self.loop.add_reader(self.source, self._read)

    def _stop_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.loop.remove_reader(self.source)

    def _read(self) -> None:
        try:
            data = self.source.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.link.reset()
            return
        delay = self.link.delay
        if data:
            self.link.heard(len(data), self.to_machine)
        else:
            self.ended = True
            self._stop_reading()
        self.size += len(data)
        self.queue.append((max(self.loop.time() + delay / 2, self.not_before) if delay else 0.0, memoryview(data)))
        if not delay and len(self.queue) == 1 and not self.waiting:
            self._write()
        elif not self.waiting:
            self._arm()
        if self.size >= self._most():
            self._stop_reading()

    def _most(self) -> int:
        return MOST_IN_FLIGHT if self.link.delay else MOST_WAITING

    def _arm(self) -> None:
        self.waiting = True
        self.loop.call_at(self.queue[0][0], self._due)

    def _due(self) -> None:
        self.waiting = False
        if not self.done:
            self._write()

    def _writable(self) -> None:
        self.loop.remove_writer(self.sink)
        self.waiting = False
        self._write()

    def _write(self) -> None:
        # The clock of the loop is coarse: what is due within half a millisecond goes now.
        now = self.loop.time() + 0.0005
        while self.queue:
            due, data = self.queue[0]
            if due > now:
                self._arm()
                return
            if not data:
                self.queue.clear()
                self._end()
                return
            try:
                sent = self.sink.send(data)
            except (BlockingIOError, InterruptedError):
                self._wait_for_sink()
                return
            except OSError:
                self.link.reset()
                return
            self.size -= sent
            if self.size < self._most():
                self.read_more()
            if sent < len(data):
                self.queue[0] = (due, data[sent:])
                self._wait_for_sink()
                return
            self.queue.popleft()

    def _wait_for_sink(self) -> None:
        self.waiting = True
        self.loop.add_writer(self.sink, self._writable)

    def _end(self) -> None:
        self.done = True
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the sink has gone: its own direction ends by itself
        self.link.ended()
