"""For `flwr run` alone: fedward's own programs never run what is in a bundle."""

from fedward.deploy.plain_app import server_app

app = server_app()
