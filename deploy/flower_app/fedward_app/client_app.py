"""A site's side of the bundle, which runs only under Flower's own launcher."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def refuse(_message: Message, _context: Context) -> Message:
    """Say where the sites' answers come from."""
    raise RuntimeError("start the site with `fedward client`: it runs its installed code")
