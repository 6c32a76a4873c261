"""Whatever owners do, and whenever: one of them has the key, and what it saved is what is there."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elman_server.durable.store.interface import Claim, Held, Renewal, StateStore
from tests.server.durable.store.redisserver import RedisServer
from tests.server.durable.store.worlds import FileWorld, RedisWorld, World

OWNERS = "abc"
TTL = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`which`: of the claims that the owner was ever given, the newest first. `span`: of a lease or
    a wait, in units of a world's own."""

    what: str
    owner: str
    which: int
    span: int


def steps(most: int) -> st.SearchStrategy[list[Step]]:
    kinds = ("claim", "claim", "renew", "save", "save", "release", "wait")
    step = st.builds(
        Step,
        what=st.sampled_from(kinds),
        owner=st.sampled_from(OWNERS),
        which=st.sampled_from((0, 0, 0, 1, 2)),
        span=st.integers(1, 8),
    )
    return st.lists(step, max_size=most)


@dataclass
class Referee:
    """Follows the one key from outside, by when each call began and ended."""

    slack: float
    """Seconds by which the store's clock and the referee's may differ over a scenario."""
    current: Claim | None = None
    highest: int = 0
    checkpoint: bytes | None = None
    wanted: bool = False
    runs_until: float = 0.0
    """The lease does not end before that..."""
    ended_by: float = 0.0
    """...and has ended then."""
    saved: int = 0

    def claimed(self, owner: str, found: Claim | Held, began: float, ended: float) -> None:
        another = self.current is not None and self.current.owner != owner
        if isinstance(found, Held):
            assert another, "held off by nobody"
            assert self.current is not None
            assert found.generation == self.current.generation
            assert began < self.ended_by + self.slack, "held off by a lease that has run out"
            self.wanted = True
            return
        assert not another or ended > self.runs_until - self.slack, "two owners hold the key"
        assert found.generation > self.highest, "a generation did not grow"
        assert found.checkpoint == self.checkpoint, "not what was saved last"
        self.current, self.highest, self.wanted = found, found.generation, False

    def leased(self, lease_seconds: float, began: float, ended: float) -> None:
        self.runs_until, self.ended_by = began + lease_seconds, ended + lease_seconds


async def play(world: World, unit: float, slack: float, scenario: list[Step]) -> None:
    """Lets the owners, each with a store of its own, do all that; what they are told must be right
    at every step. `unit`: seconds of one unit of time."""
    stores = {owner: world.store() for owner in OWNERS}
    given_to: dict[str, list[Claim]] = {owner: [] for owner in OWNERS}
    referee = Referee(slack)

    for step in scenario:
        store, claims, span = stores[step.owner], given_to[step.owner], step.span * unit
        if step.what == "wait":
            await world.wait(span)
        elif step.what == "claim":
            began = world.time()
            found = await store.claim("key", owner=step.owner, lease_seconds=span)
            referee.claimed(step.owner, found, began, world.time())
            if isinstance(found, Claim):
                claims.insert(0, found.emptied())
                referee.leased(span, began, world.time())
        elif step.which < len(claims):
            await use(referee, world, store, claims[step.which], step.what, span)


async def use(
    referee: Referee, world: World, store: StateStore, claim: Claim, what: str, span: float
) -> None:
    valid = claim == referee.current
    refused = frozenset[Claim]() if valid else frozenset({claim})
    if what == "renew":
        began = world.time()
        renewal = await store.renew([claim], lease_seconds=span)
        wanted = frozenset({claim}) if valid and referee.wanted else frozenset[Claim]()
        assert renewal == Renewal(lost=refused, wanted=wanted)
        if valid:
            referee.leased(span, began, world.time())
    elif what == "save":
        referee.saved += 1
        data = b"%d" % referee.saved
        assert await store.save({claim: data}, ttl=TTL) == refused
        if valid:
            referee.checkpoint = data
    else:
        assert await store.release(claim) == refused
        if valid:
            referee.current = None


async def close(stores: list[StateStore]) -> None:
    for store in stores:
        await store.close()


@settings(max_examples=200)
@given(scenario=steps(60))
def test_in_a_folder(scenario: list[Step]) -> None:
    async def run(folder: str) -> None:
        world = FileWorld(Path(folder))
        await play(world, 2.0, 0.002, scenario)
        await close(world.stores)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=steps(30))
def test_in_redis(redis_server: RedisServer, scenario: list[Step]) -> None:
    async def run() -> None:
        world = RedisWorld(redis_server.url)
        await play(world, 0.01, 0.005, scenario)
        await close(world.stores)

    asyncio.run(run())
