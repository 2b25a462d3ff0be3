"""REST doors on control: each decodes, calls one service and encodes. No rule lives here."""
