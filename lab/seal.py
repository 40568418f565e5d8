"""The fences of one run, and whether they held: what training, the scorer and its model hosts may read and write.

Called by the runner. That a run is sealed is found out and not assumed: before training starts a fork goes into its
fence and tries to read the held-out text that the task's manifest names (`mask`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.fence import Fence, describe, interpreter, prefix, private_network, system
from lab.runspec import RunSpec
from tasks.spec import HOSTS

SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/run"))
"""Where programs leave sockets: empty for an experiment's code, as are the user's home and the research repository."""


class Seal:
    """Builds the fences of the run in `folder`, by the manifest as it was read and checked once: the file may be another by now."""

    def __init__(self, folder: Path, spec: RunSpec, manifest: dict[str, Any]) -> None:
        self.folder, self.spec, self.manifest = folder, spec, manifest
        self.own = [folder / name for name in ("checkout", "out", "home", "tmp")]
        """The folders into which training may write."""
        self._user = Path(os.path.expanduser("~"))  # with keys in it; "~", which is not there, for a user without one
        self._gpu = bool(spec.slot.cuda)
        self._covered = [*SHARED, spec.repo, self._user]

    @property
    def masked(self) -> list[Path]:
        """Files and folders with held-out text, as the manifest names them; those that exist."""
        named = self.manifest.get("mask")
        places = [Path(place) for place in named if isinstance(place, str)] if isinstance(named, list) else []
        return [place for place in places if place.is_absolute() and os.path.lexists(place)]

    @property
    def _reads_data(self) -> bool:
        return not self.spec.task.feed or any("{data}" in word for word in self.spec.task.train)

    def training(self) -> Fence:
        """Training writes into its own folders and reads, besides, the machine's programs and the interpreter: neither
        targets nor keys, and nothing that was trained before and kept in a corner that agents can write to."""
        readable = [*system(), *interpreter(), self.folder / "scale.json"]
        if self._reads_data:
            readable.append(self.spec.data)
        for place in self.own:
            place.mkdir(exist_ok=True)
        hidden = [self.spec.repo, self._user]
        return Fence(
            self.own, readable, hidden, masked=self.masked, gpu=self._gpu, apart=True, shared_memory=self._gpu,
            covered=self._covered, loopback=bool(self.spec.task.scale.launch),
        )  # fmt: skip

    def scoring(self, folder: Path) -> Fence:
        """The scorer writes into its folder; what is taken away here is taken from the model hosts below it."""
        kept = [self.folder, self.spec.data, *system(), *interpreter()]
        writable = [folder, Path("/proc")]  # hosts set up their own namespaces there, before they are fenced in
        return Fence(writable, gpu=self._gpu, apart=True, shared_memory=self._gpu, covered=self._covered, kept=kept)

    def hosts(self, folder: Path, checkout: Path) -> list[list[str]]:
        """What the scorer puts before each model host: it reads its code and the checkpoint, and neither targets nor
        whatever else is kept here; it writes below one folder, of which no other host knows the name."""
        readable = [*system(), *interpreter(), checkout, self.folder / "out"]
        hidden = [self.spec.repo, self.spec.data, self.folder, self._user]
        homes = [Path(tempfile.mkdtemp(prefix="host-", dir=folder)) for _ in range(HOSTS)]
        fences = [prefix(home, readable, hidden, self.masked, gpu=self._gpu) for home in homes]
        return [words for words in fences if words]

    def broken(self, fence: Fence) -> str:
        """Why training inside of this fence could get at held-out text, in a line; "" when it cannot."""
        if describe() == "none":
            return "the kernel has no Landlock, so that nothing is hidden from training"
        if self._reads_data and self.spec.task.prepare:
            return "the task gives training the folder with all its data"
        if readable := fence.opens(_files(self.masked)):
            return f"training can read {readable[0]}"
        if self.spec.task.scale.launch and not private_network():
            return "training on several GPUs needs TCP, and the kernel grants no network of its own"
        return ""


def _files(places: Iterable[Path]) -> list[Path]:
    """One file of each place that holds any."""
    found = []
    for place in places:
        walk = ((Path(folder), names) for folder, _, names in os.walk(place) if names)
        folder, names = next(walk, (place.parent, [place.name]))
        if (folder / names[0]).is_file():
            found.append(folder / names[0])
    return found
