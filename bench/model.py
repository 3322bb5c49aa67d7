"""What each part of the system needs at a size: arithmetic on what was measured and what is assumed. No I/O.

A size is a number of people who use the site on a day. A design is the system as it is, or with changes that
docs/capacity.md names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

DAY = 86_400
GIB = 2**30
HOURS_A_MONTH = 730
DAYS_A_MONTH = 30.4


@dataclass(frozen=True)
class Assumed:
    """What nobody can measure here. `given` by whoever asks for 200 million; the rest is a guess that says so."""
    # Given: 500 million posts, 100 million follows, 2 billion timeline reads a day, for 200 million people.
    posts: float = 2.5
    follows: float = 0.5
    timeline_reads: float = 10.0
    peak_of_posts: float = 12_000 / 5_800
    peak_of_reads: float = 70_000 / 23_000
    # Guessed.
    likes_per_post: float = 2.0
    reposts_per_post: float = 0.2
    followees: int = 200
    readers_per_daily_user: float = 2.0  # those who came in the last IDLE_DAYS and have a stored timeline
    kept_entries: int = 800
    other_reads: float = 10.0  # of posts, profiles and author feeds, for each person and day
    sign_ins: float = 0.05
    refreshes: float = 8.0
    open_streams: float = 0.02  # of the daily users, at the peak
    # Of timeline reads, those that find all they need in a cache: as it is, and where readers stick to a replica that
    # has places for all of them. bench/queues.py says so; a test compares.
    hot_share: float = 0.01
    hot_share_sticky: float = 0.5
    busy: float = 0.6  # how much of a core is used before another is added
    # Of MongoDB's storage, and of machines.
    index_factor: float = 1.6  # rows with their indexes, beside rows
    copies: int = 3
    in_memory: float = 0.1  # of the views' data that is read again and again
    machine_cores: int = 64
    volume_gib: int = 16 * 1024  # the greatest gp3 volume
    machine_network: float = 12.5e9 / 8  # bytes a second, sustained
    machine_iops: float = 16_000
    # Of this project.
    celebrity_threshold: int = 100_000
    most_partitions: int = 256
    most_streams: int = 10_000
    write: float = 0.002  # seconds until a majority in three zones has a write: nothing works meanwhile
    insert: int = 1_000  # entries in one
    batch: int = 500
    linger: float = 0.002
    relay_limit: float = 28_000  # events a second, in atomic batches with one in flight, as measured with nats-server
    api_cores: int = 16
    compressed: float = 0.25  # of a body's bytes, once the gateway compresses it


@dataclass(frozen=True)
class Prices:
    """Dollars, us-east-1, public prices on demand as of 2026-06 from memory and articles: no price list was reached."""
    general_core_hour: float = 0.0363  # a vCPU of c7g
    memory_core_hour: float = 0.0536  # a vCPU of r7g, with 8 GiB
    memory_gib_per_core: float = 8.0
    disk_gib_month: float = 0.08  # gp3
    object_gib_month: float = 0.023
    egress_gib: float = 0.05  # beyond 150 TB a month
    edge_gib: float = 0.02  # a CDN, beyond 5 PB; private offers are lower
    between_zones_gib: float = 0.02  # both directions
    committed: float = 0.66  # of the price on demand, for a year
    overhead: float = 1.1  # monitoring, gateway, staging


@dataclass(frozen=True)
class Design:
    """The system as it is; each field that is set is a change."""
    name: str = "as it is"
    one_reader: bool = False
    routed: bool = False
    sticky: bool = False
    packed: bool = False
    kept_days: int | None = None  # on the stream, and of the log on disks: older events are in object storage
    logs: int = 1
    quiet_streams: bool = False
    edge: bool = False
    # Guesses about what is not built: how much of reading an event is left for a partition that is handed it decoded,
    # and what an entry in sorted runs costs and takes beside one in a row of its own.
    handed_on: float = 0.1
    packed_cost: float = 0.2
    packed_bytes: float = 10.0
    projector_processes: int = 16
    edge_hits: float = 0.8
    public_share: float = 0.5


AS_IT_IS = Design()
CHANGED = Design("with the changes", one_reader=True, routed=True, sticky=True, packed=True, kept_days=30, logs=4,
                 quiet_streams=True, edge=True)


@dataclass(frozen=True)
class Costs:
    """Measured figures, in seconds and bytes, by the names that bench/measure.py gives them."""
    values: dict[str, dict]

    def __call__(self, name: str) -> float:
        row = self.values[name]
        scale = {"µs": 1e-6, "ms a second": 1e-3}.get(row["unit"], 1.0)
        return row["median"] * scale

    def sum(self, name: str, *processes: str) -> float:
        return sum(self(f"{name}.{process}") for process in processes)

    def slope(self, name: str, process: str) -> tuple[float, float]:
        """What a partition more costs, and what is left for none: a line through the measured numbers of partitions.

        Of single events only the two least: with more partitions the machine falls behind and folds several at once."""
        points = sorted((int(key[len(name) + 2:].partition(".")[0]), self(key)) for key in self.values
                        if key.startswith(f"{name}_p") and key.endswith(f".{process}"))
        points = points[:2] if name == "single" else points
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
        return max(0.0, slope), max(0.0, mean_y - slope * mean_x)


# --- who follows whom ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Follows:
    """Of a graph by Zipf's law: what authors above a threshold make of it."""
    pulled_share: float  # of all follows, those of celebrities
    celebrities: float
    most: float


