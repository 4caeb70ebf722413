"""Whether the bundled model may be served quantised: `python -m training.gates [DIR] [--policy int8 …]`.

Every held-out token is given to the 16-bit model and to each quantised one: text with the prompt's arithmetic, answers
with that of generated tokens. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from engine.calibrate.measure import Difference, Sample, compare
from engine.modeling import loader
from engine.spec.config import EngineConfig
from engine.spec.model import read_spec
from engine.spec.policy import resolve
from training import tokenizer
from training.evaluate import addition_cases, phrasing_cases, rows

BUNDLED = Path(__file__).parents[1] / "models" / "dsctl-tiny"
WINDOW = 256
ENOUGH = 50_000  # tokens


@dataclass(frozen=True, slots=True)
class Gate:
    """Bounds that a quantised model must keep."""

    ratio: float = 0.0
    exact: float = 0.0
    kl: float = 1.0
    top1: float = 0.0
    top1_clear: float = 0.0

    def missed(self, found: Difference) -> list[str]:
        """What is out of bounds, in words; empty when nothing is."""
        lower = (
            ("exp(NLL16 − NLLq)", found.ratio, self.ratio),
            ("exact-match ratio", found.exact_ratio, self.exact),
            ("top-1 agreement", found.top1, self.top1),
            ("top-1 agreement where the choice is clear", found.top1_clear, self.top1_clear),
        )
        words = [f"{what} is {value:.5f}, at least {bound} is needed" for what, value, bound in lower if value < bound]
        return words + ([f"mean KL is {found.kl:.2e}, below {self.kl} is needed"] if found.kl >= self.kl else [])


EIGHT = Gate(ratio=0.997, exact=0.997, kl=1e-3, top1=0.99, top1_clear=0.997)
FOUR = Gate(kl=2e-2)


def samples(tok: Tokenizer, limit: int | None = None) -> list[Sample]:
    """Held-out text in windows that start with BOS, and held-out answers; `limit`: so many of each kind."""
    bos = tokenizer.identity(tok, tokenizer.BOS)
    found: list[Sample] = []
    for encoding in tok.encode_batch([row["text"] for row in rows("text.jsonl")][:limit]):
        for at in range(0, len(encoding.ids), WINDOW - 1):
            window = (bos, *encoding.ids[at : at + WINDOW - 1])
            if len(window) > 1:
                found.append(Sample(window))
    cases = addition_cases()[:limit] + phrasing_cases("test")[:limit] + phrasing_cases("dev")[:limit]
    for case in cases:
        given = tok.encode(tokenizer.prompt(case.question)).ids
        wanted = tok.encode(tokenizer.completion(case.thought, case.answer)).ids
        found.append(Sample((*given, *wanted), len(given), generated=True))
    return found


def measure(model: Path, policies: list[str], kernels: str, limit: int | None = None) -> dict[str, Difference]:
    """Each policy (a name, `auto`, or a file) against 16 bits, on the same kernels."""
    tok = Tokenizer.from_file(str(model / "tokenizer.json"))
    config = EngineConfig(str(model), kernels=kernels, quantization="none")  # type: ignore[arg-type]
    changed = {
        name: loader.load(EngineConfig(str(model), kernels=kernels, quantization=name))  # type: ignore[arg-type]
        for name in policies
    }
    return compare(loader.load(config), changed, samples(tok, limit))


def gate_of(policy: str, model: Path) -> Gate:
    """The gate of a policy: four-bit parts have the wider one."""
    return FOUR if "int4" in json.dumps(resolve(policy, model, read_spec(model)).document()) else EIGHT


def table(found: Mapping[str, Difference]) -> str:
    """The measures as people read them."""
    lines = [f"{'policy':28s} {'tokens':>7s} {'exp(ΔNLL)':>18s} {'exact':>11s} {'ratio':>7s} {'mean KL':>9s} {'99 % KL':>9s} {'top-1':>8s} {'clear':>8s}"]  # fmt: skip # noqa: E501
    lines += [
        f"{name:28s} {d.tokens:7d} {d.ratio:8.5f} ± {d.ratio_error:.5f} {d.exact_changed:5d}/{d.exact_base:<5d} "
        f"{d.exact_ratio:7.4f} {d.kl:9.2e} {d.kl_99:9.2e} {d.top1:8.4%} {d.top1_clear:8.4%}"
        for name, d in found.items()
    ]
    return "\n".join(lines)


def main() -> int:
    """Print the table and the gates that are missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--policy", action="append", default=[], help="int8, int4, auto or a policy file; may repeat")
    parser.add_argument("--kernels", default="cpu", choices=("cpu", "reference"))
    parser.add_argument("--limit", type=int, help="texts and answers of each kind; default: all")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    policies = args.policy or ["auto", "int8", "int4"]
    found = measure(args.folder, policies, args.kernels, args.limit)
    if args.json:
        print(json.dumps({name: d.document() for name, d in found.items()}, indent=2))
    else:
        print(table(found))
    missed = [f"{name}: {word}" for name, d in found.items() for word in gate_of(name, args.folder).missed(d)]
    if args.limit is None and (few := [name for name, d in found.items() if d.tokens < ENOUGH]):
        missed.append(f"only {found[few[0]].tokens} tokens, {ENOUGH} are needed")
    print("\n".join(missed) or "all gates hold")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
