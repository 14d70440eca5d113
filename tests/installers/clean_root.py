"""Runs a Dockerfile's own steps without a container engine: each in a clean Debian, made once with debootstrap.

Rules
- What is run is what the file says: FROM, RUN, COPY, ENV, USER, WORKDIR; an instruction that is not known is an error.
- A layer is an overlay's upper folder, kept under the hash of all that went into it; only what changed is run again.
- Mounts and processes live in namespaces of their own and are gone when the command ends, however the test ends.
- Root and the mounts it needs are asked for once, by `why_not()`; where they are not to be had, the tests skip.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

CACHE = Path(os.environ.get("POTLUCK_TEST_ROOTS", "/var/cache/potluck-tests"))
DEBIAN = "bookworm"
BASE_IMAGE = f"debian:{DEBIAN}-slim"
HOST = "/run/host"
"""where a root sees what pip needs of this machine; /run is no part of a layer"""
PIP_PLACES = ("index-url", "extra-index-url", "find-links", "cert", "constraint", "trusted-host")
DEVICES = "null zero full random urandom tty"
STEP_S = 600
BOOT_S = 40
KEPT_LAYERS = 24


class RootError(Exception):
    """A step of the file failed; the message has what it printed."""


class NoNetworkError(RootError):
    """The base system could not be fetched."""


def why_not() -> str:
    """Why no clean root can be had here; empty: it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a clean root needs Linux and root"
    for tool in ("unshare", "chroot", "mount"):
        if not shutil.which(tool):
            return f"a clean root needs {tool}"
    if not (CACHE / DEBIAN).is_dir() and not shutil.which("debootstrap"):
        return "debootstrap is not installed: apt install debootstrap"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    return "" if done.returncode == 0 else "mounting is not allowed here"


def debian() -> Path:
    """The base system's folder, made at the first call. Raises NoNetworkError."""
    place = CACHE / DEBIAN
    if not place.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = CACHE / f"{DEBIAN}.{os.getpid()}"
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", DEBIAN, str(draft)],
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            raise NoNetworkError(f"debootstrap could not make a Debian here: {done.stdout[-300:]}{done.stderr[-300:]}")
        draft.replace(place)
    return place


@dataclass(frozen=True)
class Image:
    """A stage: its layers, top first, and what its instructions said."""

    key: str
    layers: tuple[Path, ...]
    env: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    user: str = "root"
    folder: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(`RUN`, its arguments), lines joined, comments left out."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), " ".join(rest.split()) if word.upper() != "HEALTHCHECK" else rest


def build(text: str, context: Path, target: str) -> Image:
    """The image of one target. Raises RootError."""
    stages: dict[str, Image] = {BASE_IMAGE: Image(DEBIAN, (debian(),))}
    wanted = _needed(text, target)
    name = ""
    for word, rest in instructions(text):
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            if name in wanted:
                stages[name] = stages[source]
        elif name in wanted:
            stages[name] = _apply(stages[name], word, rest, context, stages)
    if target not in stages:
        raise RootError(f"the file has no target {target}")
    return stages[target]


def _needed(text: str, target: str) -> set[str]:
    """The stages that a target is made of."""
    uses: dict[str, set[str]] = {}
    name = ""
    for word, rest in instructions(text):
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            uses[name] = {source}
        elif word == "COPY" and (found := re.match(r"--from=(\S+)", rest)):
            uses[name].add(found[1])
    found_, waiting = set(), [target]
    while waiting:
        each = waiting.pop()
        if each not in found_:
            found_.add(each)
            waiting += uses.get(each, ())
    return found_


def _apply(image: Image, word: str, rest: str, context: Path, stages: Mapping[str, Image]) -> Image:
    match word:
        case "RUN":
            return _layer(
                image, f"RUN {rest} {sorted(image.env.items())} {image.folder} {image.user}", ["sh", "-c", rest]
            )
        case "COPY":
            return _copy(image, rest, context, stages)
        case "ENV":
            return replace(image, env={**image.env, **dict(each.split("=", 1) for each in shlex.split(rest))})
        case "WORKDIR":
            made = _layer(image, f"WORKDIR {rest}", ["mkdir", "-p", rest], user="root", folder="/")
            return replace(made, folder=rest)
        case "USER":
            return replace(image, user=rest)
        case "ENTRYPOINT":
            return replace(image, entrypoint=tuple(json.loads(rest)), command=())
        case "CMD":
            return replace(image, command=tuple(json.loads(rest)))
        case "HEALTHCHECK":
            return replace(image, health=tuple(json.loads(rest.partition("CMD ")[2])))
        case "EXPOSE":
            return replace(image, exposed=(*image.exposed, rest))
        case "VOLUME":
            return replace(image, volumes=(*image.volumes, rest))
    raise RootError(f"no instruction that this knows: {word}")