@lru_cache(maxsize=None)
def zipf(people: int, followees: int, threshold: int) -> Follows:
    """Followers fall with the rank: the r-th of `people` has c / r, and nobody more than a third of all."""
    cap = people / 3
    wanted = float(people * min(followees, people / 10))

    def total(c: float) -> float:
        capped = min(people, c / cap)
        return capped * cap + c * (math.log(people) - math.log(max(1.0, capped)))

    low, high = 1.0, wanted * 10
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if total(middle) < wanted else (low, middle)
    c, most = low, min(cap, low)
    if most <= threshold:
        return Follows(0.0, 0.0, most)
    ranks = c / threshold
    capped = min(people, c / cap)
    above = capped * cap + c * (math.log(max(1.0, ranks)) - math.log(max(1.0, capped)))
    return Follows(above / total(c), ranks, most)


# --- the load ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Load:
    """In a second at the peak, but what is named a day."""
    posts: float
    likes: float
    reposts: float
    follows: float
    events: float
    events_a_day: float
    entries: float
    entries_a_day: float
    reads: float
    other_reads: float
    merged: float  # celebrities' feeds in a page
    streams: float
    stream_events: float
    readers: float


def load_at(people: float, a: Assumed) -> Load:
    posts_a_day = people * a.posts
    posts = posts_a_day / DAY * a.peak_of_posts
    follows = people * a.follows / DAY * a.peak_of_posts
    readers = people * a.readers_per_daily_user
    graph = zipf(int(readers), a.followees, a.celebrity_threshold)
    followees = min(a.followees, readers / 10)
    pushed = followees * (1 - graph.pulled_share)
    fanned = 1 + a.reposts_per_post
    events = posts * (fanned + a.likes_per_post) + follows
    events_a_day = posts_a_day * (fanned + a.likes_per_post) + people * a.follows
    # Everybody's followers come to as many as everybody's followees. An author's own entry is one more.
    entries, entries_a_day = (each * fanned * (pushed + 1) for each in (posts, posts_a_day))
    streams = people * a.open_streams
    return Load(
        posts, posts * a.likes_per_post, posts * a.reposts_per_post, follows, events, events_a_day, entries,
        entries_a_day, people * a.timeline_reads / DAY * a.peak_of_reads,
        people * a.other_reads / DAY * a.peak_of_reads,
        followees * graph.pulled_share, streams, streams * followees * fanned * posts / readers, readers)


