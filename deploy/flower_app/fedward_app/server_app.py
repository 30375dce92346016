"""The coordinator's side of the bundle, which runs only under Flower's own launcher."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def refuse(_grid: Grid, _context: Context) -> None:
    """Say where runs of this bundle belong."""
    raise RuntimeError("start the coordinator with `fedward server`: it runs its installed code")
