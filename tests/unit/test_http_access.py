"""Who may read the page from elsewhere: TLS, passwords, their files, and what guessing costs."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from meshlb.cli import agent_view
from meshlb.cli.agent import password as password_command
from meshlb.errors import ConfigError
from meshlb.http import access as access_module
from meshlb.http import door
from meshlb.http import server as http
from meshlb.http.access import Access, Verdict
from meshlb.http.guard import is_here
from meshlb.http.socket import open_to_all
from meshlb.http.trials import REMEMBERED, Trials
from meshlb.http.users import Hash, hashed, parse
from meshlb.model import SourceStatus, Status

QUICK = "$scrypt$ln=1,r=1,p=1$"
STATUS = Status("0", SourceStatus("swarm", True))


def line(name: str, password: str) -> str:
    """A user whose hash costs nothing."""
    import hashlib  # noqa: PLC0415

    digest = hashlib.scrypt(password.encode(), salt=b"salt", n=2, r=1, p=1, dklen=32)
    salt, coded = (base64.b64encode(each).decode().rstrip("=") for each in (b"salt", digest))
    return f"{name}:{QUICK}{salt}${coded}"


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def certificate(folder: Path, name: str = "one") -> Path:
    """A file with a certificate of its own and its key."""
    files = [folder / f"{name}.{kind}" for kind in ("key", "crt")]
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj"
    subprocess.run(
        [*command.split(), f"/CN={name}", "-keyout", str(files[0]), "-out", str(files[1])],
        check=True,
        capture_output=True,
    )
    whole = folder / f"{name}.pem"
    whole.write_text("".join(each.read_text() for each in files))
    return whole


def users(folder: Path, *lines: str) -> Path:
    path = folder / "users"
    path.write_text("".join(f"{each}\n" for each in lines))
    return path


def serving(access: Access, scenario: Callable[[str], Awaitable[None]]) -> None:
    async def ask() -> Status:
        return STATUS

    async def run() -> None:
        async with asyncio.timeout(30), http.serve("127.0.0.1:0", ask, access=access) as url:
            await scenario(url)

    asyncio.run(run())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks comes from another machine."""
    for module in (http, door):
        monkeypatch.setattr(module, "is_here", lambda _peer, _own: False)


async def get(url: str, authorization: str = "", context: ssl.SSLContext | None = None) -> tuple[int, str]:
    headers = {"Authorization": authorization} if authorization else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, ssl=context or trusting()) as answer,
    ):
        return answer.status, await answer.text()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_a_hash_is_its_passwords_alone() -> None:
    one = hashed("correct horse")
    found = parse(f"# who may\n\nprometheus:{one}\n", "users")
    assert found.check("prometheus", "correct horse")
    assert not found.check("prometheus", "wrong horse")
    assert not found.check("nobody", "correct horse")
    assert str(hashed("correct horse")) != str(one)


