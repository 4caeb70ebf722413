"""Chat templates run sandboxed under the usual conventions."""

from __future__ import annotations

import pytest

from engine.spec.errors import CheckpointError, RequestError
from engine.text.template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hé"}]


def _render(source: str, **extra: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES, extra).text


def test_the_conventions() -> None:
    """Special tokens, tojson without escapes, loop controls, generation tags, trimmed blocks, extra variables."""
    source = (
        "{{ bos_token }}{% for m in messages %}\n{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}"
        "{% endfor %}{% if thinking %}T{% endif %}{% if strftime_now('%Y')|length == 4 %}Y{% endif %}"
    )
    assert _render(source, thinking=True) == '<s>{"role": "user", "content": "hé"}TY'


def test_the_generation_prompt_is_known() -> None:
    """Only what add_generation_prompt adds counts as the opening of the assistant's turn."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    assert ChatTemplate(source, {}).render([{"role": "user", "content": "x<think>"}]).generation_prompt == "<think>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_refusal_is_the_clients_error(source: str) -> None:
    """A template that raises, reaches out of the sandbox or fails gives a 400."""
    with pytest.raises(RequestError) as caught:
        _render(source)
    assert caught.value.status == 400


def test_a_broken_template_is_the_checkpoints_error() -> None:
    """A template that does not compile is found at start-up."""
    with pytest.raises(CheckpointError, match="chat template"):
        ChatTemplate("{% if %}", {})