# --- the fold -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Fold:
    """What the partitions do, in a second at the peak."""
    partitions: int
    read_by_each: float  # events
    batch: float
    steps: float  # of all partitions: commits, and so invalidation messages
    busy: float  # of a partition's time in full batches, if every step waits for the database as long as that works
    reading_cores: float
    own_cores: float
    database_cores: float
    broker_cores: float
    stream_network: float  # bytes a second


def own_cost(costs: Costs, load: Load, process: str) -> float:
    """A mean event in its own partition, without what a partition spends to read it."""
    read = costs.slope("fold", process)[0] * 4  # `commands` is measured with four partitions
    of = {"post": load.posts + load.reposts, "like": load.likes, "follow": load.follows}
    return sum(max(0.0, costs(f"{kind}.fold.{process}") - read) * count for kind, count in of.items()) / load.events


def entry_cost(costs: Costs, process: str, design: Design) -> float:
    cost = costs(f"entry_to_full_timelines.{process}")
    return cost * design.packed_cost if design.packed and process == "mongodb" else cost


def fold_at(load: Load, costs: Costs, a: Assumed, design: Design, partitions: int) -> Fold:
    # Of routed events, a partition gets those that make entries, and its share of the rest, each for two users.
    entering = load.posts + load.reposts
    routed = load.events - entering
    each = entering + routed * min(1.0, 2 / partitions) if design.routed else load.events
    readers = min(partitions, design.projector_processes) if design.one_reader else partitions
    of_reader = entering + routed * min(1.0, 2 / readers) if design.routed else load.events
    reading = {process: costs.slope("fold", process)[0] for process in ("projector", "mongodb", "nats")}
    step = {process: max(0.0, costs.slope("single", process)[0] - reading[process])
            for process in ("projector", "mongodb", "nats")}
    if design.one_reader:
        decoding = reading["projector"] * (1 - design.handed_on)
        reading["projector"] *= design.handed_on
    own = {process: own_cost(costs, load, process) for process in ("projector", "mongodb")}
    entry = {process: entry_cost(costs, process, design) for process in ("projector", "mongodb")}
    of_each = (each * (reading["projector"] + reading["nats"])
               + load.events / partitions * (own["projector"] + own["mongodb"])
               + load.entries / partitions * (entry["projector"] + entry["mongodb"] + a.write / a.insert))
    of_step = step["projector"] + step["mongodb"] + 2 * a.write
    batch = batch_at(each, of_each, of_step, a)
    steps = each / batch
    broker = of_reader * readers * reading["nats"] + partitions * steps * step["nats"]
    reading_cores = partitions * (each * reading["projector"] + steps * step["projector"])
    if design.one_reader:
        reading_cores += readers * of_reader * decoding
    return Fold(
        partitions, each, batch, partitions * steps, of_each + each / a.batch * of_step,
        reading_cores, load.events * own["projector"] + load.entries * entry["projector"],
        load.events * own["mongodb"] + load.entries * entry["mongodb"]
        + partitions * (each * reading["mongodb"] + steps * step["mongodb"]),
        broker, of_reader * readers * mean_bytes(costs, load))


def batch_at(events: float, busy: float, step: float, a: Assumed) -> float:
    """Events in a batch: those that come within the linger of the one before, or while the batch before is folded."""
    lingering = math.exp(min(20.0, events * a.linger))
    queued = events * step / max(1e-6, 1 - busy) if busy < 1 else a.batch
    return min(float(a.batch), max(1.0, lingering, queued))


def mean_bytes(costs: Costs, load: Load, what: str = "stream_bytes") -> float:
    return (costs(f"post.{what}") * (load.posts + load.reposts) + costs(f"like.{what}") * load.likes
            + costs(f"follow.{what}") * load.follows) / load.events


