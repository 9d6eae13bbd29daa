"""Whether the pool of an actor is still there: an actor that has lost it ends itself."""

from __future__ import annotations

import logging
from typing import Any, Final

import ray

from raybox_actors.config import NAMESPACE, PoolConfig, manager_name
from raybox_actors.off_loop import off_loop

logger = logging.getLogger(__name__)

#: How often to look, and after how many misses in a row the pool is gone.
LOOK_INTERVAL_S: Final = 30.0
MISSES_MOST: Final = 4


class PoolWatch:
    """Looks for the pool's manager, which Ray restarts as long as there is a pool."""

    def __init__(self, config: PoolConfig) -> None:
        self._name = manager_name(config)
        self._misses = 0
        self.manager: Any = None  #: its handle, as it was last found

    @property
    def is_gone(self) -> bool:
        return self._misses >= MISSES_MOST

    async def find(self) -> Any:
        """The manager, looked for anew. ValueError if there is none, and whatever Ray raises if it does not answer."""
        self.manager = await off_loop(ray.get_actor, self._name, namespace=NAMESPACE)
        self._misses = 0
        return self.manager

    async def look(self) -> None:
        """`find`, where it is no matter whether there is one."""
        try:
            await self.find()
        except ValueError:
            self._misses += 1
        except Exception as error:  # the cluster does not answer, which says nothing of the pool
            logger.warning("%s cannot be looked for: %r", self._name, error)