def test_hashes_are_those_of_passlib() -> None:
    """The example in passlib's documentation of scrypt."""
    text = "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"
    assert parse(f"a:{text}", "users").check("a", "password")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# nobody", "users: must have 1 to"),
        ("hunter2", "users:1: not NAME:"),
        ("a:hunter2", "users:1: not NAME:"),
        ("a:$2y$05$hunter2", "users:1: a bcrypt hash"),
        ("a:$scrypt$ln=25,r=8,p=1$YWFh$YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE", "asks for too much"),
        ("a:$scrypt$ln=14,r=8,p=0$YWFh$YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE", "asks for too much"),
        ("a:$scrypt$ln=14,r=8,p=1$YWFh$YQ", "asks for too much, or is none"),
        (f"{line('a', 'x')}\n{line('a', 'y')}", "users:2: a second line"),
        (line("a b", "x"), "without spaces"),
    ],
)
def test_a_mistake_is_told_without_what_it_says(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as error:
        parse(text, "users")
    assert "hunter2" not in str(error.value)


def test_guessing_is_bounded_for_each_and_for_all() -> None:
    trials = Trials()
    assert [trials.allow("192.0.2.1", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert trials.allow("192.0.2.1", 2.0)
    assert not trials.allow("192.0.2.1", 2.0)
    fresh = Trials()
    assert sum(fresh.allow(f"2001:db8::{at:x}", 0.0) for at in range(9)) == 5  # one /64
    crowd = Trials()
    assert sum(crowd.allow(f"10.0.{at // 256}.{at % 256}", 0.0) for at in range(4000)) == 20
    assert len(crowd._of) == REMEMBERED


def test_a_password_that_was_right_is_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(users=users(tmp_path, line("a", "right")))
    hashes = 0
    fits = Hash.fits

    def counted(self: Hash, password: str) -> bool:
        nonlocal hashes
        hashes += 1
        return fits(self, password)

    monkeypatch.setattr(Hash, "fits", counted)

    async def scenario() -> None:
        for _ in range(50):
            assert await access.judge(basic("a", "right"), "192.0.2.1") is Verdict.WELCOME
        assert hashes == 1
        found = [await access.judge(basic("a", "hunter2"), "192.0.2.2") for _ in range(9)]
        assert found == [Verdict.UNKNOWN] * 5 + [Verdict.TOO_OFTEN] * 4
        assert (
            await access.judge(basic("a", "right"), "192.0.2.2") is Verdict.WELCOME
        )  # whoever guesses there
        for nonsense in (
            "",
            "Basic",
            "Basic !",
            "Basic é",
            "Bearer x",
            "Basic " + base64.b64encode(b"\xff").decode(),
        ):
            assert await access.judge(nonsense, "192.0.2.3") is Verdict.UNKNOWN
        assert hashes == 6

    asyncio.run(scenario())
    assert "192.0.2.2" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.usefixtures("elsewhere")
def test_tls_and_a_password_for_who_comes_from_elsewhere(tmp_path: Path) -> None:
    access = Access(certificate(tmp_path), users=users(tmp_path, line("a", "b")))

    async def scenario(url: str) -> None:
        assert url.startswith("https://")
        code, text = await get(url + "/")
        assert code == 401
        assert "password" in text
        assert (await get(url + "/metrics", basic("a", "c")))[0] == 401
        assert (await get(url + "/api/v1/status", basic("a", "b")))[0] == 200
        assert (await get(url + "/healthz"))[0] == 401
        assert (await get(url + "/readyz"))[0] == 503  # its own answer: nothing is served here
        code, text = await get(url.replace("https", "http") + "/")
        assert code == 400
        assert "https://" in text

    serving(access, scenario)


@pytest.mark.usefixtures("elsewhere")
def test_commands_say_the_password_that_the_address_has(tmp_path: Path) -> None:
    access = Access(users=users(tmp_path, line("a", "b c")))

    async def scenario(url: str) -> None:
        place = url.removeprefix("http://")
        view = agent_view._view(f"http://a:b%20c@{place}/")
        assert "b c" not in repr(view)
        assert (await asyncio.to_thread(view.status))["api"] == 1
        with pytest.raises(agent_view.AgentError, match="asks for a password: MESHLB_AGENT=https://NAME"):
            await asyncio.to_thread(agent_view._view(place).status)

    serving(access, scenario)


@pytest.mark.usefixtures("elsewhere")
def test_commands_trust_no_certificate_by_themselves(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        with pytest.raises(
            agent_view.AgentError, match="is not trusted: self-signed certificate; SSL_CERT_FILE"
        ):
            await asyncio.to_thread(agent_view._view(url).status)

    serving(Access(certificate(tmp_path)), scenario)


def test_this_machine_needs_neither(tmp_path: Path) -> None:
    access = Access(certificate(tmp_path), users=users(tmp_path, line("a", "b")))

    async def scenario(url: str) -> None:
        assert (await get(url + "/api/v1/status"))[0] == 200
        assert (await get(url.replace("https", "http") + "/api/v1/status"))[0] == 200

    serving(access, scenario)


@pytest.mark.usefixtures("elsewhere")
def test_files_are_read_again_and_mistakes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_module, "LOOK", 0.0)
    caplog.set_level(logging.INFO, logger="meshlb")
    whole, of = certificate(tmp_path), users(tmp_path, line("a", "b"))
    access = Access(whole, users=of)

    async def serial(url: str) -> str:
        host, _, port = url.removeprefix("https://").rpartition(":")
        return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))

    async def scenario(url: str) -> None:
        assert (await get(url, basic("a", "b")))[0] == 200
        before = await serial(url)
        users(tmp_path, line("a", "another"))
        assert (await get(url, basic("a", "b")))[0] == 401
        assert (await get(url, basic("a", "another")))[0] == 200
        users(tmp_path, "nonsense")
        assert (await get(url, basic("a", "another")))[0] == 200
        whole.write_text("nonsense")
        assert await serial(url) == before
        whole.write_text(certificate(tmp_path, "two").read_text())
        assert await serial(url) != before

    serving(access, scenario)
    assert caplog.text.count("what was read before holds") == 2


def test_who_only_knocks_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "GREETING", 0.1)
    monkeypatch.setattr(door, "MAX_GREETINGS", 3)

    async def scenario(url: str) -> None:
        host, _, port = url.removeprefix("https://").rpartition(":")
        crowd = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
        for reader, writer in crowd:
            assert await reader.read() == b""
            writer.close()
        assert (await get(url))[0] == 200

    serving(Access(certificate(tmp_path)), scenario)


