"""The OpenAI API over a PETALS swarm: embeddings on the CPU, the head on the GPU, all blocks at the servers.

Of the API: `/v1/models`, `/v1/completions` and `/v1/chat/completions`, streamed or not, with `max_tokens`,
`temperature`, `top_p` and `stop`. `/health` says whether every block has a server, `/live` that this program runs,
`/metrics` what vLLM's does of requests.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from petals import AutoDistributedModelForCausalLM
from plimsoll_petals_metrics import Metrics
from transformers import AutoTokenizer, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

_UPDATE_SECONDS = 15
"""How often servers are looked for."""
_LOST_SECONDS = 300
"""Without a route: then the swarm is looked for anew."""
_DEFAULT_TOKENS = 256
_LONGEST_BODY = 16 * 1024 * 1024


class BadRequestError(ValueError):
    """Names what is wrong and what would be accepted."""


class _Watch(StoppingCriteria):
    """Counts tokens, and ends the generation when asked to."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens, self.tokens, self.ended = prompt_tokens, 0, threading.Event()
        self.first: float | None = None

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> bool:
        self.tokens = input_ids.shape[1] - self.prompt_tokens
        self.first = self.first or time.monotonic()
        return self.ended.is_set()


class FrontEnd:
    """A model whose blocks are elsewhere."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.names: list[str] = options.served_model_name
        self.longest: int = options.max_model_len
        self.metrics = Metrics(self.names[0])
        self.places = threading.BoundedSemaphore(options.max_num_seqs)
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.model = AutoDistributedModelForCausalLM.from_pretrained(
            options.model,
            initial_peers=[options.peer],
            dht_prefix=options.dht_prefix,
            update_period=_UPDATE_SECONDS,
        )
        _move(self.model.lm_head, "cuda" if torch.cuda.is_available() else "cpu")
        self._found = time.monotonic()

    def missing(self) -> str:
        """Why requests cannot be served now; empty when they can."""
        try:
            self.model.transformer.h.sequence_manager.make_sequence(mode="min_latency")
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what /health should say)
            if time.monotonic() - self._found > _LOST_SECONDS:
                print(f"no route for {_LOST_SECONDS} s: {error!r}; starting anew", file=sys.stderr, flush=True)
                os._exit(1)
            return str(error) or repr(error)
        self._found = time.monotonic()
        return ""

    def prompt(self, body: dict[str, Any], chat: bool) -> torch.Tensor:
        """Token IDs, (1, N)."""
        if chat:
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages:
                raise BadRequestError("messages must be a list of at least one message")
            try:
                return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
            except Exception as error:  # the template is the model's own program, and raises what it likes
                raise BadRequestError(f"messages cannot be written with the model's chat template: {error}") from error
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
            return torch.tensor([prompt])
        if not isinstance(prompt, str) or not prompt:
            raise BadRequestError("prompt must be one string or one list of token IDs, and not empty")
        return self.tokenizer(prompt, return_tensors="pt").input_ids

    def generate(self, ids: torch.Tensor, body: dict[str, Any], watch: _Watch, limit: int) -> Iterator[str]:
        """Pieces of the answer."""
        temperature, top_p = _number(body, "temperature", 1.0, 2.0), _number(body, "top_p", 1.0, 1.0)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
        )
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failed: list[Exception] = []

        def run() -> None:
            came = began = time.monotonic()
            self.metrics.waiting.inc()
            try:
                with self.places, torch.inference_mode():
                    self.metrics.waiting.dec()
                    began = time.monotonic()
                    if not watch.ended.is_set():
                        with self.metrics.running.track_inprogress():
                            self.model.generate(
                                ids,
                                attention_mask=torch.ones_like(ids),
                                max_new_tokens=limit,
                                streamer=streamer,
                                stopping_criteria=StoppingCriteriaList([watch]),
                                **sampling,
                            )
            except Exception as error:  # noqa: BLE001  (raised again where the request is answered)
                failed.append(error)
            finally:
                first = None if watch.first is None else watch.first - came
                reason = "error" if failed else "length" if watch.tokens >= limit else "stop"
                self.metrics.ended(
                    reason, watch.prompt_tokens, watch.tokens, began - came, first, time.monotonic() - came
                )
                streamer.end()

        threading.Thread(target=run, daemon=True).start()
        yield from _until(streamer, _stops(body), watch)
        if failed:
            raise failed[0]


def _move(head: torch.nn.Module, device: str) -> None:
    """The head alone: a copy, since its weights may be those of the embeddings."""
    head.weight = torch.nn.Parameter(head.weight.to(device), requires_grad=False)
    head.register_forward_pre_hook(lambda _, given: tuple(one.to(device) for one in given))
    head.register_forward_hook(lambda _, __, logits: logits.cpu())


def _until(pieces: Iterator[str], stops: Sequence[str], watch: _Watch) -> Iterator[str]:
    """The pieces before the first of `stops`, holding back what may be the beginning of one."""
    kept = max((len(stop) for stop in stops), default=1) - 1
    text, sent = "", 0
    for piece in pieces:
        text += piece
        found = min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=-1)
        end = found if found >= 0 else max(sent, len(text) - kept)
        if end > sent:
            yield text[sent:end]
            sent = end
        if found >= 0:
            watch.ended.set()
            return
    if text[sent:]:
        yield text[sent:]


def _object(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON that can be read: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    return body


def _number(body: dict[str, Any], field: str, default: float, most: float) -> float:
    value = body.get(field)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise BadRequestError(f"{field} is {value!r}; it must be a number from 0 to {most:g}")
    return float(value)


def _stops(body: dict[str, Any]) -> list[str]:
    given = body.get("stop") or []
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRequestError(f"stop is {given!r}; it must be a string or a list of strings")
    return stops


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front_end: FrontEnd

    def log_message(self, *_: object) -> None:
        """Probes would fill the log."""

    def do_GET(self) -> None:
        """Health and models."""
        if self.path == "/live":
            self._answer(200, {})
        elif self.path == "/health":
            missing = self.front_end.missing()
            self._answer(503 if missing else 200, {"missing": missing} if missing else {})
        elif self.path == "/metrics":
            self._send(200, self.front_end.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/v1/models":
            models = [{"id": name, "object": "model", "owned_by": "petals"} for name in self.front_end.names]
            self._answer(200, {"object": "list", "data": models})
        else:
            self._error(
                404, f"{self.path} is not here; there are /health, /live, /metrics, /v1/models and the completions"
            )

    def do_POST(self) -> None:
        """Completions."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LONGEST_BODY:
            self._error(413, f"the body has {length} bytes; {_LONGEST_BODY} at most are accepted")
            self.close_connection = True
            return
        content = self.rfile.read(length)
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            self._error(404, f"{self.path} is not here; there are /v1/completions and /v1/chat/completions")
            return
        try:
            self._complete(_object(content), chat)
        except BadRequestError as error:
            self._error(400, str(error))

    def _complete(self, body: dict[str, Any], chat: bool) -> None:
        front_end = self.front_end
        if body.get("model") not in front_end.names:
            raise BadRequestError(f"model is {body.get('model')!r}; there are: {', '.join(front_end.names)}")
        if body.get("n") not in (None, 1):
            raise BadRequestError(f"n is {body['n']!r}; 1 is accepted")
        ids = front_end.prompt(body, chat)
        prompt_tokens = ids.shape[1]
        room = front_end.longest - prompt_tokens
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or min(_DEFAULT_TOKENS, max(1, room))
        if isinstance(asked, bool) or not isinstance(asked, int) or not 0 < asked <= room:
            raise BadRequestError(
                f"max_tokens is {asked!r}; with a prompt of {prompt_tokens} tokens 1 to {room} are accepted "
                f"(the longest sequence has {front_end.longest})"
            )
        _stops(body), _number(body, "temperature", 1.0, 2.0), _number(body, "top_p", 1.0, 1.0)
        watch = _Watch(prompt_tokens)
        pieces = front_end.generate(ids, body, watch, asked)
        kind = "chat.completion" if chat else "text_completion"
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"]}

        def usage() -> dict[str, int]:
            total = prompt_tokens + watch.tokens
            return {"prompt_tokens": prompt_tokens, "completion_tokens": watch.tokens, "total_tokens": total}

        def reason() -> str:
            return "length" if watch.tokens >= asked and not watch.ended.is_set() else "stop"

        if not body.get("stream"):
            try:
                text = "".join(pieces)
            except Exception as error:  # noqa: BLE001  (of the swarm: told to the client)
                self._error(500, f"the chain did not answer: {error!r}")
                return
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices = [{"index": 0, **said, "finish_reason": reason()}]
            self._answer(200, {**head, "object": kind, "choices": choices, "usage": usage()})
            return
        head["object"] = "chat.completion.chunk" if chat else kind
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for piece in pieces:
                said = {"delta": {"content": piece}} if chat else {"text": piece}
                self._event({**head, "choices": [{"index": 0, **said, "finish_reason": None}]})
            last = {"delta": {}} if chat else {"text": ""}
            self._event({**head, "choices": [{"index": 0, **last, "finish_reason": reason()}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                self._event({**head, "choices": [], "usage": usage()})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # the client is gone: nobody is left to tell
        except Exception as error:  # noqa: BLE001  (of the swarm: told to the client)
            self._event({"error": {"message": f"the chain did not answer: {error!r}", "type": "server_error"}})
        finally:
            watch.ended.set()

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
        self.wfile.flush()

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, text: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _error(self, status: int, message: str) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self._answer(status, {"error": {"message": message, "type": kind}})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--peer", required=True, help="multiaddress of one who is in the swarm")
    parser.add_argument("--dht_prefix", required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    options = parser.parse_args()
    _Handler.front_end = FrontEnd(options)
    with _Server(("", options.port), _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