def _copy(image: Image, rest: str, context: Path, stages: Mapping[str, Image]) -> Image:
    words = rest.split()
    if found := re.match(r"--from=(\S+)", words[0]):
        source = stages[found[1]]
        _, path, place = words
        return _layer(image, f"COPY {source.key} {rest}", ["cp", "-a", f"/mnt{path}", place], beside=source.layers)
    *paths, place = words
    files = [file for path in paths for file in _context_files(context, path)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(context)} {file.stat().st_mode & 0o111}\n".encode())
        digest.update(file.read_bytes())
    single = len(paths) == 1
    names = {
        str(file.relative_to(context)): (
            str(Path(place) / file.relative_to(context / paths[0]))
            if single and (context / paths[0]).is_dir()
            else f"{place.rstrip('/')}/{file.name}"
            if place.endswith("/") or not single
            else place
        )
        for file in files
    }
    lines = [
        f"mkdir -p {shlex.quote(str(Path(to).parent))} && cp -aL {shlex.quote(f'/mnt/{of}')} {shlex.quote(to)}"
        for of, to in names.items()
    ]
    script = (
        "set -e\n"
        + "\n".join(lines)
        + "\n"
        + "chown -R root:root "
        + " ".join(shlex.quote(to) for to in names.values())
    )
    key = f"COPY {rest} {digest.hexdigest()} {image.folder}"
    return _layer(image, key, ["sh", "-c", script], beside=(context,))