@pytest.mark.parametrize("key", [False, True])
def test_wrong_files_are_one_sentence(tmp_path: Path, key: bool) -> None:
    one, two = certificate(tmp_path, "one"), certificate(tmp_path, "two")
    with pytest.raises(ConfigError, match="needs --http-certificate"):
        Access(key=one)
    with pytest.raises(ConfigError, match="nothing: cannot be read: No such file"):
        Access(*((one, tmp_path / "nothing") if key else (tmp_path / "nothing",)))
    with pytest.raises(ConfigError, match="nothing: cannot be read"):
        Access(users=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="the key does not belong"):
        Access(tmp_path / "one.crt", tmp_path / "two.key")
    with pytest.raises(ConfigError, match="needs a certificate and its key"):
        Access(tmp_path / "one.crt")
    locked = tmp_path / "locked"
    subprocess.run(
        [
            "openssl",
            "ec",
            "-aes128",
            "-passout",
            "pass:x",
            "-in",
            str(tmp_path / "two.key"),
            "-out",
            str(locked),
        ],
        check=True,
        capture_output=True,
    )
    with pytest.raises(ConfigError, match="the key unencrypted"):
        Access(two.with_suffix(".crt"), locked)


def test_beyond_loopback_without_both_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert open_to_all("127.0.0.1:1", [here], False, False) == ""
        assert open_to_all("0.0.0.0:1", [everywhere], True, True) == ""
        assert "add --http-certificate and --http-users" in open_to_all(
            "0.0.0.0:1", [everywhere], False, False
        )
        assert "add --http-users" in open_to_all("0.0.0.0:1", [everywhere], True, False)
        assert "unencrypted" in open_to_all("0.0.0.0:1", [everywhere], False, True)
        assert open_to_all("off", [], False, False) == ""


def test_only_this_machine_is_here() -> None:
    assert is_here("127.0.0.1", "127.0.0.1")
    assert is_here("::1", "::1")
    assert is_here("192.0.2.1", "192.0.2.1")
    assert not is_here("192.0.2.2", "192.0.2.1")
    assert not is_here("", "192.0.2.1")


def test_the_command_prints_a_line_that_the_agent_reads() -> None:
    done = CliRunner().invoke(password_command, ["prometheus"], input="a b c\n")
    assert done.exit_code == 0
    assert parse(done.stdout, "users").check("prometheus", "a b c")
    for name, said in (("a:b", "x"), ("a", ""), ("a", "x" * 200)):
        failed = CliRunner().invoke(password_command, [name], input=f"{said}\n")
        assert isinstance(failed.exception, ConfigError)


def test_time_of_a_hash_is_no_word_about_names() -> None:
    found = parse(f"a:{hashed('x')}", "users")
    began = time.thread_time()
    found.check("a", "y")
    known = time.thread_time() - began
    began = time.thread_time()
    found.check("b", "y")
    assert time.thread_time() - began > known / 5
