"""A look at the server before it is measured: its model, which options it takes, how it counts our text."""

from __future__ import annotations

import os
import random
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from dsctl.base.errors import PreflightError, UsageError
from dsctl.bench.answer import Answer
from dsctl.bench.lengths import Length
from dsctl.bench.loads import Level, Load
from dsctl.bench.plan import PATHS, Plan, Target, Workload
from dsctl.bench.wish import Wish, address
from dsctl.bench.workload import Request, Writer

if TYPE_CHECKING:
    from httpx import Client

LOOK_S = 10.0
TINY, SHORT, LONG = 10, 40, 140  # words of prompts; the difference of two is the cost of a word
OPTIONAL = ("takes_ignore_eos", "takes_usage", "takes_priority")  # given up one after the other


class Look:
    """One server being looked at; use as a context manager."""

    def __init__(self, wish: Wish, url: str) -> None:
        import httpx

        self._wish = wish
        self.url = address(url)
        key = _key(wish.api_key_env)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        verify: Any = True
        if wish.cacert is not None:
            import ssl

            try:
                verify = ssl.create_default_context(cafile=str(wish.cacert))
            except OSError as error:
                raise UsageError(f"--cacert {wish.cacert} cannot be read", why=str(error)) from error
        elif self.url.startswith("http://"):
            verify = False  # nothing to verify, and loading certificates takes its time
        self._client: Client = httpx.Client(headers=headers, verify=verify, trust_env=False)

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def target(self) -> Target:
        """The server as the workers need to know it. PreflightError when it does not serve."""
        wish = self._wish
        target = Target(
            url=self.url,
            model=wish.model or self._model(),
            endpoint=wish.endpoint,
            api_key_env=wish.api_key_env,
            cacert=str(wish.cacert.absolute()) if wish.cacert else None,
            version=self._version(),
        )
        if not wish.priority:
            target = msgspec.structs.replace(target, takes_priority=False)
        target, short = self._accepted(target)
        counts = {SHORT: short.usage.prompt_tokens if short.usage else None}
        for words in (LONG, TINY):  # a server with little room for each request refuses the long one
            status, answer, _ = self._ask(target, words)
            counts[words] = answer.usage.prompt_tokens if status == 200 and answer.usage else None
            less, more = counts[min(words, SHORT)], counts[max(words, SHORT)]
            if less and more and more > less:
                a_word = (more - less) / abs(words - SHORT)
                around = max(0.0, less - a_word * min(words, SHORT))
                told = {"tokens_per_word": round(a_word, 4), "tokens_around": round(around, 2)}
                target = msgspec.structs.replace(target, **told)
                break
        return msgspec.structs.replace(target, sends_done=short.done)

    def life(self) -> list[str]:
        """What changes when the server restarts: processes and counts it tells of; empty when it tells nothing."""
        reply = self._get("/server_info")
        if reply is not None and reply[0] == 200:
            told = _object(reply[1])
            return [f"{name}={told.get(name)}" for name in ("api_pid", "core_pids", "restarts")]
        reply = self._get("/metrics")
        lines = reply[1].splitlines() if reply is not None and reply[0] == 200 else []
        return [line for line in lines if line.startswith("process_start_time_seconds")]

    def _accepted(self, target: Target) -> tuple[Target, Answer]:
        """Without the options that the server refuses; the first answer that came whole."""
        tried = [target]
        wanted = [name for name in OPTIONAL if getattr(target, name)]
        tried += [msgspec.structs.replace(target, **{name: False}) for name in wanted]
        if len(wanted) > 1:
            tried.append(msgspec.structs.replace(target, **dict.fromkeys(wanted, False)))
        status, answer, said = 0, Answer(), ""
        for attempt in tried:
            status, answer, said = self._ask(attempt, SHORT)
            if status == 200:
                if not answer.chunks and not answer.usage:
                    raise PreflightError(
                        f"{self.url} answers without a token", why=answer.error or answer.malformed or said
                    )
                return attempt, answer
            if status not in (400, 422, 501):
                break
        raise self._refused(status, said)

    def _refused(self, status: int, said: str) -> PreflightError | UsageError:
        if status in (401, 403):
            hint = "--api-key-env NAME names the variable that holds the key"
            return UsageError(f"{self.url} wants a key ({status})", why=said, hint=hint)
        path = PATHS[self._wish.endpoint]
        return PreflightError(
            f"{self.url}{path} answers {status} to a small request", why=said, hint="try --endpoint, --model"
        )

    def _ask(self, target: Target, words: int) -> tuple[int, Answer, str]:
        """(status, answer, body's beginning) of a streamed request of so many words and 4 tokens."""
        import httpx

        writer = Writer(_small(target, self._wish))
        rng = random.Random(f"{self._wish.seed}/look/{words}")
        text = f"{rng.getrandbits(48):012x} {writer.words(words * target.tokens_per_word, rng)}"
        request = Request(
            0, 0, ({"role": "user", "content": text},), None, 4, None, 0 if target.takes_priority else None, None
        )
        answer, said = Answer(), b""
        try:
            with self._client.stream(
                "POST", self.url + writer.path, content=writer.body(request), timeout=httpx.Timeout(LOOK_S, read=600.0),
                headers={"content-type": "application/json"},
            ) as reply:  # fmt: skip
                for data in reply.iter_raw():
                    said = (said + data)[:500]
                    answer.feed(data, perf_counter())
                answer.end(perf_counter())
        except httpx.HTTPError as error:
            raise PreflightError(f"{self.url} does not answer", why=f"{type(error).__name__}: {error}") from error
        return reply.status_code, answer, said.decode("utf-8", "replace")

    def _model(self) -> str:
        reply = self._get("/v1/models")
        if reply is None:
            raise PreflightError(
                f"{self.url} does not answer", hint="is it running? dsctl status shows what is deployed"
            )
        try:
            return str(_object(reply[1])["data"][0]["id"])
        except (LookupError, TypeError) as error:
            if reply[0] in (401, 403):
                raise self._refused(reply[0], reply[1][:300]) from error
            raise PreflightError(f"{self.url} lists no model ({reply[0]})", hint="--model NAME") from error

    def _version(self) -> str:
        reply = self._get("/version")
        told = _object(reply[1]) if reply is not None and reply[0] == 200 else {}
        return str(told.get("version", ""))

    def metrics(self) -> str:
        """The server's /metrics; empty when it has none."""
        reply = self._get("/metrics")
        return reply[1] if reply is not None and reply[0] == 200 else ""

    def _get(self, path: str) -> tuple[int, str] | None:
        import httpx

        try:
            reply = self._client.get(self.url + path, timeout=LOOK_S)
        except httpx.HTTPError:
            return None
        return reply.status_code, reply.text


def _small(target: Target, wish: Wish) -> Plan:
    work = Workload(seed=wish.seed, ignore_eos=wish.ignore_eos, isl=Length(), osl=Length())
    return Plan(target=target, load=Load(kind="closed", levels=[Level(1, 1)]), workload=work)


def _key(name: str | None) -> str:
    """The key in the variable `name`; UsageError when it was named and is not there."""
    if name is None:
        return ""
    if not (key := os.environ.get(name, "")):
        raise UsageError(f"--api-key-env {name}: there is no such variable in the environment, or it is empty")
    return key


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}
