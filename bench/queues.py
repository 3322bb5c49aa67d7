"""What arithmetic alone would guess: queues, caches and skew, event by event. Every run draws the same numbers."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

SEED = 12


# --- one partition ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Partition:
    """Its times, in seconds: a step, a message, a message of its own, an entry."""
    step: float
    message: float
    own: float
    entry: float
    batch: int = 500
    linger: float = 0.002
    entries_a_commit: int = 5_000
    entries_a_job: int = 1_000


@dataclass(frozen=True)
class Visible:
    """Seconds from an event until a partition's readers can see it, and until the last of a fan-out in steps can."""
    median: float
    p99: float
    last_of_a_job: float
    busy: float
    keeps_up: bool


def visible(partition: Partition, events: float, posts: float, partitions: int, people: int, followees: int,
            threshold: int, seconds: float = 5.0) -> Visible:
    """Events of one partition: it reads all of them, and writes entries for its share of each author's followers.

    Authors post by chance, whoever they are; followers fall with an author's rank by Zipf's law.
    """
    chance = random.Random(SEED)
    followers = Zipf(people, followees)
    now = busy = 0.0
    waiting: deque[tuple[float, int]] = deque()
    jobs: deque[list] = deque()
    ages, finished = [], [0.0]
    due = chance.expovariate(events)
    share_of_posts = posts / events
    while now < seconds:
        while due <= now:
            entries = 0
            if chance.random() < share_of_posts:
                count = followers.of(chance)
                entries = 0 if count > threshold else share(chance, count, partitions)
            waiting.append((due, entries))
            due += chance.expovariate(events)
        if not waiting:
            if not jobs:
                now = due
                continue
        elif len(waiting) < partition.batch:
            # It waits a little for one more.
            if due - now < partition.linger:
                now = due
                continue
            now += partition.linger
        began, entries = now, 0
        taken = []
        while waiting and len(taken) < partition.batch and entries < partition.entries_a_commit:
            at, made = waiting.popleft()
            if made > partition.entries_a_job:
                jobs.append([at, made - partition.entries_a_job])
                made = partition.entries_a_job
            entries += made
            taken.append(at)
        now += (partition.step + len(taken) * (partition.message + partition.own / partitions)
                + entries * partition.entry)
        ages.extend(now - at for at in taken)
        # Jobs have as much time as messages had.
        until = now + (now - began)
        while jobs and (now < until or not taken):
            job = jobs[0]
            done = min(job[1], partition.entries_a_job)
            now += partition.step + done * partition.entry
            job[1] -= done
            if not job[1]:
                finished.append(now - jobs.popleft()[0])
            if not taken:
                break
        busy += now - began
    ages.sort()
    keeps_up = len(waiting) < partition.batch and sum(job[1] for job in jobs) * partition.entry < 2
    return Visible(ages[len(ages) // 2], ages[int(len(ages) * 0.99)], max(finished), min(1.0, busy / now), keeps_up)


class Zipf:
    """Followers by rank: c / rank, nobody more than a third of all, everybody's followees on average."""

    def __init__(self, people: int, followees: int):
        self.people, self.cap = people, people / 3
        low, high = 1.0, people * float(followees) * 10
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.total(middle) < people * min(followees, people / 10) else (low, middle)
        self.c = low

    def total(self, c: float) -> float:
        capped = min(self.people, c / self.cap)
        return capped * self.cap + c * (math.log(self.people) - math.log(max(1.0, capped)))

    def of(self, chance: random.Random) -> int:
        """Of somebody, whoever it is."""
        return int(min(self.cap, self.c / (1 + chance.random() * (self.people - 1))))


def share(chance: random.Random, followers: int, partitions: int) -> int:
    """How many of them belong to a partition: by chance where they are few, evenly where they are many."""
    mean = followers / partitions
    if mean > 30:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    # Poisson's law, by Knuth.
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


# --- caches ---------------------------------------------------------------------------------------------------------

def cache_hits(reads: float, replicas: int, sticky: bool, places: int, lives: float = 60.0, pause: float = 45.0,
               session: int = 8, seconds: float = 240.0, most: int = 40_000) -> float:
    """The share of home timeline reads that find what they look for in a replica's cache.

    People come, read `session` times with `pause` seconds between on average, and go. A value lives a minute, and the
    least recently used goes when all places are taken. One replica is looked at: it gets its share of the reads, all
    of a reader's if readers stick to replicas.
    """
    chance = random.Random(SEED)
    kept = 1.0 if sticky else 1 / replicas
    some = 1 - (1 - kept) ** session
    of_readers = reads / session * some * (1 / replicas if sticky else 1)
    # Of many reads a part is simulated, with as small a part of the places: the share of hits is the same.
    part = min(1.0, most / (reads / replicas * seconds))
    events: list[tuple[float, int]] = []
    now, number = 0.0, 0
    while now < seconds:
        now += chance.expovariate(of_readers * part)
        number += 1
        while not (mine := [chance.random() < kept for _ in range(session)]) or not any(mine):
            pass
        at = now
        for is_mine in mine:
            if is_mine:
                events.append((at, number))
            at += chance.expovariate(1 / pause)
    events.sort()
    held: dict[int, float] = {}
    room, hits, asked = max(1, int(places * part)), 0, 0
    for at, reader in events:
        loaded = held.pop(reader, None)
        found = loaded is not None and at - loaded < lives
        held[reader] = loaded if found else at
        if len(held) > room:
            held.pop(next(iter(held)))
        if seconds / 3 < at < seconds:
            asked += 1
            hits += found
    return hits / asked if asked else 0.0


# --- skew -----------------------------------------------------------------------------------------------------------

def hottest(partitions: int, authors: int = 1_000_000, draws: int = 200_000) -> tuple[float, float]:
    """How much more than the mean the busiest partition has: of readers, and of likes if they go to authors by Zipf."""
    chance = random.Random(SEED)
    readers, likes = [0] * partitions, [0] * partitions
    home: dict[int, int] = {}
    for _ in range(draws):
        readers[chance.randrange(partitions)] += 1
        # The inverse of Zipf's law with exponent 1.
        rank = int(math.exp(chance.random() * math.log(authors + 1)))
        likes[home.setdefault(rank, chance.randrange(partitions))] += 1
    mean = draws / partitions
    return max(readers) / mean, max(likes) / mean


# --- availability -----------------------------------------------------------------------------------------------------

def budget_minutes(objective: float, days: float = 30) -> float:
    """How long it may be away."""
    return (1 - objective) * days * 24 * 60


def of_all(alone: float, replicas: int, needed: int) -> float:
    """The share of time in which at least `needed` of so many are there, if each is there for the share `alone`."""
    return sum(math.comb(replicas, up) * alone**up * (1 - alone) ** (replicas - up)
               for up in range(needed, replicas + 1))