def partitions_at(load: Load, costs: Costs, a: Assumed, design: Design) -> int:
    """As few as keep each of them less busy than that: the power of two, from 4 on."""
    count = 4
    while count < a.most_partitions and fold_at(load, costs, a, design, count).busy > a.busy:
        count *= 2
    return count


# --- the parts ------------------------------------------------------------------------------------------------------

@dataclass
class Part:
    name: str
    cores: float = 0.0
    memory: float = 0.0  # GiB
    disk: float = 0.0  # GiB, of one copy, after a year or when it grows no more
    disk_a_day: float = 0.0  # GiB, of one copy
    network: float = 0.0  # bytes a second
    processes: int = 0
    copies: int = 1
    memory_bound: bool = False


@dataclass
class Needs:
    people: float
    design: Design
    load: Load
    fold: Fold
    replicas: int
    invalidation_cores: float
    invalidation_bytes: float
    parts: dict[str, Part] = field(default_factory=dict)
    egress: float = 0.0  # bytes a day
    edge: float = 0.0

    @property
    def cores(self) -> float:
        return sum(part.cores * part.copies for part in self.parts.values())


def needs(people: float, costs: Costs, a: Assumed, design: Design = AS_IT_IS) -> Needs:
    load = load_at(people, a)
    fold = fold_at(load, costs, a, design, partitions_at(load, costs, a, design))
    reading, database = read_cores(load, costs, a, design)
    replicas, invalidation_cores, invalidation_bytes = replicas_at(load, fold, costs, a, design, reading)
    all_of = Needs(people, design, load, fold, replicas, invalidation_cores, invalidation_bytes)
    busy = a.busy
    accepting = {process: sum(costs(f"{kind}.accept.{process}") * count for kind, count in (
        ("post", load.posts + load.reposts), ("like", load.likes), ("follow", load.follows)))
        + sum(costs(f"{kind}.{process}") * people * per_day / DAY * a.peak_of_reads
              for kind, per_day in (("sign_in", a.sign_ins), ("refresh", a.refreshes)))
        for process in ("command_api", "mongodb")}
    relaying = {process: sum(costs(f"{kind}.relay.{process}") * count for kind, count in (
        ("post", load.posts + load.reposts), ("like", load.likes), ("follow", load.follows)))
        for process in ("relay", "mongodb", "nats")}
    log_bytes, stream_bytes = mean_bytes(costs, load, "log_bytes"), mean_bytes(costs, load)

    def part(name: str, cores: float, **more) -> Part:
        all_of.parts[name] = Part(name, cores / busy, **more)
        return all_of.parts[name]

    api = part("command API", accepting["command_api"], processes=max(2, math.ceil(
        accepting["command_api"] / busy / a.api_cores)))
    api.memory = 0.5 * api.processes
    part("relay", relaying["relay"], memory=0.25 * 2 * design.logs, processes=2 * design.logs)
    kept = design.kept_days or 365
    log_a_day = load.events_a_day * log_bytes * a.index_factor / GIB
    log = part("log's database", accepting["mongodb"] + relaying["mongodb"], disk_a_day=log_a_day,
               disk=log_a_day * kept, copies=a.copies, memory_bound=True)
    log.memory = max(4.0, log_a_day * 7)  # the last week's
    stream_a_day = load.events_a_day * stream_bytes / GIB
    stream = part("broker", relaying["nats"] + fold.broker_cores + all_of.invalidation_bytes * replicas * 4e-9,
                  disk_a_day=stream_a_day, disk=stream_a_day * kept, copies=a.copies)
    stream.network = fold.stream_network + invalidation_bytes * replicas
    stream.memory = 4.0
    processes = design.projector_processes if fold.partitions > 16 else 2
    part("projector", fold.reading_cores + fold.own_cores, processes=processes,
         memory=processes * 0.21 * 2 + fold.partitions * 1.3 / 1024)
    entry = design.packed_bytes if design.packed else costs("entry_400.stored_bytes") * a.index_factor
    # Entries are counted above.
    rows = a.index_factor / load.events * (
        costs("post_without_followers.stored_bytes") * (load.posts + load.reposts)
        + costs("like.views_bytes") * load.likes + costs("follow.views_bytes") * load.follows)
    entries = load.readers * a.kept_entries * entry
    rows_a_day = load.events_a_day * rows / GIB
    views = part("views' database", fold.database_cores + database, disk=entries / GIB + rows_a_day * 365,
                 disk_a_day=rows_a_day, copies=a.copies, memory_bound=True)
    views.memory = max(4.0, (entries / GIB + rows_a_day * 30) * a.in_memory)
    query = part("query API", reading + invalidation_cores * replicas, processes=replicas)
    query.memory = replicas * 0.25 + load.streams * costs("stream.memory") / GIB
    bodies = (costs("timeline.body") * people * a.timeline_reads
              + (costs("post.body") + costs("profile.body") + costs("author_feed.body")) / 3 * people * a.other_reads)
    all_of.egress = bodies * a.compressed
    if design.edge:
        all_of.edge, all_of.egress = all_of.egress, 0.0
    return all_of


