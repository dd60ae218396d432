"""Names of images, and the digest that pins a service's image for every node."""

from __future__ import annotations

import re
from typing import Any

from docker import auth
from docker.errors import APIError, DockerException
from requests import RequestException

from meshlb.cluster.client import APIClient, request

REGISTRY_TIMEOUT = 10.0  # seconds; a registry that is slower than this must not hold up a service
_TAG = re.compile(r":[\w][\w.-]{0,127}$", re.ASCII)


def tagged(image: str) -> str:
    """The image's name with the tag that docker assumes: `web` is `web:latest`."""
    return image if "@" in image or _TAG.search(image) else f"{image}:latest"


def displayed(image: str) -> str:
    """The image's name for a table: without the digest where there is a tag."""
    name, at, _ = image.partition("@")
    return name if at and _TAG.search(name) else image


def unresolved(image: str) -> str:
    """docker's warning, word for word."""
    return (
        f"image {image} could not be accessed on a registry to record\n"
        f"its digest. Each node will access {image} independently,\n"
        "possibly leading to different nodes running different\n"
        "versions of the image.\n"
    )


def pin(api: APIClient, template: dict[str, Any], timeout: float = REGISTRY_TIMEOUT) -> str:
    """Records the digest and the platforms of the template's image; the warning when that cannot be done."""
    image = template["ContainerSpec"]["Image"]
    if "@" in image:
        return ""
    try:
        found = request(
            api, "GET", f"/distribution/{image}/json", headers=credentials(api, image), timeout=timeout
        )
        template["ContainerSpec"]["Image"] = f"{image}@{found['Descriptor']['digest']}"
    except (APIError, DockerException, RequestException, KeyError, TypeError):
        return unresolved(image)
    platforms = [_platform(platform) for platform in found.get("Platforms") or ()]
    if platforms:
        template.setdefault("Placement", {})["Platforms"] = platforms
    return ""


def _platform(found: dict[str, str]) -> dict[str, str]:
    # Nodes call themselves armv7l where images say arm: as docker does, leave it open (swarmkit issue 2294).
    architecture = found.get("architecture", "")
    return {"Architecture": "" if architecture == "arm" else architecture, "OS": found.get("os", "")}


def credentials(api: APIClient, image: str) -> dict[str, str]:
    """The header that lets the engine into the image's registry; empty where docker knows no login to it."""
    registry, _ = auth.resolve_repository_name(image)
    header = auth.get_config_header(api, registry)
    return {"X-Registry-Auth": header.decode()} if header else {}
