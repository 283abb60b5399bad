"""What clients of the OpenAI interface get: answers, streams, token counts and refusals in vLLM's form."""

import asyncio

import pytest

from plimsoll.emulator.openai import MAX_ANSWERS, token_count
from tests.unit.emulator.running import MODEL, config, running, until_running


async def test_an_answer_has_the_tokens_asked_for_and_counts_the_prompt() -> None:
    async with running() as [client]:
        answer = await client.complete("x" * 41, max_tokens=12)
    assert answer["object"] == "text_completion"
    assert answer["model"] == MODEL
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 12, "total_tokens": 23}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert token_count(answer["choices"][0]["text"]) == 12  # an answer counts the same when it is sent back


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("a", 1), ("abcde", 2), ([5, 6, 7], 3), (["abcd", "abcd"], 2), ([[1, 2], [3]], 3)],
)
async def test_prompts_are_texts_or_token_ids(prompt: object, tokens: int) -> None:
    async with running() as [client]:
        answer = await client.complete(prompt, max_tokens=2, n=2)
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert answer["usage"]["prompt_tokens"] == tokens
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * prompts))
    assert answer["usage"]["completion_tokens"] == 4 * prompts


async def test_a_chat_counts_its_messages() -> None:
    messages = [
        {"role": "system", "content": "abcd"},
        {"role": "user", "content": [{"type": "text", "text": "abcdefgh"}]},
    ]
    async with running() as [client]:
        status, answer = await client.post("/v1/chat/completions", messages=messages, max_completion_tokens=3)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["prompt_tokens"] == 1 + 4 + 2 + 4


async def test_a_stream_sends_tokens_in_order_then_the_reason_then_the_usage() -> None:
    async with running() as [client]:
        whole = await client.complete("abcd", max_tokens=9)
        events = await client.stream(prompt="abcd", max_tokens=9, stream_options={"include_usage": True})
    *chunks, usage = events
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1


async def test_a_streamed_chat_opens_with_the_role_and_has_no_usage_unasked() -> None:
    async with running(speed=5.0) as [client]:
        events = await client.stream(
            "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], max_tokens=20
        )
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(event["object"] == "chat.completion.chunk" and len(event["choices"]) == 1 for event in events)
    text = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert token_count(text) == 20
    assert len(events) > 10  # token by token, not all at once


async def test_a_stream_of_several_choices_completes_each() -> None:
    async with running() as [client]:
        events = await client.stream(prompt="abcd", max_tokens=5, n=3)
    for index in range(3):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert token_count("".join(choice["text"] for choice in mine)) == 5
        assert mine[-1]["finish_reason"] == "length"


async def test_the_stream_interval_bundles_tokens() -> None:
    async with running(config(stream_interval=10), speed=5.0) as [client]:
        events = await client.stream(prompt="abcd", max_tokens=31)
    counts = [token_count(event["choices"][0]["text"]) for event in events]
    assert sum(counts) == 31
    assert all(count >= 10 for count in counts[1:-1])


async def test_drawn_lengths_end_answers_unless_the_client_forbids_it() -> None:
    drawn = config(output_length={"mean": 20, "p95": 40}, seed=7)
    async with running(drawn, drawn) as clients:
        answers = [[await client.complete(max_tokens=1000) for _ in range(8)] for client in clients]
        forced = await clients[0].complete(max_tokens=60, ignore_eos=True)
        longer = await clients[0].complete(max_tokens=200, min_tokens=150)
        cut = await clients[0].complete(max_tokens=1)
    lengths = [[answer["usage"]["completion_tokens"] for answer in each] for each in answers]
    assert lengths[0] == lengths[1]  # the seed decides
    assert len(set(lengths[0])) > 1
    assert {answer["choices"][0]["finish_reason"] for answer in answers[0]} == {"stop"}
    assert forced["usage"]["completion_tokens"] == 60
    assert forced["choices"][0]["finish_reason"] == "length"
    assert longer["usage"]["completion_tokens"] >= 150
    assert cut["choices"][0]["finish_reason"] == "length"


async def test_without_a_limit_completions_have_16_tokens_and_chats_end_by_themselves() -> None:
    async with running() as [client]:
        completion = await client.complete()
        _, chat = await client.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert completion["usage"]["completion_tokens"] == 16
    assert (chat["usage"]["completion_tokens"], chat["choices"][0]["finish_reason"]) == (256, "stop")


async def test_a_prompt_beyond_the_limit_is_refused_with_the_limit() -> None:
    async with running(config(max_model_length=1024)) as [client]:
        status, answer = await client.post("/v1/completions", prompt=[1] * 1020, max_tokens=5)
        fits, _ = await client.post("/v1/completions", prompt=[1] * 1020, max_tokens=4)
        full, _ = await client.post("/v1/completions", prompt=[1] * 1024)
    assert (status, fits, full) == (400, 200, 400)
    error = answer["error"]
    assert error["type"] == "BadRequestError"
    assert error["code"] == 400
    assert "maximum context length is 1024 tokens" in error["message"]
    assert "1020 input tokens" in error["message"]


async def test_an_unknown_model_is_not_found() -> None:
    async with running(config(served_model_names=("assistant", "assistant/chat"))) as [client]:
        status, answer = await client.post("/v1/completions", model=MODEL, prompt="a")
        aliased = await client.complete(model="assistant/chat")
        _, models = await client.get("/v1/models")
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (404, "NotFoundError", "model")
    assert MODEL in answer["error"]["message"]
    assert aliased["model"] == "assistant/chat"
    assert '"id":"assistant"' in models
    assert f'"root":"{MODEL}"' in models


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 1_000_000}, "n"),
        ({"prompt": ["a", "b"], "n": MAX_ANSWERS}, "n"),
        ({"prompt": ["a"] * (MAX_ANSWERS + 1)}, "prompt"),
        ({"prompt": "a", "max_tokens": 4, "min_tokens": 5}, "min_tokens"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_malformed_requests_name_the_field(body: dict, parameter: str) -> None:
    async with running() as [client]:
        status, answer = await client.post("/v1/completions", **body)
    assert (status, answer["error"]["param"]) == (400, parameter)


async def test_as_many_answers_as_are_allowed_are_given() -> None:
    async with running() as [client]:
        answer = await client.complete("a", n=MAX_ANSWERS, max_tokens=1)
    assert len(answer["choices"]) == MAX_ANSWERS


async def test_unknown_paths_and_methods_are_refused_in_json() -> None:
    async with running() as [client]:
        assert await client.post("/v1/embeddings", input="a") == (404, {"detail": "Not Found"})
        async with client.session.get(client.endpoint.url + "/v1/completions") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert await response.json() == {"detail": "Method Not Allowed"}


async def test_a_body_that_is_no_json_is_refused() -> None:
    async with running() as [client]:
        url = client.endpoint.url + "/v1/chat/completions"
        async with client.session.post(url, data=b"hello") as response:
            assert response.status == 400
            assert "JSON" in (await response.json())["error"]["message"]


async def test_a_client_that_goes_away_leaves_the_engine() -> None:
    async with running(speed=1.0) as [client]:
        waiting = asyncio.create_task(client.complete(max_tokens=20_000))
        await until_running(client, 1)
        waiting.cancel()
        metrics = await until_running(client, 0)
    assert metrics["request_success_total{abort}"] == 1
    assert metrics["e2e_request_latency_seconds_count"] == 0