def read_cores(load: Load, costs: Costs, a: Assumed, design: Design) -> tuple[float, float]:
    """Of the query API and of the database, for what is read."""
    cold, hot = "timeline_cold_posts_cached", "timeline_hot"
    share = a.hot_share_sticky if design.sticky else a.hot_share
    other = load.other_reads * (1 - design.edge_hits * design.public_share if design.edge else 1)

    def of(process: str) -> float:
        merged = load.merged * (costs(f"merged_author_hot.{process}") * share
                                + costs(f"merged_author_cold.{process}") * (1 - share))
        page = costs(f"{hot}.{process}") * share + costs(f"{cold}.{process}") * (1 - share) + merged
        quiet = 0.0 if design.quiet_streams else costs(f"stream_second.{process}") * load.streams
        return (load.reads * page + costs(f"stream_event.{process}") * load.stream_events + quiet
                + other * sum(costs(f"{kind}.{process}") for kind in ("post", "profile", "author_feed")) / 3)
    return of("query_api"), of("mongodb")


def replicas_at(load: Load, fold: Fold, costs: Costs, a: Assumed, design: Design,
                reading: float) -> tuple[int, float, float]:
    """How many query APIs there are, and what one of them hears: cores, and bytes a second."""
    replicas = max(3, math.ceil(load.streams / a.most_streams), math.ceil(reading / a.busy / a.api_cores))
    rows = costs("post_without_followers.invalidation_bytes") * load.events
    row_cores = costs("post_without_followers.replica") * load.events
    share = 1 / replicas if design.sticky else 1.0
    cores = (load.entries * share * costs("entry_400.replica") + fold.steps * costs("invalidation.replica") + row_cores)
    heard = (load.entries * share * costs("entry_400.invalidation_bytes") + rows + fold.steps * 100)
    return replicas, cores, heard


# --- limits ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Limit:
    """Something of which there is one, and how much of it is used: 1 is all of it."""
    name: str
    used: Callable[[Needs, Costs, Assumed], float]
    then: str


def partition_busy(n: Needs, costs: Costs, a: Assumed) -> float:
    return fold_at(n.load, costs, a, n.design, a.most_partitions).busy


