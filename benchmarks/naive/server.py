"""The naive server: Flask, transformers' generate, one request at a time. Run by the interpreter of that environment.

`python server.py --model DIR --port N`. It streams, and it speaks the same route as the others, so that one client
measures all: both are favours that servers of this kind rarely do.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from typing import Any

import torch
from flask import Flask, Response, request  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


def make_app(path: str) -> Any:
    """The whole server."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    model.eval()
    turn = threading.Lock()
    app = Flask("naive")

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/v1/completions")
    def completions() -> Response:
        body = request.get_json()
        prompt = torch.tensor([body["prompt"]])

        def stream() -> Iterator[str]:
            with turn:
                streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
                tokens = int(body["max_tokens"])
                settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
                mask = torch.ones_like(prompt)
                worker = threading.Thread(
                    target=model.generate,
                    args=(prompt,),
                    kwargs={"attention_mask": mask, "streamer": streamer, **settings},
                )
                worker.start()
                for text in streamer:
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'text': text}]})}\n\n"
                worker.join()
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': tokens}})}\n\n"
            yield "data: [DONE]\n\n"

        return Response(stream(), mimetype="text/event-stream")

    return app


def main() -> None:
    """Serve on loopback until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    make_app(args.model).run("127.0.0.1", args.port, threaded=True)


if __name__ == "__main__":
    main()
