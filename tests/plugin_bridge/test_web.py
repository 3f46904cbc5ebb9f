"""The page of a live conversion: in a real browser, over raw sockets, and in the face of whatever is sent to it."""

import asyncio
import json
import math
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser, Tab, browser
from companions import server_process
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_socket

from dsp.ring import AudioRing
from plugin_bridge import VoiceConverter
from plugin_bridge.control import ControlSurface, Status
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.preset import presets
from plugin_bridge.signal_path import SignalPath
from plugin_bridge.web import page as page_module
from plugin_bridge.web import server
from plugin_bridge.web.hub import Hub
from plugin_bridge.web.messages import MessageError, read_message
from plugin_bridge.web.meters import FLOOR_DB, PitchMeter, level_db
from plugin_bridge.web.page import Page, PageError

RATE = 48_000
BLOCK = 256
LOUD = 0.5  # peak of the tone that is played
TONE_HZ = 220.0
PATIENCE_SECONDS = 60  # a machine may be slow

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


class Stage:
    """A path that runs at about real time on a tone, or on silence, and its page."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.path = SignalPath(VoiceConverter("bank_a"), RATE, BLOCK)
        self.surface = ControlSurface(self.path)
        self.surface.status = self._status
        self.told: list[str] = []
        self.page = Page(self.surface, host, tell=self.told.append)
        # Somebody who begins a request and never ends it.
        self.idle = socket.create_connection(("127.0.0.1", self.page.port))
        self.idle.sendall(b"GET / HT")
        self.loudness = LOUD
        self.going = True
        self.thread = threading.Thread(target=self._play)
        self.thread.start()

    def _status(self) -> Status:
        late = self.path.latency_samples
        names = ("xruns", "skipped", "errors")
        return Status(
            running=True,
            device="a device",
            sample_rate=RATE,
            block_size=BLOCK,
            latency_samples=late,
            latency_ms=1000 * late / RATE,
            round_trip_samples=math.nan,
            round_trip_ms=math.nan,
            load_median=0.25,
            load_p99=0.5,
            voice=self.surface.voice_text,
            **dict.fromkeys(names, 0),
        )

    def _play(self) -> None:
        out, position = np.zeros((1, BLOCK), np.float32), 0
        while self.going:
            phase = 2 * np.pi * TONE_HZ / RATE * np.arange(position, position + BLOCK)
            position += BLOCK
            x = (self.loudness * np.sin(phase)).astype(np.float32)
            self.path.process(x, out)
            self.page.tap.push(x, out)
            time.sleep(BLOCK / RATE)

    def calm(self) -> None:
        """As at the start."""
        self.loudness = LOUD
        self.surface.change({name: parameter.default for name, parameter in PARAMETERS.items()} | {"voice": "bank_a"})
        self.surface.preset = ""
        wait_for(lambda: not self.path.posted, "the path")
        self.path.log.clear()

    @property
    def gestures(self) -> list[Any]:
        """What has reached the path."""
        return [changes for _, changes in list(self.path.log)]

    def close(self) -> None:
        self.page.close()
        self.idle.close()
        self.going = False
        self.thread.join()


def wait_for(happens: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not happens():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def the_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("user")))
        stage = Stage()
        yield stage
        stage.close()


@pytest.fixture
def stage(the_stage: Stage) -> Stage:
    the_stage.calm()
    return the_stage


@pytest.fixture(scope="module")
def open_stage() -> Iterator[Stage]:
    """One that the network reaches."""
    stage = Stage("0.0.0.0")
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def the_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def chromium(the_chromium: Browser) -> Iterator[Browser]:
    yield the_chromium
    the_chromium.close_tabs()


def connect(address: str, origin: str | None = None) -> ClientConnection:
    """Open a socket that takes all that comes, whether it is read or not, as a browser's does."""
    return connect_socket(address, origin=origin, max_queue=None, open_timeout=PATIENCE_SECONDS)  # type: ignore[arg-type]