LIMITS = (
    Limit("the stream fills the greatest volume within a year",
          lambda n, c, a: n.parts["broker"].disk / n.design.logs / a.volume_gib, "keep 30 days, rebuild from the log"),
    Limit("invalidation messages take a core of every query API",
          lambda n, c, a: n.invalidation_cores, "invalidation messages by readers' partition"),
    Limit("invalidation messages and the stream fill the network of three brokers",
          lambda n, c, a: n.parts["broker"].network / (3 * n.design.logs * a.machine_network),
          "one reader a process; invalidation messages by readers' partition"),
    Limit("the relay publishes as fast as it can",
          lambda n, c, a: n.load.events / n.design.logs / a.relay_limit, "several logs, each with relay and stream"),
    Limit("a partition of 256 is busy all the time",
          lambda n, c, a: partition_busy(n, c, a), "one reader a process; events routed to those concerned"),
    Limit("one replica set for the log: its primary's cores",
          lambda n, c, a: n.parts["log's database"].cores / n.design.logs / a.machine_cores, "shard by owner"),
    Limit("one replica set for the log: a volume in a year",
          lambda n, c, a: n.parts["log's database"].disk / n.design.logs / a.volume_gib,
          "older events to object storage; shard by owner"),
    Limit("one replica set for the views: its primary's cores",
          lambda n, c, a: n.parts["views' database"].cores / a.machine_cores, "shard by the key's first user"),
    Limit("one replica set for the views: a volume in a year",
          lambda n, c, a: n.parts["views' database"].disk / a.volume_gib, "shard by the key's first user; sorted runs"),
)


def breaks_at(limit: Limit, costs: Costs, a: Assumed, design: Design) -> float | None:
    """The least size at which it is used up: nothing if not even at two billion people.

    Use may fall again where there are more partitions, so the sizes are tried one after the other."""
    def used(people: float) -> float:
        return limit.used(needs(people, costs, a, design), costs, a)

    low, step = 1e4, 1.25
    while low < 2e9 and used(low * step) < 1:
        low *= step
    if low >= 2e9:
        return None
    high = low * step
    for _ in range(12):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if used(middle) >= 1 else (middle, high)
    return high


def reading_equals_own_work(costs: Costs, a: Assumed, people: float) -> float:
    """The number of partitions at which reading what is not theirs costs as much as all the rest of the fold."""
    load = load_at(people, a)
    return ((load.events * own_cost(costs, load, "projector") + load.entries * entry_cost(costs, "projector", AS_IT_IS))
            / (load.events * costs.slope("fold", "projector")[0]))


# --- money ------------------------------------------------------------------------------------------------------------

def dollars(n: Needs, prices: Prices, a: Assumed) -> dict[str, float]:
    """A month, on demand."""
    compute = disk = 0.0
    for part in n.parts.values():
        if part.memory_bound:
            cores = max(2.0, part.cores, part.memory / prices.memory_gib_per_core)
            compute += cores * part.copies * prices.memory_core_hour * HOURS_A_MONTH
        else:
            # APIs, relay and projector have their copies in their processes; the broker has three servers.
            cores = max(float(part.processes or 2), part.cores)
            compute += cores * part.copies * prices.general_core_hour * HOURS_A_MONTH
        disk += part.disk * part.copies * prices.disk_gib_month
    # What is on no disk any more: the log's events, once, without their indexes.
    older = max(0, 365 - n.design.kept_days) if n.design.kept_days else 0
    cold = n.parts["log's database"].disk_a_day / a.index_factor * older * prices.object_gib_month
    gib_a_month = DAYS_A_MONTH / GIB
    # Two of three servers are in another zone than whoever asks them. Peaks are not all day.
    crossing = 2 / 3 * prices.between_zones_gib * gib_a_month
    inside = (n.parts["broker"].network / a.peak_of_posts * DAY * crossing
              + (n.egress + n.edge) / a.compressed * crossing
              # Each write goes to two other members. An event is written to the log, the stream and the views.
              + (n.load.events_a_day * 3 * 1_000 + n.load.entries_a_day * 100) * 2
              * prices.between_zones_gib * gib_a_month)
    network = (n.egress * prices.egress_gib + n.edge * prices.edge_gib) * gib_a_month + inside
    backup = sum(part.disk for part in n.parts.values() if part.memory_bound) * prices.object_gib_month
    return {"compute": compute * prices.overhead, "disks": disk + cold + backup, "network": network}


def with_threshold(a: Assumed, threshold: int) -> Assumed:
    return replace(a, celebrity_threshold=threshold)
