"""Starts the engine that a configuration asks for.

Imports Ray only for Ray, and torch never: Ray's actors import it while this process does the same.
"""

import os

from fedward.common.config.run import EngineConfig
from fedward.simulations.grids.base import SimulationGrid


def open_grid(engine: EngineConfig) -> SimulationGrid:
    """Return a started grid; the caller closes it.

    Raises:
        NetworkError: no Ray cluster at `engine.address`.
    """
    if engine.name == "inprocess":
        from fedward.simulations.grids.inprocess import InProcessGrid

        return InProcessGrid(engine.threads_per_actor)
    from fedward.simulations.grids.ray import RayGrid
    from fedward.simulations.grids.start_ray import RayOptions

    return RayGrid(
        RayOptions(
            num_actors=engine.num_actors or len(os.sched_getaffinity(0)),
            threads_per_actor=engine.threads_per_actor,
            gpus_per_actor=engine.gpus_per_actor,
            address=engine.address,
        )
    )
