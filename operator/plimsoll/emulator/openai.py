"""The OpenAI-compatible interface as vLLM has it: what requests mean and how answers and errors look. Pure."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

CHARACTERS_PER_TOKEN = 4
"""English text has about four characters a token in the usual vocabularies."""
TOKENS_PER_MESSAGE = 4
"""What a chat template adds to each message."""
DEFAULT_COMPLETION_TOKENS = 16
"""vLLM's default of `max_tokens` for completions."""
DEFAULT_CHAT_TOKENS = 256
"""Where a chat ends when neither the client nor a distribution says. vLLM's limit is then the context, which only a
model that ends its answers makes bearable."""
MAX_ANSWERS = 4096
"""Answers to one request: prompts times `n`. vLLM's limit is 16,384 for `n` alone (`VLLM_MAX_N_SEQUENCES`); here all
endpoints share one process, which 4,096 hold up for a tenth of a second."""

_WORDS = (
    "the",
    "and",
    "for",
    "are",
    "but",
    "not",
    "you",
    "all",
    "any",
    "can",
    "had",
    "her",
    "was",
    "one",
    "our",
    "out",
)
_TOKENS = tuple(f" {word}" for word in _WORDS)
"""Four characters each, so that an answer sent back as a prompt counts as many tokens as it had."""

Kind = Literal["completion", "chat"]
Value = TypeVar("Value")


class RequestError(Exception):
    """A request is refused."""

    def __init__(self, message: str, *, status: int = 400, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.parameter = parameter

    def document(self) -> dict[str, Any]:
        """As vLLM answers it."""
        kinds = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}
        return {
            "error": {
                "message": str(self),
                "type": kinds.get(self.status, "InternalServerError"),
                "param": self.parameter,
                "code": self.status,
            }
        }


@dataclass(frozen=True, slots=True)
class Query:
    """A request, as far as the emulator honours it."""

    kind: Kind
    model: str
    prompt_tokens: tuple[int, ...]
    """Of each prompt; a chat has one."""
    choices: int
    """Answers to each prompt."""
    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


def encoded(document: Mapping[str, Any]) -> str:
    """JSON without blanks, as vLLM writes it."""
    return json.dumps(document, separators=(",", ":"))


def token_count(text: str) -> int:
    """Tokens of a text: a quarter of its characters, rounded up."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def text_of(first: int, count: int) -> str:
    """Tokens `first` to `first + count` of any answer."""
    return "".join(_TOKENS[number % len(_TOKENS)] for number in range(first, first + count))


def parse_query(kind: Kind, body: bytes, served: Sequence[str]) -> Query:
    """A request's body.

    Raises:
        RequestError: it is malformed (400) or names a model that is not served (404).
    """
    try:
        content = json.loads(body)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError("the body is no JSON object")
    # vLLM serves its first model when none is named.
    model = _field(content, "model", str, None) or served[0]
    if model not in served:
        raise RequestError(f"The model `{model}` does not exist.", status=404, parameter="model")
    stream = _field(content, "stream", bool, default=False)
    options = _field(content, "stream_options", dict, None)
    if options is not None and not stream:
        raise RequestError("Stream options can only be defined when `stream=True`.", parameter="stream_options")
    limit = _field(content, "max_tokens", int, None)
    if kind == "chat":
        limit = _field(content, "max_completion_tokens", int, limit)
    choices = _at_least(1, "n", _field(content, "n", int, 1))
    prompt_tokens = _chat_tokens(content) if kind == "chat" else _prompt_tokens(content)
    if choices > MAX_ANSWERS:
        raise RequestError(f"n must be at most {MAX_ANSWERS}, got {choices}.", parameter="n")
    if choices * len(prompt_tokens) > MAX_ANSWERS:
        raise RequestError(
            f"prompts times n must be at most {MAX_ANSWERS}, got {len(prompt_tokens)} prompts with n = {choices}.",
            parameter="n" if choices > 1 else "prompt",
        )
    return Query(
        kind=kind,
        model=model,
        prompt_tokens=prompt_tokens,
        choices=choices,
        max_tokens=None if limit is None else _at_least(1, "max_tokens", limit),
        min_tokens=_at_least(0, "min_tokens", _field(content, "min_tokens", int, 0)),
        ignore_eos=_field(content, "ignore_eos", bool, default=False),
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
    )


def answer_length(
    query: Query, prompt_tokens: int, drawn_tokens: int | None, max_model_length: int
) -> tuple[int, int, str]:
    """How many tokens an answer gets, the limit that it was given, and why it ends: `length` at the limit or `stop`.

    `drawn_tokens` is where the model would end by itself; None: at the limit.

    Raises:
        RequestError: prompt and limit together are longer than the model takes.
    """
    room = max_model_length - prompt_tokens
    asked = query.max_tokens or 0
    if room < max(1, asked):
        raise RequestError(
            f"This model's maximum context length is {max_model_length} tokens. However, you requested {asked} output "
            f"tokens and your prompt contains {prompt_tokens} input tokens, for a total of {prompt_tokens + asked} "
            "tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            parameter="input_tokens",
        )
    if query.max_tokens is not None:
        limit = query.max_tokens
    else:
        limit = min(room, DEFAULT_COMPLETION_TOKENS) if query.kind == "completion" else room
        if drawn_tokens is None and query.kind == "chat":
            drawn_tokens = DEFAULT_CHAT_TOKENS
    if query.min_tokens > limit:
        raise RequestError(
            f"min_tokens must be less than or equal to max_tokens={limit}, got {query.min_tokens}.",
            parameter="min_tokens",
        )
    if drawn_tokens is None or (query.ignore_eos and query.max_tokens is not None):
        return limit, limit, "length"
    tokens = max(drawn_tokens, query.min_tokens, 1)
    return (tokens, limit, "stop") if tokens < limit else (limit, limit, "length")


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def answer_document(query: Query, created: int, answers: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """The whole answer; `answers` are tokens and finish reason of each choice."""
    choices: list[dict[str, Any]] = []
    for index, (tokens, reason) in enumerate(answers):
        text = text_of(0, tokens)
        content: dict[str, Any] = (
            {"text": text} if query.kind == "completion" else {"message": {"role": "assistant", "content": text}}
        )
        choices.append({"index": index, **content, "logprobs": None, "finish_reason": reason, "stop_reason": None})
    return {
        **_header(query, created, chunk=False),
        "choices": choices,
        "usage": usage(sum(query.prompt_tokens), sum(tokens for tokens, _ in answers)),
    }


class Chunks:
    """A request's stream of server-sent events."""

    DONE = b"data: [DONE]\n\n"

    def __init__(self, query: Query, created: int) -> None:
        self._query = query
        self._header = _header(query, created, chunk=True)
        # Most of what a fleet sends is chunks: they are put together from pieces, since encoding each as JSON would
        # take half of the time.
        head = encoded(self._header)[:-1]
        self._open = f'data: {head},"choices":[{{"index":'
        self._text = ',"delta":{"content":"' if query.kind == "chat" else ',"text":"'
        self._close = '"}' if query.kind == "chat" else '"'

    def opening(self, choice: int) -> bytes:
        """What comes before the first token: in a chat the role, else nothing."""
        if self._query.kind == "completion":
            return b""
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}])

    def tokens(self, choice: int, first: int, count: int, finish_reason: str | None) -> bytes:
        """Tokens of an answer; the last chunk has the finish reason."""
        reason = "null" if finish_reason is None else f'"{finish_reason}"'
        return (
            f"{self._open}{choice}{self._text}{text_of(first, count)}{self._close}"
            f',"logprobs":null,"finish_reason":{reason},"stop_reason":null}}]}}\n\n'
        ).encode()

    def usage(self, completion_tokens: int) -> bytes:
        """The token counts, in a chunk without choices."""
        counts = usage(sum(self._query.prompt_tokens), completion_tokens)
        return f"data: {encoded({**self._header, 'choices': [], 'usage': counts})}\n\n".encode()

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        return f"data: {encoded({**self._header, 'choices': choices})}\n\n".encode()


