"""The naive listing: Flask's own server, the model loaded in every request.

Usage: `python server.py PORT`.
"""

import logging
import sys

from flask import Flask, Response, jsonify, request

from benchmarks.serving.engine import Engine

app = Flask(__name__)
logging.getLogger("werkzeug").setLevel(logging.WARNING)


@app.post("/predict")  # type: ignore[untyped-decorator]
def predict() -> Response:
    engine = Engine()
    rows = engine.run(engine.read(request.get_json()))
    return jsonify({engine.output: rows.tolist()})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[1]))
