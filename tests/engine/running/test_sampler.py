"""A token is chosen from its own row, request and position, as the words of the API say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from engine.kernels.cpu.library import Draw
from engine.running import noise
from engine.running.kept import kept, nucleus, ranked
from engine.running.sampler import Contenders, Question, adjusted, top_of
from engine.running.sampler import choose as choose_all
from engine.wire.messages import Sampling
from tests.engine.compiled import BUILDS, library


def _row(seed: int = 0, size: int = 1000, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def choose(row: np.ndarray, sampling: Sampling, prompt: list[int], output: list[int]) -> int:
    return choose_all([Question(row, sampling, prompt, output)])[0]


def _sampling(**more: Any) -> Sampling:
    return Sampling(**{"seed": 5, "max_tokens": 100, **more})


def test_greedy_takes_the_largest_and_the_lowest_of_equals() -> None:
    """Temperature 0 is argmax; ties go to the lowest id."""
    row = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    assert choose(row, _sampling(temperature=0.0), [0], []) == 1


@pytest.mark.parametrize("scale", [0.0, 0.1, 2.0, 30.0])
def test_sparing_hopeless_ids_changes_nothing(scale: float) -> None:
    """Noise for the contenders only gives the same winner as noise for every id."""
    for i in range(20):
        row = _row(i, 777, scale)
        every = row.astype(np.float64) / 0.8 + noise.gumbel([(5, 1, i)], [np.arange(777)], 777)[0]
        assert choose(row, _sampling(temperature=0.8, choice=1), [0], [0] * i) == int(np.argmax(every))


def test_answers_do_not_depend_on_other_questions() -> None:
    """Asked together in any order, each question has the answer it has alone."""
    kinds = [{}, {"temperature": 0.0}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}, {"frequency_penalty": 1.0}]
    questions = [Question(_row(i, 300), _sampling(**kinds[i % 6], seed=i // 3), [0], [1] * i) for i in range(24)]
    alone = [choose_all([question])[0] for question in questions]
    assert choose_all(questions) == alone
    assert choose_all(questions[::-1]) == alone[::-1]
    assert choose_all([]) == []


def test_frequencies_follow_the_probabilities() -> None:
    """Over many positions each id comes up as often as its softmax says."""
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))
    found = Counter(choose(row, _sampling(), [0], [0] * i) for i in range(4000))
    assert [found[i] / 4000 for i in range(4)] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.03)


def test_ranking_breaks_ties_by_id_at_every_cut() -> None:
    """The k first of a row with many equal values are the k first of the whole ranking."""
    row = np.array([2.0, 1.0, 2.0, 3.0, 1.0, 2.0, 1.0])
    whole = [3, 0, 2, 5, 1, 4, 6]
    for count in range(1, 8):
        assert ranked(row, count).tolist() == whole[:count]


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
@pytest.mark.parametrize("top_k", [0, 1, 40, 700])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.9999])
def test_the_nucleus_is_the_shortest_that_reaches_top_p(scale: float, top_k: int, top_p: float) -> None:
    """Against the plain definition over a full sort; at least one id always stays."""
    row = _row(1, 700, scale).astype(np.float64)
    order = np.argsort(-row, kind="stable")[: top_k or None]
    share = np.exp(row[order] - row.max())
    length = int(np.searchsorted(np.cumsum(share / share.sum()), top_p)) + 1
    found = nucleus(row, top_k, top_p)
    assert found.tolist() == order[:length].tolist()[: found.size]
    assert abs(found.size - min(length, order.size)) <= 1  # sums in another order may differ in the last bit


def test_min_p_is_relative_to_the_most_likely() -> None:
    """min_p keeps ids at least that fraction as likely as the best; with top_k both must hold."""
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    assert kept(row, 0, 1.0, 0.45).tolist() == [0, 1, 2]
    assert kept(row, 2, 1.0, 0.45).tolist() == [0, 1]
    assert kept(row, 0, 1.0, 1.0).tolist() == [0]
    assert kept(row, 0, 1.0, 0.0) is None


@pytest.mark.parametrize("filters", [{"top_k": 3}, {"top_p": 0.2}, {"min_p": 0.5}, {"top_k": 1}])
def test_only_kept_ids_are_chosen(filters: dict[str, Any]) -> None:
    """Whatever the noise, the token comes from the kept set."""
    row = _row(2, 50, 1.0)
    allowed = set(kept(row.astype(np.float64), **{"top_k": 0, "top_p": 1.0, "min_p": 0.0, **filters}).tolist())
    found = {choose(row, _sampling(**filters), [0], [0] * i) for i in range(300)}
    assert found <= allowed
    assert len(found) > 1 or len(allowed) == 1


def test_penalties_count_what_they_should() -> None:
    """Repetition looks at prompt and output and towards zero; frequency and presence at the output alone."""
    row = np.array([2.0, -2.0, 2.0, 2.0, 0.5], dtype=np.float32)
    prompt, output = [0, 1], [2, 2]
    assert adjusted(row, _sampling(repetition_penalty=2.0), prompt, output).tolist() == [1.0, -4.0, 1.0, 2.0, 0.5]
    found = adjusted(row, _sampling(frequency_penalty=0.5, presence_penalty=0.25), prompt, output)
    assert found.tolist() == [2.0, -2.0, 0.75, 2.0, 0.5]
    assert adjusted(row, _sampling(logit_bias={4: 100.0}), prompt, output).tolist() == [2.0, -2.0, 2.0, 2.0, 100.5]
    assert row.tolist() == [2.0, -2.0, 2.0, 2.0, 0.5]


def test_min_tokens_bans_stopping_before_its_time() -> None:
    """Stop ids are impossible until min_tokens ids are out, and possible then."""
    row = np.array([0.0, 9.0, 1.0], dtype=np.float32)
    sampling = _sampling(temperature=0.0, min_tokens=2, stop_token_ids=(1, 77))
    assert [choose(row, sampling, [0], [0] * i) for i in range(4)] == [2, 2, 1, 1]


def test_logprobs_are_of_the_raw_logits() -> None:
    """Natural log of the softmax of the untouched row, with rank and the k most likely; ids are plain integers."""
    row = _row(3, 100)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    top = top_of(row, 17, 4)
    assert top.logprob == pytest.approx(exact[17], abs=1e-12)
    assert top.rank == 1 + int((row > row[17]).sum())
    assert top.ids == np.argsort(-row)[:4].tolist()
    assert top.logprobs == pytest.approx(exact[top.ids].tolist(), abs=1e-12)
    assert top_of(row, 17, 0).ids == []
    assert np.exp(exact).sum() == pytest.approx(1.0)


@pytest.fixture(scope="module", params=BUILDS)
def search(request: pytest.FixtureRequest) -> Contenders:
    """The compiled search of each build in turn."""
    return library(request.config, request.param).contenders


@pytest.mark.parametrize("scale", [0.0, 0.1, 2.0, 30.0])
@pytest.mark.parametrize("size", [1, 3, 63, 64, 65, 1000, 32003])
def test_the_compiled_search_changes_no_answer(search: Contenders, size: int, scale: float) -> None:
    """Flat, equal and steep rows of any length, any address and temperature: the token chosen without it."""
    for i in range(6):
        more = {"seed": 2**64 - 1 - i * 2**31, "choice": i, "temperature": (1e-6, 0.3, 1.0, 50.0)[i % 4]}
        question = Question(_row(i, size, scale), _sampling(**more), [0], [0] * i)
        assert choose_all([question], search) == choose_all([question])


def test_the_compiled_search_among_all_kinds_of_questions(search: Contenders) -> None:
    """Penalties, filters and temperature 0 beside plain draws, at once: the answers without it."""
    kinds = [{}, {"temperature": 0.0}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}, {"frequency_penalty": 1.0}]
    questions = [Question(_row(i, 300), _sampling(**kinds[i % 6], seed=i // 3), [0], [1] * i) for i in range(24)]
    assert choose_all(questions, search) == choose_all(questions)
    assert choose_all([], search) == []


def test_ties_are_left_to_the_plain_way(search: Contenders) -> None:
    """Equal logits differ by their noise; where that drowns and all sums are equal, the plain way answers."""
    row = np.zeros(50, dtype=np.float32)
    (ids,) = search([Draw(row, 1.0, (5, 0, 0))])
    assert ids is not None
    right = int(np.argmax(noise.gumbel([(5, 0, 0)], [np.arange(50)], 50)[0]))
    assert right in ids.tolist()
    (many,) = search([Draw(np.full(200, 1e30, dtype=np.float32), 1.0, (5, 0, 0))])
    assert many is None  # the noise drowns: all 200 are equal, more than are told
    question = Question(np.full(200, 1e30, dtype=np.float32), _sampling(), [0], [])
    assert choose_all([question], search) == choose_all([question])