class Client:
    """What a page's script does, without a page."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._seen: dict[str, dict[str, Any]] = {}

    def send(self, **message: object) -> None:
        self._connection.send(json.dumps(message))

    def raw(self, data: "str | bytes") -> None:
        self._connection.send(data)

    def until(self, kind: str, wanted: Callable[[dict[str, Any]], object] = lambda message: True) -> dict[str, Any]:
        """The newest message of this kind, once it is as wanted."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (kind in self._seen and wanted(self._seen[kind])):
            assert time.monotonic() < end, f"waited in vain for {kind}, {self._seen}"
            message: dict[str, Any] = json.loads(self._connection.recv(PATIENCE_SECONDS))
            self._seen[message["kind"]] = message
        return self._seen[kind]

    def value(self, name: str, wanted: object) -> None:
        """Wait until a parameter has this value."""
        self.until("state", lambda message: message["values"][name] == wanted)


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with connect(stage.page.address.replace("http", "ws") + "socket") as connection:
        yield Client(connection)


def get(stage: Stage, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request from this computer."""
    connection = HTTPConnection("127.0.0.1", stage.page.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", path, headers={name.capitalize(): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def opens(stage: Stage) -> bool:
    """Whether there is a place for one more page."""
    with suppress(ConnectionClosed), connect(stage.page.address.replace("http", "ws") + "socket") as connection:
        return bool(connection.recv(PATIENCE_SECONDS))
    return False


# Over the socket.


def test_the_parameters_are_those_of_the_table(stage: Stage) -> None:
    status, headers, body = get(stage, "/parameters")
    assert (status, headers["content-type"]) == (200, "application/json")
    fields = ("name", "kind", "unit", "minimum", "maximum", "default", "description")
    assert json.loads(body) == [{field: getattr(parameter, field) for field in fields} for parameter in PARAMETERS.values()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pitch_shift", -7),
        ("formant_shift", 2.5),
        ("mix", 0.25),
        ("gain_db", -60.0),
        ("gate_db", -45.0),
        ("bypass", True),
        ("voice", "bank_b"),
        ("voice", "delay512"),
    ],
)
def test_a_change_reaches_the_engine_and_every_page(stage: Stage, client: Client, name: str, value: object) -> None:
    with connect(stage.page.address.replace("http", "ws") + "socket") as connection:
        other = Client(connection)
        client.send(do="change", name=name, value=value)
        client.value(name, value)
        other.value(name, value)
    wait_for(lambda: getattr(stage.path.converter, name) == value, "the engine")


def test_changes_from_elsewhere_are_heard_and_a_new_page_hears_how_things_are(stage: Stage, client: Client) -> None:
    stage.surface.change({"pitch_shift": 5.0, "voice": {"bank_a": 3.0, "bank_b": 1.0}})
    client.value("voice", {"bank_a": 0.75, "bank_b": 0.25})
    lists = client.until("lists")
    assert [voice["name"] for voice in lists["voices"]][:2] == ["accumulator", "bank_a"]
    assert [preset["name"] for preset in lists["presets"]] == presets()
    status = client.until("status")
    assert (status["latency_samples"], status["round_trip_ms"], status["load_p99"]) == (512, None, 0.5)


def test_presets_are_saved_stepped_through_and_loaded(stage: Stage, client: Client) -> None:
    client.send(do="save", preset="b-second")
    client.until("state", lambda message: message["preset"] == "b-second")
    client.send(do="change", name="gain_db", value=-3)
    client.value("gain_db", -3)
    client.send(do="save", preset="a-first")
    client.until("lists", lambda message: {"a-first", "b-second"} <= {preset["name"] for preset in message["presets"]})
    client.send(do="step", by=1)
    client.until("state", lambda message: message["preset"] == "b-second" and message["values"]["gain_db"] == 0)
    client.send(do="step", by=-1)
    client.until("state", lambda message: message["preset"] == "a-first" and message["values"]["gain_db"] == -3)
    client.send(do="load", preset="b-second")
    client.value("gain_db", 0)


def test_panic_reaches_the_path(stage: Stage, client: Client) -> None:
    client.send(do="panic")
    wait_for(lambda: {"panic": True} in stage.gestures, "the panic")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"do":"change","name":"pitch_shift","value":24.5}', "pitch_shift must be between -24 and 24 semitones, got 24.5"),
        ('{"do":"change","name":"mix","value":"loud"}', "mix must be a number, got str"),
        ('{"do":"change","name":"mix","value":true}', "mix must be a number, got bool"),
        ('{"do":"change","name":"bypass","value":1.0}', "bypass must be True or False, got float"),
        ('{"do":"change","name":"gain_db","value":NaN}', "value"),
        ('{"do":"change","name":"gain_db","value":1e999}', "value"),
        ('{"do":"change","name":"gain_db","value":null}', "value"),
        ('{"do":"change","name":"voice","value":"nobody"}', "no voice is called 'nobody', there are "),
        ('{"do":"change","name":"voice","value":"/tmp/x.voice"}', "no voice is called '/tmp/x.voice'"),
        ('{"do":"change","name":"voice","value":3}', "no voice is called 3"),
        ('{"do":"change","name":"chain","value":1}', "there is no parameter 'chain', there are voice, "),
        ('{"do":"change","name":"mix","value":0.5,"more":1}', "more"),
        ('{"do":"load","preset":"../../etc/passwd"}', "preset"),
        ('{"do":"load","preset":"nothing"}', "no preset is called 'nothing'"),
        ('{"do":"save","preset":"A b"}', "preset"),
        ('{"do":"step","by":7}', "by"),
        ('{"do":"shout"}', "does not match any of the expected tags"),
        ("[]", "Input should be"),
        ("{" * 500, "Invalid JSON"),
        ("", "Invalid JSON"),
    ],
)
def test_what_is_refused_is_told_to_its_sender_and_changes_nothing(stage: Stage, client: Client, text: str, reason: str) -> None:
    client.raw(text)
    told = client.until("refused")["reason"]
    assert reason in told
    assert "\n" not in told
    assert not stage.gestures


def test_a_voice_of_too_long_a_latency_is_refused_and_other_changes_are_not(stage: Stage, client: Client) -> None:
    client.send(do="change", name="voice", value="delay480")
    client.send(do="change", name="gain_db", value=-12)
    told = client.until("refused")["reason"]
    assert "delay480" in told or "latency" in told
    client.value("gain_db", -12)
    assert stage.path.converter.voice == "bank_a"


def test_a_shift_that_cannot_be_is_refused_and_what_moves_with_it_is_not(stage: Stage, client: Client) -> None:
    client.send(do="change", name="voice", value="delay512")
    client.value("voice", "delay512")
    client.send(do="change", name="mix", value=0.25)
    client.send(do="change", name="pitch_shift", value=3)
    client.send(do="change", name="gain_db", value=-12)
    assert "'delay512' has no pitch_shift" in client.until("refused")["reason"]
    client.value("gain_db", -12)
    assert stage.path.converter.mix == 0.25


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {"do": st.sampled_from(["change", "panic", "load", "step", "save"])},
    optional={
        "name": st.sampled_from([*PARAMETERS, "chain", "ramp_ms", "__class__"]),
        "value": JSON,
        "preset": JSON,
        "by": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), JSON.map(json.dumps), NEARLY.map(json.dumps)))
def test_whatever_is_said_is_either_in_range_or_refused(text: str) -> None:
    try:
        message = read_message(text)
    except MessageError as error:
        assert "\n" not in str(error) or "\\n" not in text
        return
    if message.do == "change":
        assert message.name in PARAMETERS
        parameter = PARAMETERS[message.name]
        if parameter.kind == "number":
            assert isinstance(message.value, float)
            assert parameter.minimum <= message.value <= parameter.maximum
        elif parameter.kind == "switch":
            assert isinstance(message.value, bool)
    elif message.do in ("load", "save"):
        assert "/" not in message.preset
        assert "." not in message.preset


def test_hostile_bytes_end_their_own_connection_at_most(stage: Stage, client: Client) -> None:
    chance = random.Random(3)
    host = ("127.0.0.1", stage.page.port)
    hello = (
        f"GET /socket HTTP/1.1\r\nHost: 127.0.0.1:{stage.page.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    hostile = [
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 100_000,
        b"POST /socket HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        *(hello + chance.randbytes(chance.randrange(1, 300)) for _ in range(40)),
        hello + b"\x81\xff" + b"\x7f" * 8 + b"mask",  # a frame of 2^63 bytes
        hello + b"\x82\x85mask" + b"\x12" * 5,  # bytes where text is expected
        hello + b"\x81\x82mask" + b"\xff\xff",  # not UTF-8
        hello + b"\x89\x80mask" * 1000,  # a thousand pings
    ]
    for data in hostile:
        with socket.create_connection(host, PATIENCE_SECONDS) as connection:
            connection.sendall(data)
    wait_for(lambda: opens(stage), "the places of those pages to be free")
    with connect(stage.page.address.replace("http", "ws") + "socket") as connection:
        connection.send("x" * 2000)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                connection.recv(PATIENCE_SECONDS)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009  # too big
    assert not stage.gestures
    client.send(do="change", name="mix", value=0.5)
    client.value("mix", 0.5)
    assert stage.told == []


@pytest.mark.parametrize("request_line", ["POST /socket", "GET /"])
@pytest.mark.parametrize("length", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_who_sends_a_body_is_not_listened_to(stage: Stage, request_line: str, length: str) -> None:
    with socket.create_connection(("127.0.0.1", stage.page.port), PATIENCE_SECONDS) as connection:
        connection.sendall(f"{request_line} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        answer = b""
        while received := connection.recv(4096):  # until the other end closes
            answer += received
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"Nothing here takes a body.\n")


def test_a_flood_is_read_slowly_and_ends_at_its_last_value(stage: Stage, client: Client) -> None:
    begun, count = time.monotonic(), 160
    for number in range(count + 1):
        client.send(do="change", name="pitch_shift", value=number / 10)
    client.value("pitch_shift", count / 10)
    assert time.monotonic() - begun > (count - 60) / 60 - 0.1  # 60 at once, then 60 a second
    assert len(stage.gestures) <= count


def test_pages_and_connections_are_bounded(stage: Stage) -> None:
    address = stage.page.address.replace("http", "ws") + "socket"
    wait_for(lambda: opens(stage), "a place")
    with ExitStack() as pages:
        for _ in range(16):
            assert pages.enter_context(connect(address)).recv(PATIENCE_SECONDS)
        with connect(address) as one_more, pytest.raises(ConnectionClosed) as closed:
            one_more.recv(PATIENCE_SECONDS)
        assert closed.value.rcvd is not None and closed.value.rcvd.reason == "too many pages are open"
    idle = [socket.create_connection(("127.0.0.1", stage.page.port)) for _ in range(80)]
    for connection in idle[-10:]:
        connection.settimeout(PATIENCE_SECONDS)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    for connection in idle:
        connection.close()
    wait_for(lambda: get(stage, "/")[0] == 200, "the page to answer again")


def test_however_many_send_slowly_a_page_is_served_at_once(stage: Stage) -> None:
    with ExitStack() as connections:
        for number in range(2 * server.MOST_CONNECTIONS):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", stage.page.port)))
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            if number % server.MOST_CONNECTIONS == server.MOST_CONNECTIONS - 1:
                assert get(stage, "/")[0] == 200


def test_who_sends_slowly_is_not_waited_for_in_a_second_request_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor who takes no answers; a page's socket stays."""
    monkeypatch.setattr(server, "LONGEST_REQUEST_SECONDS", 0.5)
    request = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def ends(reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass

    async def scenario() -> None:
        ours, theirs = Pipe()
        hub = Hub(theirs, RATE)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that little is in nobody's hands
        place = listener.getsockname()
        serving = asyncio.create_task(server._serve(hub, server.application(hub, "", True), listener))
        async with connect_async(f"ws://localhost:{place[1]}/socket") as page:
            reader, writer = await asyncio.open_connection(*place)
            writer.write(request)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            end = asyncio.create_task(ends(reader))
            begun = time.monotonic()
            for byte in request[:-3]:
                writer.write(bytes([byte]))
                if (await asyncio.wait([end], timeout=0.05))[0]:
                    break
            assert end.done()
            assert time.monotonic() - begun > 0.4
            writer.close()
            with socket.socket() as greedy:
                greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                greedy.connect(place)
                greedy.sendall(30 * request)
                end_at = time.monotonic() + PATIENCE_SECONDS
                with pytest.raises(ConnectionError):
                    while time.monotonic() < end_at:
                        await asyncio.sleep(0.05)
                        greedy.send(b"x")
            await (await page.ping())
        serving.cancel()
        await asyncio.wait([serving])
        ours.close()
        theirs.close()

    asyncio.run(scenario())


# Who may.


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.7", "a b", "localhost@evil.example", ""])
def test_only_names_of_this_computer_are_answered_to(stage: Stage, host: str) -> None:
    assert get(stage, "/", host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:9080", "LOCALHOST:80"])
def test_this_computer_is_answered(stage: Stage, host: str) -> None:
    status, headers, body = get(stage, "/", host=host)
    assert status == 200
    assert b"<title>" in body
    assert f"connect-src 'self' ws://{host}" in headers["content-security-policy"]
    assert "script-src 'self';" in headers["content-security-policy"]


def test_a_page_of_another_site_gets_nothing(stage: Stage) -> None:
    address = stage.page.address.replace("http", "ws") + "socket"
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{stage.page.port + 1}"):
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin).close()
        assert refused.value.response.status_code == 403
        assert get(stage, "/parameters", origin=origin)[0] == 403
    with connect(address, f"http://127.0.0.1:{stage.page.port}") as connection:
        assert json.loads(connection.recv(PATIENCE_SECONDS))


def test_on_loopback_the_network_is_not_listened_to_and_no_token_is_asked_for(stage: Stage) -> None:
    assert stage.page.address == f"http://127.0.0.1:{stage.page.port}/"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", stage.page.port), 1).close()


def test_open_to_the_network_it_asks_for_the_token(open_stage: Stage) -> None:
    address, token = open_stage.page.address, open_stage.page.token
    assert address.endswith(f":{open_stage.page.port}/?token={token}")
    assert len(token) >= 22  # 128 bits
    assert "0.0.0.0" not in address
    for path in ("/", "/parameters"):
        assert get(open_stage, f"{path}?token={token}")[0] == 200
        assert get(open_stage, f"{path}?token={token}", host="192.168.1.7")[0] == 200
        assert get(open_stage, f"{path}?token={token}", host="evil.example")[0] == 403
        for wrong in ("", "?token=", f"?token={token[:-1]}", f"?token={token}x", f"?token=x&token={token}", "?token=%C3%A9"):
            status, _, body = get(open_stage, path + wrong)
            assert status == 403
            assert token.encode() not in body
    socket_address = f"ws://127.0.0.1:{open_stage.page.port}/socket"
    for wrong in ("", f"?token={token[::-1]}"):
        with pytest.raises(InvalidStatus) as refused:
            connect(socket_address + wrong).close()
        assert refused.value.response.status_code == 403
    with connect(f"{socket_address}?token={token}") as connection:
        client = Client(connection)
        client.send(do="change", name="mix", value=0.5)
        client.value("mix", 0.5)


# Of the server.


def test_a_server_that_ends_is_started_again_at_the_same_address(open_stage: Stage) -> None:
    address = open_stage.page.address
    open_stage.surface.change({"gain_db": -4.0})
    first = server_process()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: open_stage.told, "a sentence")
    assert open_stage.told == ["the page's server ended; starting it again"]

    def answers() -> bool:
        try:
            return get(open_stage, f"/?token={open_stage.page.token}")[0] == 200
        except OSError:
            return False

    wait_for(answers, "the server")
    assert open_stage.page.address == address
    with connect(address.replace("http", "ws").replace("/?", "/socket?")) as connection:
        Client(connection).value("gain_db", -4)


def test_a_port_that_is_taken_is_told_in_one_sentence(stage: Stage) -> None:
    port = stage.page.port
    with pytest.raises(PageError, match=rf"^the page cannot be served on 127.0.0.1 port {port}: Address already in use$"):
        Page(stage.surface, port=port)


def test_what_is_missing_is_told_in_one_sentence(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "NEEDED", ("starlette", "no_such_library"))
    with pytest.raises(PageError, match=r"^the page needs no_such_library: .* pip install starlette no_such_library$"):
        Page(stage.surface)


# Sound.


@pytest.mark.parametrize(("rate", "hz"), [(48_000, 110.0), (44_100, 392.0), (96_000, 700.0)])
def test_the_pitch_is_that_of_what_was_sung(rate: int, hz: float) -> None:
    meter, time_s = PitchMeter(rate), np.arange(rate) / rate
    sound = sum(np.sin(2 * np.pi * hz * n * time_s + n) / n for n in range(1, 9))
    sound = (0.2 * sound).astype(np.float32)
    heard: list[float] = []
    for start in range(0, rate, rate // 25):
        heard += meter.pitch_hz(sound[None, start : start + rate // 25])
    assert len(heard) == 100  # each 10 ms
    assert np.median(np.abs(1200 * np.log2(np.array(heard[20:]) / hz))) < 10  # cents
    assert len(meter.pitch_hz(np.zeros((2, rate), np.float32))) == 10
    assert meter.pitch_hz(np.zeros((2, rate // 25), np.float32)) == [0.0] * 4


def test_the_level_is_that_of_the_highest_peak() -> None:
    sound = np.array([[0.1, -0.5], [0.2, 0.0]], np.float32)
    assert level_db(sound) == pytest.approx(20 * math.log10(0.5))
    assert level_db(2 * sound) == pytest.approx(0.0)
    for nothing in (np.zeros((2, 0), np.float32), np.zeros((2, 9), np.float32), np.full((2, 9), np.nan, np.float32)):
        assert level_db(nothing) == FLOOR_DB


def test_a_ring_gives_back_what_was_pushed_and_says_what_was_lost() -> None:
    chance = np.random.default_rng(2)
    ring, audio, pulled, lost = AudioRing(2, 1000), chance.normal(size=(3, 9000)).astype(np.float32), [], 0
    start = 0
    while start < 9000:
        n = int(chance.integers(1, 300))
        ring.push(audio[0, start : start + n], audio[1:, start : start + n])
        start = min(start + n, 9000)
        if chance.random() < 0.3:
            gone, part = ring.pull()
            lost += gone
            pulled += [np.full((3, gone), np.nan, np.float32), part]
    gone, part = ring.pull()
    back = np.concatenate([*pulled, np.full((3, gone), np.nan, np.float32), part], axis=1)
    assert back.shape == audio.shape
    kept = ~np.isnan(back[0])
    assert 0 < lost + gone == np.count_nonzero(~kept) < 4500
    np.testing.assert_array_equal(back[:, kept], audio[:, kept])
    assert ring.pull()[1].shape == (3, 0)


# In a browser.


def show(chromium: Browser, stage: Stage, width: int = 1280, height: int = 800, *, phone: bool = False) -> Tab:
    tab = chromium.tab()
    tab.open(stage.page.address, width, height, phone=phone)
    tab.wait_for("!!document.querySelector('#voices button') && !!document.querySelector('#pitch_shift')")
    tab.wait_for("document.querySelector('#voices [aria-pressed=true]')?.dataset.name === 'bank_a'")
    return tab


@needs_browser
def test_a_voice_button_changes_the_voice_on_every_page(stage: Stage, chromium: Browser) -> None:
    one, two = show(chromium, stage), show(chromium, stage, 390, 844, phone=True)
    one.click("#voices [data-name=bank_b]")
    wait_for(lambda: stage.path.converter.voice == "bank_b", "the voice")
    for tab in (one, two):
        tab.wait_for("document.querySelector('#voices [aria-pressed=true]').dataset.name === 'bank_b'")
        assert tab.run("document.querySelectorAll('#voices [aria-pressed=true]').length") == 1
    stage.surface.change({"voice": {"bank_a": 0.75, "bank_b": 0.25}, "formant_shift": -3.5})
    two.wait_for("document.querySelector('#voices [data-name=bank_a]').textContent.includes('75 % of the mix')")
    two.wait_for("document.querySelector('#formant_shift').getAttribute('aria-valuetext') === '−3.5 semitones'")
    assert one.complaints == two.complaints == []


@needs_browser
def test_the_keyboard_does_everything(stage: Stage, chromium: Browser) -> None:
    tab = show(chromium, stage)
    tab.run("document.querySelector('#pitch_shift').focus()")
    for key, wanted in (
        ("ArrowRight", 1.0),
        ("ArrowUp", 2.0),
        ("ArrowLeft", 1.0),
        ("PageUp", 13.0),
        ("PageUp", 24.0),
        ("Home", -24.0),
        ("PageDown", -24.0),
        ("End", 24.0),
        ("Delete", 0.0),
    ):
        tab.press(key)
        wait_for(lambda wanted=wanted: stage.surface.value("pitch_shift") == wanted, f"{key} to make it {wanted}")
    tab.press("ArrowDown")
    tab.wait_for("document.querySelector('#pitch_shift').getAttribute('aria-valuetext') === '−1 semitone'")
    # From anywhere.
    tab.press("b")
    wait_for(lambda: stage.path.converter.bypass is True, "bypass")
    names = tab.run("[...document.querySelectorAll('#voices button')].map((button) => button.dataset.name)")
    tab.press(str(names.index("bank_b") + 1))
    wait_for(lambda: stage.path.converter.voice == "bank_b", "the voice")
    tab.press("Escape")
    wait_for(lambda: {"panic": True} in stage.gestures, "panic")
    # Switched off, and while a name is typed, letters are letters.
    tab.click("#save-name")
    for letter in "b1":
        tab.press(letter)
    assert tab.run("document.querySelector('#save-name').value") == "b1"
    tab.click("#keys")
    tab.press("b")
    assert stage.surface.value("bypass") is True
    # Tab reaches every control.
    tab.run("document.activeElement.blur(); window.getSelection().removeAllRanges(); window.scrollTo(0, 0)")
    reached: set[str] = set()
    label = "((e) => e.id || e.dataset.name || e.getAttribute('aria-label') || e.textContent)(document.activeElement)"
    everything = set(
        tab.run(
            "[...document.querySelectorAll('button:not(:disabled), input')]"
            ".map((e) => e.id || e.dataset.name || e.getAttribute('aria-label') || e.textContent)"
        )
    )
    for _ in range(len(everything) + 10):
        tab.press("Tab")
        reached.add(tab.run(label))
    assert everything <= reached


@needs_browser
def test_panic_bypass_and_presets_by_touch(stage: Stage, chromium: Browser) -> None:
    tab = show(chromium, stage, 390, 844, phone=True)
    tab.click("#panic")
    wait_for(lambda: {"panic": True} in stage.gestures, "panic")
    tab.click("#bypass")
    wait_for(lambda: stage.path.converter.bypass is True, "bypass")
    tab.wait_for("document.querySelector('#bypass').getAttribute('aria-pressed') === 'true'")
    tab.click("#controls [aria-label='Formant up']")
    wait_for(lambda: stage.path.converter.formant_shift == 1.0, "formant")
    tab.click("#save-name")
    for letter in "my-verse":
        tab.press(letter)
    tab.press("Enter")
    tab.wait_for("document.querySelector('#presets [data-name=my-verse]')?.getAttribute('aria-pressed') === 'true'")
    tab.click("#controls [aria-label^='Formant back to']")
    wait_for(lambda: stage.path.converter.formant_shift == 0.0, "formant")
    tab.click("#presets [data-name=my-verse]")
    wait_for(lambda: stage.path.converter.formant_shift == 1.0, "the preset")


@needs_browser
def test_a_slider_is_dragged_and_follows_the_finger(stage: Stage, chromium: Browser) -> None:
    tab = show(chromium, stage)
    box = tab.run("((r) => [r.x, r.y, r.width, r.height])(document.querySelector('#mix').getBoundingClientRect())")
    y = box[1] + box[3] / 2

    def mouse(kind: str, share: float) -> None:
        x = box[0] + 13 + share * (box[2] - 26)
        tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    mouse("mousePressed", 1.0)
    for step in range(20):
        mouse("mouseMoved", 1.0 - step / 40)
    mouse("mouseReleased", 0.525)
    wait_for(lambda: stage.surface.value("mix") == pytest.approx(0.525, abs=0.02), "the mix")
    value = stage.surface.value("mix")
    assert isinstance(value, float) and value == round(value, 2)


@needs_browser
def test_meters_and_pitch_move_with_the_sound(stage: Stage, chromium: Browser) -> None:
    tab = show(chromium, stage)
    for side in ("in", "out"):
        level = f"Number(document.querySelector('#meter-{side}').getAttribute('aria-valuenow'))"
        tab.wait_for(f"Math.abs({level} - {20 * math.log10(LOUD)}) <= 1")
        tab.wait_for(f"document.querySelector('#note-{side}').textContent === 'A3'")
    drawn = (
        "(() => { const c = document.querySelector('#trace'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const coloured = (i) => d[i + 3] > 200 && Math.abs(d[i] - d[i + 2]) > 100;"
        "return [...Array(d.length / 4).keys()].filter((pixel) => coloured(4 * pixel)).length; })()"
    )
    tab.wait_for(f"{drawn} > 20")
    stage.loudness = 0.0
    for side in ("in", "out"):
        tab.wait_for(f"document.querySelector('#meter-{side}').getAttribute('aria-valuetext') === 'silent'")
        tab.wait_for(f"document.querySelector('#note-{side}').textContent === '–'")
    assert tab.run("document.querySelector('#latency').textContent") == "10.7 ms"
    assert tab.run("document.querySelector('#round-trip').textContent") == "–"
    assert tab.run("document.querySelector('#load').textContent") == "25 %"


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 844), (844, 390), (768, 1024), (1280, 800)])
def test_the_layout_fits_and_everything_can_be_touched(stage: Stage, chromium: Browser, width: int, height: int) -> None:
    tab = show(chromium, stage, width, height, phone=width < 1000)
    stage.surface.change({"pitch_shift": 3.0, "gain_db": -11.5})  # with all buttons there
    tab.wait_for("document.querySelector('#pitch_shift').getAttribute('aria-valuetext') === '+3 semitones'")
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = (
        "[...document.querySelectorAll('body *')].filter((e) => { const r = e.getBoundingClientRect();"
        "return r.width > 1 && (r.left < -0.5 || r.right > document.documentElement.clientWidth + 0.5); }).map((e) => e.outerHTML)"
    )
    assert tab.run(outside) == []
    small = (
        "[...document.querySelectorAll('button, input:not([type=checkbox])')].filter((e) => { const r = e.getBoundingClientRect();"
        "return r.width && (r.width < 44 || r.height < 44); }).map((e) => e.outerHTML)"
    )
    assert tab.run(small) == []
    cut = "[...document.querySelectorAll('button, dd, .value')].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)"
    assert tab.run(f"{cut}.map((e) => e.outerHTML)") == []


@needs_browser
def test_every_control_has_a_name_for_those_who_do_not_see_it(stage: Stage, chromium: Browser) -> None:
    tab = show(chromium, stage)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert found["slider"] == ["Pitch", "Formant", "Mix", "Gain", "Gate"]
    assert found["meter"] == ["In", "Out"]
    assert {"Previous preset", "Next preset", "Save", "Panic"} <= set(found["button"])
    assert "Bypass" in found.get("button", []) + found.get("ToggleButton", [])
    assert found["textbox"] == ["Keep what is on as"]
    for role in ("button", "ToggleButton", "slider", "meter", "textbox", "checkbox", "image", "img", "group", "region"):
        assert all(found.get(role, [])), role
    assert {"Voice", "Presets"} <= set(found["group"])


@needs_browser
def test_every_text_has_contrast_enough_for_a_dark_stage(stage: Stage, chromium: Browser) -> None:
    """WCAG 2.2, 1.4.6: 7:1, or 4.5:1 for large bold text."""
    tab = show(chromium, stage)
    stage.surface.change({"bypass": True, "pitch_shift": 1.0})
    tab.wait_for("document.querySelector('#bypass').getAttribute('aria-pressed') === 'true'")
    time.sleep(0.2)  # the button takes its colour
    texts = tab.run(
        """[...document.querySelectorAll('body *')]
        .filter((e) => e.getClientRects().length && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .map((e) => { let b = e; while (b && getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
          const s = getComputedStyle(e);
          const ground = getComputedStyle(b || document.body).backgroundColor;
          return [e.textContent.trim().slice(0, 30), s.color, ground, parseFloat(s.fontSize), Number(s.fontWeight)]; })"""
    )
    assert len(texts) > 40

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for text, ink, ground, size, weight in texts:
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        large = size >= 24 or (size >= 18.6 and weight >= 700)
        assert (light + 0.05) / (dark + 0.05) >= (4.5 if large else 7), (text, ink, ground)


@needs_browser
def test_a_phone_in_the_network_needs_the_token_and_comes_back_after_a_loss(open_stage: Stage, chromium: Browser) -> None:
    open_stage.calm()
    tab = chromium.tab()
    tab.open(f"http://127.0.0.1:{open_stage.page.port}/", 390, 844, phone=True)
    assert "token" in tab.run("document.body.innerText")
    assert not tab.run("!!document.querySelector('#panic')")
    tab = show(chromium, open_stage, 390, 844, phone=True)
    tab.wait_for("document.querySelector('#connection').textContent === 'a device'")
    os.kill(server_process(), signal.SIGKILL)
    tab.wait_for("document.body.classList.contains('away')")
    open_stage.surface.change({"pitch_shift": -5.0})
    tab.wait_for("!document.body.classList.contains('away')")
    tab.wait_for("document.querySelector('#pitch_shift').getAttribute('aria-valuetext') === '−5 semitones'")
    tab.click("#panic")
    wait_for(lambda: {"panic": True} in open_stage.gestures, "panic")


def test_a_request_that_never_ends_is_not_waited_for(stage: Stage) -> None:
    stage.idle.settimeout(PATIENCE_SECONDS)
    with suppress(ConnectionResetError):
        assert stage.idle.recv(1) == b""
