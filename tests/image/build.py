"""buildah without a daemon, and the build of our Dockerfile with it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_PIP_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "default-timeout"}


@dataclass(frozen=True)
class Buildah:
    """buildah with its own store; chroot isolation needs neither user namespaces nor cgroups."""

    directory: Path

    def command(self, *arguments: str | Path) -> list[str]:
        options = ["--root", self.directory / "store", "--runroot", self.directory / "run", "--storage-driver", "vfs"]
        return ["buildah", *map(str, options), *map(str, arguments)]

    def __call__(self, *arguments: str | Path) -> str:
        answer = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise RuntimeError(f"buildah {arguments[0]} failed:\n{answer.stdout[-4000:]}\n{answer.stderr[-4000:]}")
        return answer.stdout.strip()

    def run(self, container: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Runs a command in a container, as the user of the image."""
        return self("run", "--isolation", "chroot", *options, container, "--", *arguments)

    def configuration(self, image: str) -> dict[str, Any]:
        inspected: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))
        return inspected

    def close(self) -> None:
        """Removes the store."""
        self("rm", "--all")
        self("rmi", "--all", "--force")


def import_base(buildah: Buildah, archive: Path) -> str:
    """An image with the contents of a tar file; returns its name."""
    container = buildah("from", "scratch")
    buildah("add", container, archive, "/")
    buildah("commit", "--rm", container, "localhost/base")
    return "localhost/base"


def build(buildah: Buildah, context: Path, base: str, work: Path) -> str:
    """Builds the Dockerfile; pip gets this machine's settings as secrets. Returns the image's name."""
    name = "localhost/plimsoll"
    arguments = ["--isolation", "chroot", "--build-arg", f"BASE={base}", *_secrets(work), "--tag", name]
    buildah("build", *arguments, "--file", context / "Dockerfile", context)
    return name


def _secrets(work: Path) -> list[str]:
    settings = _pip_settings()
    arguments = []
    authority = settings.pop("cert", None) or os.environ.get("SSL_CERT_FILE")
    lines = ["[global]", *(f"{name} = {value}" for name, value in settings.items() if name in _PIP_SETTINGS)]
    if authority and Path(authority).is_file():
        arguments += ["--secret", f"id=ca.crt,src={authority}"]
        lines.append("cert = /run/secrets/ca.crt")
    configuration = work / "pip.conf"
    configuration.touch(mode=0o600)
    configuration.write_text("\n".join(lines).replace("\n\n", "\n") + "\n")
    return [*arguments, "--secret", f"id=pip.conf,src={configuration}"]


def _pip_settings() -> dict[str, str]:
    """pip's settings from its files and the environment, which wins."""
    answer = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.findall(r"^(:env:|\w+)\.([\w-]+)=(.*)$", answer.stdout, re.MULTILINE)
    ordered = sorted(found, key=lambda row: row[0] == ":env:")
    return {name: str(ast.literal_eval(value)).replace("\n", "\n  ") for _, name, value in ordered}
