"""Sums of two numbers below 100, worked out digit by digit in the thought; a tenth of the pairs is never trained."""

from __future__ import annotations

import random
import zlib

FRAMES = """
What is {a} + {b}?
What's {a} + {b}?
what is {a}+{b}
{a} + {b}
{a}+{b}
{a} + {b} =
{a}+{b}=?
{a} + {b} = ?
Add {a} and {b}.
Add {b} to {a}.
Please add {a} and {b}.
Calculate {a} + {b}.
Compute {a} + {b}.
Compute the sum of {a} and {b}.
What is the sum of {a} and {b}?
The sum of {a} and {b}?
Sum of {a} and {b}
What is {a} plus {b}?
What's {a} plus {b}?
{a} plus {b}
{a} plus {b}?
How much is {a} + {b}?
How much is {a} plus {b}?
How much do {a} and {b} make?
How much does {a} plus {b} make?
What do you get when you add {a} and {b}?
What do {a} and {b} add up to?
Tell me {a} + {b}.
Tell me the sum of {a} and {b}.
Can you add {a} and {b}?
Can you tell me what {a} + {b} is?
Could you compute {a} + {b} for me?
I need the sum of {a} and {b}.
Solve {a} + {b}.
Solve: {a} + {b} = ?
Evaluate {a} + {b}
Find {a} + {b}.
Work out {a} + {b}.
Give me the result of {a} + {b}.
What does {a} + {b} equal?
{a} + {b} equals what?
Sum up {a} and {b}.
If I have {a} apples and get {b} more, how many do I have?
I have {a} files and add {b}. How many files are there?
There are {a} requests and {b} more arrive. How many in total?
First number {a}, second number {b}: what is the total?
What is the total of {a} and {b}?
Total of {a} and {b}?
Q: {a} + {b}
Do the addition {a} + {b}.
Hi, what is {a} + {b}?
Hello! What is {a} + {b}?
Please tell me what {a} + {b} is. Thanks!
Quick: {a} + {b}?
""".strip().splitlines()
HELD_OUT_FRAMES = (
    "Could you please tell me how much {a} + {b} is?",
    "Add these two numbers: {a} and {b}.",
    "What number is {a} plus {b}?",
    "I would like to know the result of {a} + {b}.",
)


def held_out(a: int, b: int) -> bool:
    """True for the tenth of the unordered pairs that training never sees, in either order."""
    low, high = sorted((a, b))
    return zlib.crc32(f"{low}+{high}".encode()) % 10 == 0


def think(a: int, b: int) -> str:
    """The written method: units, carry, tens."""
    units = a % 10 + b % 10
    carry = units // 10
    tens = a // 10 + b // 10 + carry
    first = f"{a}+{b}: {a % 10}+{b % 10}={units}"
    if carry:
        return f"{first}, carry 1; {a // 10}+{b // 10}+1={tens}"
    return f"{first}; {a // 10}+{b // 10}={tens}"


def sample(rng: random.Random) -> tuple[str, str, str]:
    """A question, its thought and its answer, never of a held-out pair; mostly two-digit operands."""
    low = 0 if rng.random() < 0.15 else 10
    while True:
        a, b = rng.randint(low, 99), rng.randint(low, 99)
        if not held_out(a, b):
            break
    frame = FRAMES[0] if rng.random() < 0.15 else rng.choice(FRAMES)
    question = frame.format(a=a, b=b)
    if rng.random() < 0.15:
        question = question.lower()
    return question, think(a, b), str(a + b)


def test_pairs() -> list[tuple[int, int]]:
    """Every held-out ordered pair of two-digit numbers."""
    return [(a, b) for a in range(10, 100) for b in range(10, 100) if held_out(a, b)]
