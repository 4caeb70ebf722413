"""The official OpenAI client is served as it expects, by the real core."""

from __future__ import annotations

import openai
import pytest

from tests.engine.checkpoints import EOS
from tests.engine.server.programs import Server

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(real: Server) -> openai.OpenAI:
    """The client."""
    return real.client()


def test_models(client: openai.OpenAI, real: Server) -> None:
    """The one model is listed under the name of its directory."""
    assert [model.id for model in client.models.list().data] == ["tiny-v3"] == [real.model]


def test_chat_stream_equals_whole(client: openai.OpenAI) -> None:
    """Greedy chat: the stream joined is the whole answer, with one role, one finish_reason and one usage."""
    options = {"model": "tiny-v3", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].delta.role for c in chunks if c.choices and c.choices[0].delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [24]
    assert len({c.id for c in chunks}) == len({c.created for c in chunks}) == 1
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24


def test_choices_and_seeds(client: openai.OpenAI) -> None:
    """n choices differ from each other; the same seed gives the same choices, in a stream too."""
    options = {"model": "tiny-v3", "prompt": "abc", "max_tokens": 12, "n": 3, "seed": 7}
    options["extra_body"] = {"ignore_eos": True}
    first = client.completions.create(**options)
    again = client.completions.create(**options)
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.completions.create(**options, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts
    assert first.usage.completion_tokens == 36


def test_chat_logprobs(client: openai.OpenAI) -> None:
    """Every token has its log-probability and the asked number of alternatives, the most likely first."""
    answer = client.chat.completions.create(
        model="tiny-v3", messages=MESSAGES, max_tokens=5, temperature=0, logprobs=True, top_logprobs=4
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for entry in content:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert entry.logprob == pytest.approx(values[0])


def test_completion_logprobs_and_ids(real: Server) -> None:
    """logprobs, token_ids and prompt_token_ids line up, in a stream as in one piece."""
    body = {"prompt": [1, 2, 3], "max_tokens": 9, "temperature": 0, "logprobs": 3, "return_token_ids": True}
    whole = real.complete(**body)["choices"][0]
    assert whole["prompt_token_ids"] == [1, 2, 3]
    assert len(whole["token_ids"]) == len(whole["logprobs"]["tokens"]) == len(whole["logprobs"]["text_offset"]) == 9
    ids: list[int] = []
    values: list[float] = []
    for kind, chunk in real.events("/v1/completions", {**body, "stream": True}):
        if kind == "data":
            choice = chunk["choices"][0]
            ids += choice["token_ids"]
            values += (choice["logprobs"] or {}).get("token_logprobs", [])
    assert ids == whole["token_ids"]
    assert values == whole["logprobs"]["token_logprobs"]


def test_echo_scores_the_prompt(real: Server) -> None:
    """echo with logprobs gives the prompt's own log-probabilities, the first one null; max_tokens 0 adds nothing."""
    scored = real.complete(prompt=[5, 6, 7, 8], max_tokens=0, echo=True, logprobs=2)
    choice = scored["choices"][0]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert len(choice["logprobs"]["token_logprobs"]) == 4
    assert scored["usage"]["completion_tokens"] == 0
    shown = real.complete(prompt=[5, 6, 7, 8], max_tokens=1, prompt_logprobs=2)["choices"][0]["prompt_logprobs"]
    assert [entry and entry[str(i)]["logprob"] for entry, i in zip(shown, [5, 6, 7, 8], strict=True)] == choice[
        "logprobs"
    ]["token_logprobs"]


def test_prompts_of_every_kind(real: Server) -> None:
    """Text, list of texts, ids and list of ids; each prompt of a list is answered as if it came alone."""
    one = real.complete(prompt="ab", max_tokens=6, temperature=0)["choices"][0]["text"]
    two = real.complete(prompt=[99, 100], max_tokens=6, temperature=0)["choices"][0]["text"]
    both = real.complete(prompt=["ab", "cd"], max_tokens=6, temperature=0)["choices"]
    ids = real.complete(prompt=[[99, 100], [1]], max_tokens=6, temperature=0)["choices"]
    assert [choice["index"] for choice in both] == [0, 1]
    assert both[0]["text"] == one
    assert ids[0]["text"] == two


def test_stop_token_and_biases(real: Server) -> None:
    """A stop token ends the answer without being shown; a bias forces it; ignore_eos goes on."""
    forced = real.complete(prompt="x", max_tokens=5, temperature=0, logit_bias={str(EOS): 100}, return_token_ids=True)
    assert forced["choices"][0]["finish_reason"] == "stop"
    assert forced["choices"][0]["text"] == ""
    assert forced["choices"][0]["token_ids"] == [EOS]
    through = real.complete(prompt="x", max_tokens=5, temperature=0, logit_bias={str(EOS): 100}, ignore_eos=True)
    assert through["usage"]["completion_tokens"] == 5
    delayed = real.complete(prompt="x", max_tokens=5, temperature=0, logit_bias={str(EOS): 100}, min_tokens=3)
    assert delayed["usage"]["completion_tokens"] == 4


def test_errors_reach_the_client(client: openai.OpenAI) -> None:
    """Errors have the client's own classes, a code and numbers."""
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="512") as long:
        client.completions.create(model="tiny-v3", prompt="x" * 600)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model="tiny-v3", messages=MESSAGES, tools=[{"type": "function"}])
    assert (tools.value.code, tools.value.param) == ("unsupported_parameter", "tools")


def test_prefix_hits_are_reported(real: Server) -> None:
    """The second request with the same long prompt reports cached tokens and says the same."""
    prompt = list(range(1, 100))
    cold = real.complete(prompt=prompt, max_tokens=8, temperature=0)
    warm = real.complete(prompt=prompt, max_tokens=8, temperature=0)
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert warm["choices"][0]["text"] == cold["choices"][0]["text"]
