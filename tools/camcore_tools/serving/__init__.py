"""The server behind ``camcore live``: one page, one WebSocket, one model. Needs aiohttp."""
