"""Generation over real sockets: every test runs over threads and over asyncio."""

import pytest

import elman
from tests.client.fake_models import LETTERS
from tests.client.fake_server import FakeServer


def test_greedy_takes_the_most_probable_symbol_each_time(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        assert "".join(stream.generate("a", length=5, temperature=0)) == "bcdef"


def test_what_is_generated_has_been_pushed(client: elman.Client, server: FakeServer) -> None:
    with client.stream("letters") as stream:
        first = "".join(stream.generate("xa", length=3, temperature=0))
        assert stream.position == 5
        second = "".join(stream.generate("xl", length=2, temperature=0))
        assert (first, second) == ("bcd", "mn")
        stream.close()
        assert next(stream, None) is None
    assert server.pushed() == "xabcdxlmn"


def test_a_symbol_is_pushed_before_it_is_given(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        symbols = stream.generate("a", length=5, temperature=0)
        assert next(symbols) == "b"
        symbols.close()  # type: ignore[attr-defined]
        assert stream.position == 2


def test_the_same_seed_gives_the_same_symbols(client: elman.Client) -> None:
    def generate(seed: int, top_k: int | None = None) -> str:
        with client.stream("letters") as stream:
            return "".join(stream.generate("a", length=40, seed=seed, top_k=top_k))

    assert generate(1) == generate(1)
    assert generate(1) != generate(2)
    assert generate(1, top_k=1) == (LETTERS[1:28] + LETTERS)[:40]


@pytest.mark.parametrize("choice", ["next", elman.Probabilities("next"), elman.Top("next", 29)])
def test_it_draws_the_same_whatever_the_form(
    client: elman.Client, choice: elman.OutputChoice
) -> None:
    with client.stream("letters", outputs=choice) as stream:
        greedy = "".join(stream.generate("a", length=8, temperature=0))
    assert greedy == "bcdefghi"


def test_a_token_model_generates_the_names_of_its_ids(client: elman.Client) -> None:
    with client.stream("tokens") as stream:
        assert list(stream.generate([3], length=2, temperature=0)) == ["token4", "token5"]


def test_nothing_is_generated_of_length_0(client: elman.Client) -> None:
    with client.stream("letters") as stream:
        assert list(stream.generate("abc", length=0)) == []
        assert stream.position == 3


@pytest.mark.parametrize(
    ("prime", "options", "message"),
    [
        ("", {}, "prime is empty"),
        ("B", {}, "'B'"),
        ("a", {"length": -1}, "length is -1; allowed are integers from 0 up"),
        ("a", {"length": 2.5}, r"length is 2\.5"),
        ("a", {"length": None}, "length is None"),
        ("a", {"temperature": -0.1}, "temperature is -0.1; allowed are finite numbers from 0 up"),
        ("a", {"temperature": float("nan")}, "temperature is nan"),
        ("a", {"temperature": float("inf")}, "temperature is inf"),
        ("a", {"temperature": "warm"}, "temperature is 'warm'"),
        ("a", {"top_k": 0}, "top_k is 0; allowed are integers from 1 up, or None for all"),
        ("a", {"top_k": 1.5}, r"top_k is 1\.5"),
        ("a", {"top_k": True}, "top_k is True"),
        ("a", {"seed": -1}, "seed is -1; allowed are integers from 0 up, or None"),
        ("a", {"seed": "x"}, "seed is 'x'"),
        ("a", {"output": "total"}, "'total' does not fit"),
        ("a", {"output": "wrong"}, "these are: next"),
    ],
)
def test_wrong_options_are_named(
    client: elman.Client, prime: str, options: dict[str, object], message: str
) -> None:
    with client.stream("letters") as stream:
        with pytest.raises(elman.InvalidRequest, match=message):
            stream.generate(prime, **{"length": 1, **options})  # type: ignore[arg-type]
        assert stream.position == 0


def test_a_model_without_such_an_output_does_not_generate(client: elman.Client) -> None:
    stream = client.stream("pairs")
    with pytest.raises(elman.InvalidRequest, match="these are: none"):
        stream.generate([[1, 2]], length=1)
