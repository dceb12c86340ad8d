"""Runs the containers of a workload as a kubelet would: volumes, users, groups, commands, probes. Needs root.

There is no container engine: a container is a process with a mount namespace of its own, in the pod's network namespace. Its files
are the machine's, read-only, with the volumes where the manifest puts them; its user is the manifest's, without capabilities.
Programs come from this checkout's environments in place of the images'.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from extproc.adapters.envoy_binary import find_envoy
from extproc.adapters.valkey_process import find_server
from k8s.manifests import ROOT, Document

MOUNTS = "/srv"  # a file system in memory for each container: mount points are made in it


def write_volume(folder: Path, files: Mapping[str, bytes], mode: int, group: int) -> None:
    """Write files as the kubelet's AtomicWriter: into a folder of its own, to which `..data` is switched by one rename."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"..{secrets.token_hex(6)}"
    made.mkdir()
    made.chmod(0o755)
    for name, data in files.items():
        (made / name).write_bytes(data)
        (made / name).chmod(mode)
        os.chown(made / name, 0, group)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    old = (folder / "..data").resolve() if (folder / "..data").is_symlink() else None
    (folder / "..data_tmp").symlink_to(made.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if old is not None:
        shutil.rmtree(old)


class PodRun:
    """One pod: `start` runs a container by name; `close` ends all that runs."""

    def __init__(
        self, folder: Path, netns: str, workload: Document, sources: Mapping[tuple[str, str], Mapping[str, bytes]]
    ) -> None:
        """`sources`: (ConfigMap or Secret, name) -> files. `netns`: the pod's network, loopback up."""
        template = workload["spec"]["template"]["spec"]
        self._spec: Document = template
        self._folder, self._netns, self.sources = folder, netns, dict(sources)
        self.group: int = template["securityContext"]["fsGroup"]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.overlays: dict[Path, str] = {}  # files of the machine that the pod sees otherwise
        claims = [
            {"name": c["metadata"]["name"], "emptyDir": {}} for c in workload["spec"].get("volumeClaimTemplates", [])
        ]
        self._volumes = {volume["name"]: volume for volume in [*template.get("volumes", []), *claims]}
        for name in self._volumes:
            self.swap(name)

    def swap(self, name: str) -> None:
        """Bring the present sources of a volume into it."""
        volume, folder = self._volumes[name], self._folder / "volumes" / name
        if "emptyDir" in volume:
            folder.mkdir(parents=True)
            os.chown(folder, 0, self.group)
            folder.chmod(0o2777)
        elif "configMap" in volume:
            write_volume(folder, self.sources["ConfigMap", volume["configMap"]["name"]], 0o644, self.group)
        elif "secret" in volume:
            secret = volume["secret"]
            write_volume(folder, self.sources["Secret", secret["secretName"]], secret["defaultMode"], self.group)
        else:
            files = {
                item["path"]: self.sources["Secret", source["secret"]["name"]][item["key"]]
                for source in volume["projected"]["sources"]
                for item in source["secret"]["items"]
            }
            write_volume(folder, files, volume["projected"]["defaultMode"], self.group)

    def volume(self, name: str) -> Path:
        """Where a volume is on this machine."""
        return self._folder / "volumes" / name

    def container(self, name: str) -> Document:
        """A container of the pod."""
        every = [*self._spec.get("initContainers", []), *self._spec["containers"]]
        return next(one for one in every if one["name"] == name)

    def prepare(self) -> None:
        """Run the init containers that end, one after the other."""
        for one in self._spec.get("initContainers", []):
            if one.get("restartPolicy") != "Always":
                done = self.exec(one["name"], one["command"])
                assert done.returncode == 0, f"{one['name']}: {done.stderr}"

    def start(self, name: str) -> None:
        """Run a container."""
        one = self.container(name)
        command = self._script(one, [*self._entry(one), *one.get("args", [])])
        with (self._folder / f"{name}.log").open("ab") as log:
            os.fchown(
                log.fileno(), one["securityContext"]["runAsUser"], -1
            )  # as runtimes do: Envoy opens /dev/stdout anew
            self._running[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def exec(self, name: str, command: list[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as in the container: its user, its mounts, its network."""
        script = self._script(self.container(name), command)
        return subprocess.run(script, capture_output=True, text=True, timeout=timeout, check=False)

    def terminate(self, name: str, timeout: float = 30) -> int:
        """SIGTERM, and the exit code."""
        process = self._running.pop(name)
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(10)

    def log(self, name: str) -> str:
        """What a container has written."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def probe(self, name: str, kind: str) -> int:
        """Ask a container's HTTP probe: the status, 0 where nobody answers."""
        action = self.container(name)[kind]["httpGet"]
        port = next(p["containerPort"] for p in self.container(name)["ports"] if p["name"] == action["port"])
        return self.get(port, action["path"])[0]

    def get(self, port: int, path: str) -> tuple[int, str]:
        """GET over plain HTTP in the pod's network."""
        code = (
            "import http.client, json, sys\n"
            f"c = http.client.HTTPConnection('127.0.0.1', {port}, timeout=5)\n"
            f"try:\n    c.request('GET', {path!r}); r = c.getresponse(); print(json.dumps([r.status, r.read().decode()]))\n"
            "except OSError:\n    print(json.dumps([0, '']))\n"
        )
        done = subprocess.run(
            ["ip", "netns", "exec", self._netns, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        status, body = json.loads(done.stdout)
        return status, body

    def wait(self, what: Callable[[], object], seconds: float, name: str) -> None:
        """Until `what` is true; the container's last words where it does not come."""
        until = time.monotonic() + seconds
        while not what():
            running = self._running.get(name)
            gone = running is not None and running.poll() is not None
            if gone or time.monotonic() > until:
                raise AssertionError(f"{name}: {self.log(name)[-3000:]}")
            time.sleep(0.25)

    def close(self) -> None:
        """End all."""
        for name in list(self._running):
            self.terminate(name, 5)

    # --- a container's process

    @staticmethod
    def _entry(one: Document) -> list[str]:
        if "command" in one:
            return list(one["command"])
        text = (ROOT / "docker" / f"{one['image'].rpartition('/')[2].partition(':')[0]}.Dockerfile").read_text()
        found = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
        entry: list[str] = json.loads(found[-1])
        return entry

    def _script(self, one: Document, command: list[str]) -> list[str]:
        """The command line that makes the mounts, gives up every right, and runs `command`."""
        context = one["securityContext"]
        lines = ["set -e", f"mount -t tmpfs -o mode=755 tmpfs {MOUNTS}", *_unlock()]
        for path, text in self.overlays.items():
            source = self._folder / f"overlay-{path.name}"
            source.write_text(text)
            source.chmod(0o644)
            lines.append(f"mount --bind {source} {path}")
        words = list(command)
        last = []
        for mount in sorted(one.get("volumeMounts", []), key=_depth):
            target, source = mount["mountPath"], self.volume(mount["name"])
            if target == "/tmp":
                if not ROOT.is_relative_to("/tmp"):
                    last.append(f"mount --bind {source} /tmp")  # hides the other volumes' own place
                continue
            if not target.startswith(f"{MOUNTS}/"):  # a folder that this machine has not: the words say the other place
                words = [word.replace(target, f"{MOUNTS}/other{target}") for word in words]
                target = f"{MOUNTS}/other{target}"
            lines += [f"mkdir -p {target}", f"mount --bind {source} {target}"]
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {target}")
        lines += [
            f"mkdir -p {MOUNTS}/bin",
            *(f"ln -s {path} {MOUNTS}/bin/{name}" for name, path in _programs().items()),
        ]
        lines += [*last, f"mount -o remount,bind,ro {MOUNTS}", "mount -o remount,bind,ro /"]
        lines.append(f"cd {one.get('workingDir', '/')}")
        environment = {
            "PATH": f"{MOUNTS}/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            **{variable["name"]: variable["value"] for variable in one.get("env", [])},
        }
        rights = ["setpriv", f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", f"--groups={self.group}", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]  # fmt: skip
        variables = [f"{name}={value}" for name, value in environment.items()]
        lines.append("exec " + shlex.join([*rights, "env", "-i", *variables, *words]))
        return [
            "ip",
            "netns",
            "exec",
            self._netns,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            "\n".join(lines),
        ]


def _depth(mount: Document) -> int:
    """Runtimes mount what lies deeper later, whatever the manifest's order."""
    return len(Path(mount["mountPath"]).parts)


def _programs() -> dict[str, Path]:
    """What the images have, from this checkout."""
    return {"envoy": find_envoy().absolute(), "valkey-server": find_server(), "llm-drain": ROOT / "docker" / "drain.py"}


def _unlock() -> list[str]:
    """The interpreter and the checkout may be under a folder that is root's alone: it is replaced by one that has only them."""
    lines: list[str] = []
    locked: dict[Path, list[Path]] = {}
    for path in dict.fromkeys((Path(sys.base_prefix).resolve(), ROOT)):
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                locked.setdefault(parent, []).append(path)
                break
    for parent, paths in locked.items():
        for number, path in enumerate(paths):
            lines += [f"mkdir -p {MOUNTS}/.open{number}", f"mount --rbind {path} {MOUNTS}/.open{number}"]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {parent}")
        for number, path in enumerate(paths):
            lines += [f"mkdir -p {path}", f"mount --rbind {MOUNTS}/.open{number} {path}"]
    return lines


def config_maps(documents: list[Document]) -> dict[tuple[str, str], dict[str, bytes]]:
    """The ConfigMaps of a build, as sources of volumes."""
    found: dict[tuple[str, str], dict[str, bytes]] = {}
    for document in documents:
        if document["kind"] == "ConfigMap":
            data: dict[str, Any] = document["data"]
            found["ConfigMap", document["metadata"]["name"]] = {name: text.encode() for name, text in data.items()}
    return found
