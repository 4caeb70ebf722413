"""`dsctl chat`: ask the deployed model something."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config

Question = Annotated[str | None, typer.Argument(metavar="QUESTION", help="The question; default: read from stdin.")]
Url = Annotated[str | None, typer.Option("--url", help="Another server's address; default: the deployed front.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0, max=2, help="0: always the likeliest word.")]


def chat(
    question: Question = None, url: Url = None, max_tokens: MaxTokens = None, temperature: Temperature = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Ask the deployed model.

    The answer streams to stdout, the reasoning before it to stderr. $DSCTL_API_KEY is sent where a key is asked for.
    """
    from dsctl.cli import show
    from dsctl.flows import chat as flow
    from dsctl.flows.project import open_project

    asked = show.question(question)
    project = open_project(config)
    with show.stopping_quietly():
        show.conversation(flow.chat(project, asked, url=url, max_tokens=max_tokens, temperature=temperature))
