"""Puts the workspace of the task nanochat into the wheel, as `tasks/nanochat/workspace/nanochat`. Called by hatchling.

Only into a real wheel: in an editable install the files lie in the checkout already, and a copy in site-packages would
make a directory `tasks` there, which hides the package of that name.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WorkspaceHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["nanochat"] = "tasks/nanochat/workspace/nanochat"
