"""Sees where a conversation stands in its flow (`pipecat.flows`), from outside.

`FlowManager` says nothing of the nodes it sets, so its one method that sets them is wrapped, once in a process, and
tells whoever watches in the present context.
"""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from pipecat.flows import FlowManager
from pipecat.flows.types import NodeConfig

# Called with the node that was left (None at the start) and the one that was entered.
type NodeWatch = Callable[[str | None, str], None]

NODE_WATCH: Final[ContextVar[NodeWatch | None]] = ContextVar("greenroom_node_watch", default=None)


def watch_flows() -> None:
    """Wrap `FlowManager._set_node`, unless that was done. A conformance test pins the method and its signature."""
    owner: Any = FlowManager
    original = owner._set_node  # noqa: SLF001
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    async def set_node(manager: FlowManager, node_id: str, node_config: NodeConfig) -> None:
        before = manager.current_node
        await original(manager, node_id, node_config)
        watch = NODE_WATCH.get()
        if watch is not None:
            watch(before, node_id)

    owner._set_node = set_node  # noqa: SLF001