def _context_files(context: Path, path: str) -> list[Path]:
    """What the engine would send of a path: `.dockerignore` is an allow-list here."""
    rules = [line for line in (context / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    refused = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    assert rules[0] == "*"
    assert len(allowed) + len(refused) + 1 == len(rules), "a form of rule that is not known here"
    root = context / path
    found = sorted(each for each in ([root] if root.is_file() else root.rglob("*")) if each.is_file())
    kept = []
    for each in found:
        inside = each.relative_to(context).as_posix()
        named = any(inside == rule or inside.startswith(f"{rule}/") for rule in allowed)
        if named and not any(fnmatch(part, rule) for part in each.parts for rule in refused):
            kept.append(each)
    if not kept:
        raise RootError(f"COPY {path}: there is no such file in the context")
    return kept


def _layer(
    image: Image, told: str, argv: list[str], *, beside: tuple[Path, ...] = (), user: str = "", folder: str = ""
) -> Image:
    """The image with one more layer: kept from before, or made by running a command in it."""
    key = hashlib.sha256(f"{image.key}\n{told}".encode()).hexdigest()[:24]
    place = CACHE / "layers" / key
    if not place.is_dir():
        draft = CACHE / "layers" / f"{key}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        root = Root(replace(image, user=user or image.user, folder=folder or image.folder), draft, beside=beside)
        done = root.run(argv, timeout_s=STEP_S)
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            raise RootError(f"{told[:300]}\nexit status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        shutil.rmtree(draft / "work", ignore_errors=True)
        if not place.is_dir():
            draft.replace(place)
    os.utime(place)
    return replace(image, key=key, layers=(place / "upper", *image.layers))


def forget_old_layers() -> None:
    """Layers that were not used for the longest time."""
    layers = sorted((CACHE / "layers").glob("*"), key=lambda each: each.stat().st_mtime, reverse=True)
    for each in layers[KEPT_LAYERS:]:
        shutil.rmtree(each, ignore_errors=True)


class Root:
    """A machine made from an image: what it writes goes to `folder`, and stays there."""

    def __init__(self, image: Image, folder: Path, *, beside: tuple[Path, ...] = ()) -> None:
        """`beside`: layers that are seen, read-only, at /mnt."""
        self.image = image
        self.folder = folder
        self.beside = beside
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        os.chmod(folder / "upper", 0o755)  # noqa: PTH101

    def argv(self, argv: list[str], *, user: str = "", env: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs a command in there, with the image's user, folder and environment."""
        inside = self._inside(argv, user, env)
        lines = [*self._mounts(), f"exec chroot {self.folder / 'root'} {inside}"]
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(lines)]

    def _inside(self, argv: list[str], user: str, env: Mapping[str, str] | None) -> str:
        pip_env, _ = _pip_of_this_machine()
        told = {**_proxies(), **pip_env, "HOME": "/root", **self.image.env, **(env or {})}
        name = user or self.image.user
        as_user = "" if name == "root" else f"setpriv --reuid {name} --regid {name} --init-groups "
        script = f'cd {shlex.quote(self.image.folder)} && exec {as_user}"$@"'
        words = [f"{key}={value}" for key, value in told.items()]
        return shlex.join(["env", "-i", *words, "sh", "-c", script, "sh", *argv])

    def _mounts(self) -> list[str]:
        """Lines of a shell that has a mount name space of its own."""
        root = self.folder / "root"
        lower = ":".join(map(str, self.image.layers))
        places = f"lowerdir={lower},upperdir={self.folder}/upper,workdir={self.folder}/work"
        lines = [
            "set -e",
            f"mount -t overlay overlay -o {places} {root}",
            f"mount -t tmpfs run {root}/run",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs -o mode=755 dev {root}/dev",
            f"mkdir -p {root}/dev/shm {root}/dev/pts {root}{HOST} {root}/run/lock",
            f"mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 pts {root}/dev/pts",
            f"ln -s pts/ptmx {root}/dev/ptmx; ln -s /proc/self/fd {root}/dev/fd; chmod 1777 {root}/dev/shm",
            f"for each in {DEVICES}; do touch {root}/dev/$each; mount --bind /dev/$each {root}/dev/$each; done",
            f"if [ -e {root}/etc/resolv.conf ]; then mount --bind /etc/resolv.conf {root}/etc/resolv.conf; fi",
        ]
        for number, source in enumerate(_pip_of_this_machine()[1]):
            place = f"{root}{HOST}/{number}"
            lines.append(f"{'mkdir' if source.is_dir() else 'touch'} {place}")
            lines.append(f"mount --bind -o ro {shlex.quote(str(source))} {place}")
        if len(self.beside) == 1:
            lines.append(f"mount --bind -o ro {self.beside[0]} {root}/mnt")
        elif self.beside:
            lines.append(f"mount -t overlay overlay -o lowerdir={':'.join(map(str, self.beside))} {root}/mnt")
        return lines

    def run(
        self,
        argv: list[str],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = STEP_S,
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(argv, user=user, env=env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(
        self, argv: list[str], *, user: str = "", env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """A process that runs until `end(…)`."""
        return subprocess.Popen(
            self.argv(argv, user=user, env=env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def seen(self, path: str) -> Path | None:
        """A file of the machine, in whatever layer it is; None: there is none."""
        for layer in (self.folder / "upper", *self.image.layers):
            place = layer / path.lstrip("/")
            if place.is_symlink() or place.exists():
                return None if place.is_char_device() else place
        return None


class Booted:
    """The machine with its own systemd as process 1: services start with it, and end with it."""

    def __init__(self, root: Root) -> None:
        """Raises RootError where systemd does not start."""
        self._root = root
        place = root.folder / "root"
        groups = f"{place}/sys/fs/cgroup"
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        lines = [
            *root._mounts(),
            f"mount -t sysfs -o ro sys {place}/sys",
            f"mount -t cgroup2 cgroup {groups}"
            if unified
            else f"mount -t tmpfs cgroup {groups}; mkdir {groups}/systemd; "
            f"mount -t cgroup -o none,name=systemd,xattr cgroup {groups}/systemd",
            f"exec chroot {place} env -i container=potluck /lib/systemd/systemd",
        ]
        apart = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child"]
        self._process = subprocess.Popen(
            ["unshare", *apart, "sh", "-c", "\n".join(lines)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        latest = time.monotonic() + BOOT_S
        while self.run(["systemctl", "is-system-running"]).stdout.strip() not in ("running", "degraded"):
            if self._process.poll() is not None or time.monotonic() > latest:
                raise RootError(f"systemd does not start here: {self.end()[-500:]}")
            time.sleep(0.2)

    def run(self, argv: list[str], *, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """A command in there, beside the services."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        first = children.read_text().split() if children.exists() else []
        if not first:
            return subprocess.CompletedProcess(argv, 255, "", "it does not run")
        inside = self._root._inside(argv, "", env)
        return subprocess.run(
            ["nsenter", "--target", first[0], "--all", "--root", "--wd", "sh", "-c", f"exec {inside}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )

    def end(self) -> str:
        """As if its plug were pulled."""
        return end(self._process)


def end(process: "subprocess.Popen[str]") -> str:
    """Ends a process and all that it started; what it had printed."""
    # its group: a child that changed its user is not ended with its parent
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate(timeout=30)[0]


def _proxies() -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    return {name: value for name, value in os.environ.items() if name.lower() in names}


def _pip_of_this_machine() -> tuple[dict[str, str], list[Path]]:
    """pip's settings here as variables, and the files they name, which a root sees below `HOST`."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    told = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if key in PIP_PLACES and (section == ":env:" or key not in told):
            told[key] = value.strip("'")
    env, binds = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}, []
    for key, value in told.items():
        words = []
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if word.startswith("file://"):
                path = path.parent  # an index's pages point to files beside it
            if not path.is_absolute():
                words.append(word)
            elif path.exists():
                words.append(word.replace(str(path), f"{HOST}/{len(binds)}"))
                binds.append(path.resolve())
        if words:
            env[f"PIP_{key.upper().replace('-', '_')}"] = " ".join(words)
    return env, binds
