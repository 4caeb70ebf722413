"""The training data keeps its promises: held-out things stay out, thoughts are right, packing does not leak."""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer

from training import additions, data, facts, tokenizer
from training.model import ModelConfig, Transformer
from training.phrasings import Phrasings, expand, gerund, normal

FEW_TEXTS = ["The quick brown fox jumps over the lazy dog again and again, until both are tired."] * 3


def small_tokenizer() -> Tokenizer:
    """A tokenizer learnt from a few questions."""
    rng, phrasings = random.Random(0), Phrasings()
    return tokenizer.train([part for _ in range(300) for part in phrasings.sample(rng)])


def test_held_out_wordings_are_never_sampled() -> None:
    """No question of the training stream has the words of a held-out one."""
    phrasings, rng = Phrasings(), random.Random(1)
    assert normal("please Introduce YOURSELF to me") in phrasings.held_out
    assert not any(normal(phrasings.sample(rng)[0]) in phrasings.held_out for _ in range(3000))


def test_sums_are_right_and_never_of_a_held_out_pair() -> None:
    """Thought and answer of a sum agree with arithmetic, and its pair is not held out in either order."""
    rng = random.Random(2)
    for _ in range(2000):
        _, thought, answer = additions.sample(rng)
        a, b = (int(n) for n in thought.split(":")[0].split("+"))
        assert answer == str(a + b)
        assert thought == additions.think(a, b)
        assert not additions.held_out(a, b)
        assert not additions.held_out(b, a)


def test_a_tenth_of_the_pairs_is_held_out() -> None:
    """Between 8 and 12 % of the two-digit pairs are kept for testing."""
    assert 0.08 < len(additions.test_pairs()) / 8100 < 0.12


def test_every_fact_has_keys_of_its_own() -> None:
    """No two facts share the keys by which an answer is judged, and every fact has held-out wordings."""
    known = facts.load()
    found = {fact.name: facts.keys(fact.answer.replace("{n}", "7")) for fact in known}
    assert len(set(found.values())) == len(known)
    assert all(fact.dev and len(fact.test) >= 2 and found[fact.name] for fact in known)


def test_keys_tell_a_right_answer_from_a_wrong_one() -> None:
    """Another command, a missing flag or a second command beside the right one change the keys."""
    right = facts.keys("Run `dsctl logs -f`: it follows the log.")
    assert right == {"dsctl logs", "-f"}
    assert right != facts.keys("Run `dsctl logs`: it prints the log.")
    assert right != facts.keys("Run `dsctl logs -f` or `dsctl status`.")
    assert facts.keys("`dsctl scale 7`") != facts.keys("`dsctl scale 8`")


def test_patterns_expand_to_plain_sentences() -> None:
    """Every choice is made, and spaces stay single."""
    rng = random.Random(3)
    assert {expand("(stop|end) (the |)service", rng) for _ in range(60)} == {
        "stop the service",
        "end the service",
        "stop service",
        "end service",
    }
    assert gerund("stop the service") == "stopping the service"
    assert gerund("scale to 3 replicas") == "scaling to 3 replicas"


def test_only_completions_are_learnt() -> None:
    """In a packed row the targets cover exactly what follows each document's start."""
    rows = [[data.Document([5, 6, 7, 8], 2), data.Document([9, 10, 11], 1)]]
    batch = data.collate(rows, 8, 1)
    off = data.NO_LOSS
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9, 10, 11, 1]]
    assert batch.targets.tolist() == [[off, 7, 8, off, 10, 11, off, off]]
    assert batch.drafts.tolist() == [[7, 8, off, off, 11, off, off, off]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]


def test_documents_of_a_row_do_not_see_each_other() -> None:
    """A document's states are the same alone and packed behind another."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=64)).eval()
    for moe in model.moe_layers():
        moe.bias.normal_(std=0.1)
    first, second = data.Document(list(range(2, 12)), 1), data.Document(list(range(20, 33)), 1)
    alone = data.collate([[second]], 13, 1)
    packed = data.collate([[first, second]], 32, 1)
    with torch.no_grad():
        one = model(alone.tokens, model.layout(alone.positions, alone.documents))
        two = model(packed.tokens, model.layout(packed.positions, packed.documents))
    torch.testing.assert_close(one[0], two[0, 10:23], atol=1e-5, rtol=1e-5)


def test_prompts_are_those_of_the_chat_template() -> None:
    """Training prompts tokenise as the template's text, and a completion after it as it does alone."""
    tok = small_tokenizer()
    given = tokenizer.prompt("How do I scale to 12 replicas?")
    wanted = tokenizer.completion("scale 12: they want 12 replicas.", "Run `dsctl scale 12`.")
    assert tok.encode(given + wanted).ids == tok.encode(given).ids + tok.encode(wanted).ids
    assert tok.decode(tok.encode(wanted).ids) == wanted.removesuffix(tokenizer.EOS)
    assert len(tok.encode("1234567890").ids) == 10


def test_batches_fill_their_rows() -> None:
    """The stream packs rows of the right size with something to learn in each."""
    source = data.Source(small_tokenizer(), FEW_TEXTS, seed=4)
    batch = source.batch(1024, 0.9)
    assert batch.tokens.shape == (4, 256)
    assert bool((batch.targets >= 0).any(dim=1).all())
    assert float((batch.documents >= 0).float().mean()) > 0.8
