"""From a checked request to token ids: chat template and tokenizer, off the event loop when the text is long."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from engine.server.checkpoint import TextSide
from engine.server.query import Query, refuse, too_long
from engine.spec.errors import RequestError
from engine.text.reasoning import starts_in_reasoning

_INLINE_CHARACTERS = 4096  # shorter texts are tokenised faster than a thread is woken


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, ready to submit."""

    ids: list[int]
    text: str | None  # None when the client gave ids
    inside: bool = False  # the answer starts in its reasoning


class PromptMaker:
    """Makes prompts for one model; two threads are enough, since the tokenizer is far faster than the model."""

    def __init__(self, side: TextSide) -> None:
        self._side = side
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="tokenize")

    async def make(self, query: Query, max_model_len: int) -> list[Prompt]:
        """Prompts of a request. Raises RequestError when one is empty or does not fit the context."""
        if query.route == "completions" or query.raw:
            prompts = [await self._plain(prompt, max_model_len) for prompt in query.prompts]
        else:
            prompts = [await self._chat(query, max_model_len)]
        for prompt in prompts:
            if not prompt.ids:
                raise refuse("text" if query.route == "inference" else "prompt", "the prompt has no tokens")
            if len(prompt.ids) + (query.max_tokens or 1) > max_model_len:
                raise too_long(len(prompt.ids), query.max_tokens or 0, max_model_len)
        return prompts

    async def encode(self, text: str, max_model_len: int, *, special: bool) -> list[int]:
        """Token ids of a text. A text that cannot fit the context is refused before it is tokenised."""
        if len(text) > max_model_len * self._side.tokenizer.longest_token:
            raise too_long(len(text) // self._side.tokenizer.longest_token, 0, max_model_len)
        if len(text) <= _INLINE_CHARACTERS:
            return self._side.tokenizer.encode(text, special=special)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: self._side.tokenizer.encode(text, special=special))

    async def _plain(self, prompt: str | list[int], max_model_len: int) -> Prompt:
        if isinstance(prompt, str):
            return Prompt(await self.encode(prompt, max_model_len, special=True), prompt)
        return Prompt(prompt, None)

    async def _chat(self, query: Query, max_model_len: int) -> Prompt:
        template = self._side.template
        if template is None:
            instead = 'set "raw": true' if query.route == "inference" else "use /v1/completions"
            raise RequestError(f"this model has no chat template; {instead}", code="no_chat_template")
        messages = query.messages or [{"role": "user", "content": query.prompts[0]}]
        rendered = template.render(messages, query.template_extra)
        ids = await self.encode(rendered.text, max_model_len, special=False)
        inside = self._side.reasons and starts_in_reasoning(rendered.generation_prompt)
        return Prompt(ids, rendered.text, inside)
