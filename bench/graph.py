"""Who follows whom in the measures: readers with many followees, and authors with a known number of followers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

# Authors by their number of followers: how many there are of each kind. Scaled, the greatest are as many as readers.
CLASSES = {0: 8, 40: 8, 400: 4, 1600: 1}
FOLLOWEES = 25
POSTS_EACH = 4


@dataclass(frozen=True)
class Graph:
    readers: list[str]
    writers: list[str]
    # Readers who share no followee with anybody.
    apart: list[str]
    authors: dict[int, list[str]]
    followers_of: dict[int, list[str]]
    followees: int
    seed: int = 1

    @classmethod
    def of(cls, scale: float) -> Graph:
        readers = [f"reader_{number}" for number in range(1600)]
        writers = [f"writer_{number}" for number in range(max(60, int(1000 * scale)))]
        authors = {count: [f"author_{count}_{number}" for number in range(many)] for count, many in CLASSES.items()}
        apart = [f"apart_{number}" for number in range(150)]
        return cls(readers, writers, apart, authors, {count: readers[:count] for count in CLASSES},
                   max(5, round(FOLLOWEES * min(1.0, 2 * scale))))

    def lines(self) -> Iterator[dict]:
        """Writers are followed by Zipf's law: the first is followed by most."""
        chance = random.Random(self.seed)
        weights = list(itertools.accumulate(1 / rank for rank in range(1, len(self.writers) + 1)))
        of_one = {reader: [f"writer_of_{reader}_{number}" for number in range(10)] for reader in self.apart}
        everybody = [*self.readers, *self.writers, *self.apart, *itertools.chain(*of_one.values()),
                     *itertools.chain(*self.authors.values())]
        yield from ({"type": "user", "username": name} for name in everybody)
        for reader in self.readers:
            followed: dict[str, None] = {}
            while len(followed) < self.followees:
                followed[chance.choices(self.writers, cum_weights=weights)[0]] = None
            yield from ({"type": "follow", "follower": reader, "followee": name} for name in followed)
        yield from ({"type": "follow", "follower": reader, "followee": name}
                    for reader, names in of_one.items() for name in names)
        for count, names in self.authors.items():
            yield from ({"type": "follow", "follower": reader, "followee": name}
                        for name in names for reader in self.followers_of[count])
        for number in range(POSTS_EACH):
            yield from ({"type": "post", "username": name, "content": f"Something that {name} said, number {number}, "
                         "as long as most posts are"} for name in (*self.writers, *itertools.chain(*of_one.values())))


def friends(people: int = 962, edges: int = 18_812, seed: int = 1) -> list[tuple[int, int]]:
    """Friendships, each once: few people have many, most have few. By default as many as in the Reed network."""
    if not 2 <= people <= edges + 1 or edges > people * (people - 1) // 4:
        raise ValueError(f"{edges} friendships of {people} people cannot be drawn")
    chance = random.Random(seed)
    # Everybody has at least one, so that the edges name everybody.
    drawn = {(chance.randrange(one), one) for one in range(1, people)}
    while len(drawn) < edges:
        # The square prefers low numbers: they become the well-connected.
        one, other = int(chance.random() ** 2 * people), chance.randrange(people)
        if one != other:
            drawn.add((min(one, other), max(one, other)))
    return sorted(drawn)


def celebrities() -> tuple[Iterator[dict], dict[int, list[str]]]:
    """A hundred authors who are celebrities at a threshold of 40, and groups of readers by how many they follow."""
    famous = [f"famous_{number}" for number in range(100)]
    crowd = [f"crowd_{number}" for number in range(160)]
    groups = {many: [f"follows_{many}_{number}" for number in range(60)] for many in (0, 10, 50, 100)}
    plain = [f"plain_{number}" for number in range(20)]

    def lines() -> Iterator[dict]:
        everybody = [*famous, *crowd, *plain, *(name for names in groups.values() for name in names)]
        yield from ({"type": "user", "username": name} for name in everybody)
        yield from ({"type": "follow", "follower": name, "followee": star} for star in famous for name in crowd)
        for many, names in groups.items():
            yield from ({"type": "follow", "follower": name, "followee": star}
                        for name in names for star in famous[:many])
        # Few followers each: twelve groups share them, so that none of them is a celebrity.
        for number, name in enumerate(itertools.chain.from_iterable(groups.values())):
            yield {"type": "follow", "follower": name, "followee": plain[number % len(plain)]}
        yield from ({"type": "post", "username": name, "content": f"Post {number} of {name}"}
                    for number in range(10) for name in (*famous, *plain))
    return lines(), groups
