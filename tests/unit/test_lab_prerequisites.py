"""What is said where no lab can run, and what the image is made of."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from meshlb.lab import LabError, cgroups, image, prerequisites


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root on a machine that has everything."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda command: f"/usr/bin/{command}")
    monkeypatch.setattr(prerequisites, "busybox", lambda: Path("/bin/busybox"))
    monkeypatch.setattr(prerequisites, "_NAMESPACES", ["env"])
    monkeypatch.setattr(prerequisites, "_LINKS", "true")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])


def test_a_machine_that_has_everything_will_do() -> None:
    assert prerequisites.why_not() == ""


def test_anyone_but_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "run it as root (sudo)" in prerequisites.why_not()


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: None if command in ("nft", "dockerd") else "/bin/x")
    assert prerequisites.why_not().endswith("install them with: apt-get install docker.io nftables")


def test_a_container_without_privileges_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        prerequisites, "_NAMESPACES", ["sh", "-c", "echo unshare failed: Operation not permitted >&2; exit 1"]
    )
    assert prerequisites.why_not() == (
        "namespaces cannot be made here (in a container it must be --privileged): "
        "unshare failed: Operation not permitted"
    )


@pytest.mark.parametrize("hierarchies", [[], [Path("/nonexistent")]])
def test_control_groups_must_be_there_and_writable(
    hierarchies: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: hierarchies)
    assert prerequisites.why_not().startswith("control groups cannot be made here")


def test_a_kernel_without_vxlan_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "_LINKS", "echo Unknown device type >&2; exit 2")
    assert prerequisites.why_not().endswith("which Swarm needs: Unknown device type")


def test_busybox_must_be_there_and_static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(LabError, match="busybox is missing; install it with: apt-get install busybox-static"):
        image.busybox()
    dynamic = tmp_path / "busybox"
    dynamic.write_bytes(b"\x7fELF" + b"\0" * 500 + b"/lib64/ld-linux-x86-64.so.2\0")
    monkeypatch.setattr(shutil, "which", lambda command: str(dynamic))
    with pytest.raises(LabError, match="is dynamically linked; install busybox-static"):
        image.busybox()
    dynamic.write_bytes(b"\x7fELF" + b"\0" * 5000)
    assert image.busybox() == dynamic


@pytest.mark.parametrize("server", [b"", b"program"])
def test_the_image_needs_no_compiler(server: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busybox").write_bytes(b"static")
    monkeypatch.setattr(image, "busybox", lambda: tmp_path / "busybox")
    monkeypatch.setattr(image, "server", lambda: server)
    with tarfile.open(fileobj=io.BytesIO(image.archive())) as tar:
        names = set(tar.getnames())
        assert tar.getmember("bin/whoami").mode == 0o755
    assert {"bin/busybox", "bin/whoami", "bin/httpd", "bin/nc", "bin/sh"} <= names
    assert ("bin/server" in names) == bool(server)


def test_without_a_compiler_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert image.server() == b""