def models_document(served: Sequence[str], root: str, created: int, max_model_length: int) -> dict[str, Any]:
    """The answer of `/v1/models`."""
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": root,
                "parent": None,
                "max_model_len": max_model_length,
            }
            for name in served
        ],
    }


def _header(query: Query, created: int, *, chunk: bool) -> dict[str, Any]:
    prefix, kind = ("chatcmpl", "chat.completion") if query.kind == "chat" else ("cmpl", "text_completion")
    return {
        "id": f"{prefix}-{query.id}",
        "object": f"{kind}.chunk" if chunk and query.kind == "chat" else kind,
        "created": created,
        "model": query.model,
    }


def _prompt_tokens(content: Mapping[str, Any]) -> tuple[int, ...]:
    """A text, texts, token ids, or lists of token ids."""
    prompt = content.get("prompt")
    if isinstance(prompt, str) or _is_ids(prompt):
        counts: tuple[int, ...] = (_tokens(prompt),)
    elif isinstance(prompt, list) and prompt and all(isinstance(item, str) or _is_ids(item) for item in prompt):
        counts = tuple(_tokens(item) for item in prompt)
    else:
        raise RequestError(
            "prompt: a text, a list of texts, a list of token ids or a list of such lists is accepted",
            parameter="prompt",
        )
    if not all(counts):
        raise RequestError("prompt: an empty prompt has no answer", parameter="prompt")
    return counts


def _chat_tokens(content: Mapping[str, Any]) -> tuple[int, ...]:
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: a list of at least one message is accepted", parameter="messages")
    total = 0
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError("messages: each message is an object with a role", parameter="messages")
        text = message.get("content")
        parts = text if isinstance(text, list) else [{"type": "text", "text": text or ""}]
        for part in parts:
            words = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            if not isinstance(words, str):
                raise RequestError("messages: text is accepted as content, and no other kind", parameter="messages")
            total += token_count(words)
        total += TOKENS_PER_MESSAGE
    return (total,)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _tokens(prompt: Any) -> int:  # noqa: ANN401  (a text or token ids)
    return token_count(prompt) if isinstance(prompt, str) else len(prompt)


def _field(content: Mapping[str, Any], name: str, kind: type[Any], default: Value) -> Any | Value:  # noqa: ANN401
    """A field of that type; null counts as absent."""
    value = content.get(name)
    if value is None:
        return default
    # bool is an int in Python, but `"max_tokens": true` is a mistake.
    if type(value) is not kind:
        raise RequestError(f"{name}: {value!r} is not of the accepted type {kind.__name__}", parameter=name)
    return value


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise RequestError(f"{name} must be at least {least}, got {value}.", parameter=name)
    return value
