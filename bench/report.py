"""The tables of docs/capacity.md, made of what was measured and computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import queues
from model import (AS_IT_IS, CHANGED, GIB, LIMITS, Assumed, Costs, Design, Needs, Prices, breaks_at, dollars,
                   entry_cost, fold_at, load_at, needs, own_cost, reading_equals_own_work, with_threshold, zipf)

SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 50_000_000, 200_000_000)
FULL = SIZES[-1]
# What the project began with, for 200 million.
ESTIMATED = (80_000, 147_000)
EACH_CHANGE = (
    ("one reader of the stream in each process", {"one_reader": True}),
    ("likes and follows only to partitions concerned", {"routed": True}),
    ("invalidation messages by readers' partition, readers stick to replicas", {"sticky": True}),
    ("entries in sorted runs", {"packed": True}),
    ("30 days of stream and log on disks", {"kept_days": 30}),
    ("four logs, each with a relay and a stream", {"logs": 4}),
    ("live streams look only where an invalidation message was lost", {"quiet_streams": True}),
    ("public reads from the edge", {"edge": True}),
)


class Report:
    def __init__(self, measured: dict, a: Assumed = Assumed(), prices: Prices = Prices()):
        self.measured, self.a, self.prices = measured, a, prices
        self.costs = Costs(measured["values"])
        self.breaks = {(limit.name, design.name): breaks_at(limit, self.costs, a, design)
                       for limit in LIMITS for design in (AS_IT_IS, CHANGED)}

    def needs(self, people: float, design: Design = AS_IT_IS) -> Needs:
        return needs(people, self.costs, self.a, design)

    def blocks(self) -> dict[str, str]:
        """Each by the name under which the document has it."""
        made: dict[str, Callable[[], str]] = {
            "answer": self.answer, "machine": self.machine, "load": self.load, "inputs": self.inputs,
            "parts": self.parts, "limits": self.limits, "partitions": self.partitions, "threshold": self.threshold,
            "visible": self.visible, "invalidations": self.invalidations, "changes": self.changes,
            "caches": self.caches, "skew": self.skew, "availability": self.availability, "edge": self.edge,
            "money": self.money, "assumptions": self.assumptions}
        return {name: make() for name, make in made.items()}

    # --- the answer ---

    def answer(self) -> str:
        limits = [(limit, self.breaks[limit.name, AS_IT_IS.name]) for limit in LIMITS]
        rows = []
        for people in SIZES:
            n = self.needs(people)
            broken = sum(1 for _, at in limits if at and at <= people)
            following = sorted((at, limit.name) for limit, at in limits if at and at > people)
            nearest = f"{following[0][1]}, at {amount(following[0][0])}" if following else "nothing more"
            rows.append((amount(people), n.fold.partitions, amount(n.cores), f"{memory(n)} GiB", disk(n),
                         *self.month(n), broken or "none", nearest))
        n = self.needs(FULL, CHANGED)
        rows.append((f"{amount(FULL)}, [changed](#the-changes)", n.fold.partitions, amount(n.cores), f"{memory(n)} GiB",
                     disk(n), *self.month(n), "see below", "see below"))
        return table(("daily users", "`PARTITIONS`", "cores", "memory", "disks after a year", "a month, on demand",
                      "committed for a year", "limits passed", "what breaks next"), rows)

    def month(self, n: Needs) -> tuple[str, str]:
        each = dollars(n, self.prices, self.a)
        committed = each["compute"] * self.prices.committed + each["disks"] + each["network"]
        return f"${amount(sum(each.values()))}", f"${amount(committed)}"

    def machine(self) -> str:
        m = self.measured
        return (f"Measured on {m['date']} on {m['machine']['cores']} cores ({m['machine']['kind']}), with "
                f"{m['binaries']} binaries; the database was {m['database']}.")

    def load(self) -> str:
        rows = []
        for people in (1_000_000, FULL):
            load = load_at(people, self.a)
            rows.append((amount(people), *(amount(each) for each in (
                load.posts, load.events, load.entries, load.reads, load.streams, load.events_a_day,
                load.entries_a_day)), f"{load.merged:.0f}"))
        return table(("daily users", "posts/s", "events/s", "entries/s", "timeline reads/s", "open live streams",
                      "events a day", "entries a day", "celebrities' feeds in a page"), rows)

    # --- inputs ---

    def inputs(self) -> str:
        rows = []
        for title, names in INPUTS:
            for name, what in names:
                if name not in self.measured["values"]:
                    continue
                row = self.measured["values"][name]
                rows.append((title, what, f"{figure(row['median'])} {row['unit']}",
                             f"{figure(row['low'])} to {figure(row['high'])}", f"`{row['command']}`"))
                title = ""
        return table(("unit of work", "what", "median", "lowest to highest", "command"), rows)

    def assumptions(self) -> str:
        a = self.a
        load = load_at(FULL, a)
        return table(("assumed", "value"), (
            ("likes, reposts for each post", f"{a.likes_per_post:g}, {a.reposts_per_post:g}"),
            ("people one follows", f"{a.followees}, authors by Zipf's law with exponent 1, nobody followed by more "
             "than a third of all; every author posts as often as any other"),
            ("readers with a stored timeline", f"{a.readers_per_daily_user:g} for each daily user"),
            ("other reads", f"{a.other_reads:g} posts, profiles or author feeds for each person and day"),
            ("sign-ins, refreshes", f"{a.sign_ins:g}, {a.refreshes:g} for each person and day"),
            ("open live streams", f"{a.open_streams:.0%} of the daily users at the peak: {amount(load.streams)}"),
            ("a core is busy", f"{a.busy:.0%} at the peak"),
            ("a write to a majority in three zones", f"{a.write * 1e3:g} ms: two for each step of a partition, one for "
             f"each {a.insert:,} entries"),
            ("rows with their indexes", f"{a.index_factor:g} times the rows"),
            ("copies of log, stream and views", f"{a.copies}"),
            ("the greatest machine, volume, network", f"{a.machine_cores} cores, {a.volume_gib // 1024} TiB, "
             f"{a.machine_network * 8 / 1e9:g} Gbit/s"),
            ("bodies, once compressed", f"{a.compressed:.0%}"),
        ))

    # --- parts ---

    def parts(self) -> str:
        rows = []
        as_it_is, changed = self.needs(FULL), self.needs(FULL, CHANGED)
        for name, part in as_it_is.parts.items():
            other = changed.parts[name]
            rows.append((name, part.copies if part.copies > 1 else "", amount(part.cores), amount(other.cores),
                         part.processes or "", other.processes or "", f"{amount(part.memory)} GiB",
                         f"{amount(other.memory)} GiB", gib(part.disk_a_day), gib(part.disk), gib(other.disk)))
        return table(("part", "copies", "cores", "changed", "processes", "changed", "memory", "changed",
                      "disk a day", "after a year", "changed"), rows)

    def limits(self) -> str:
        rows = []
        for limit in LIMITS:
            at, later = (self.breaks[limit.name, design.name] for design in (AS_IT_IS, CHANGED))
            rows.append((at or float("inf"), limit.name, amount(at) if at else "never",
                         amount(later) if later else "never", limit.then))
        return table(("what", "daily users, as it is", "changed", "then"), (row[1:] for row in sorted(rows)))

    def partitions(self) -> str:
        rows = []
        for people in SIZES[2:]:
            load = load_at(people, self.a)
            for count in (16, 64, 256):
                fold = fold_at(load, self.costs, self.a, AS_IT_IS, count)
                rows.append((amount(people) if count == 16 else "", count, amount(load.events), f"{fold.batch:.0f}",
                             f"{min(fold.busy, 9.99):.0%}" if fold.busy < 1 else "falls behind",
                             amount(fold.reading_cores), amount(fold.own_cores), amount(fold.steps),
                             f"{fold.stream_network * 8 / 1e9:.1f} Gbit/s"))
        equal = reading_equals_own_work(self.costs, self.a, FULL)
        step = self.costs.slope("single", "projector")[0] + self.costs.slope("single", "mongodb")[0]
        read = self.costs.slope("fold", "projector")[0]
        return (table(("daily users", "partitions", "events/s", "events in a batch", "a partition is busy",
                       "cores for reading", "cores for all else", "commits/s", "out of the broker"), rows)
                + f"\n\nReading costs as much as all the rest of the projectors' work at {equal:.0f} partitions. An "
                f"event that comes alone costs every partition {step * 1e3:.1f} ms of projector and database; one that "
                f"comes in a full batch {read * 1e6:.0f} µs.")

    def threshold(self) -> str:
        rows = []
        for threshold in (1_000, 10_000, 100_000, 1_000_000, 10**9):
            a = with_threshold(self.a, threshold)
            load = load_at(FULL, a)
            pushing = load.entries * sum(entry_cost(self.costs, each, AS_IT_IS) for each in ("projector", "mongodb"))
            hearing = load.entries * self.costs("entry_400.replica")
            share = a.hot_share
            merging = load.reads * load.merged * sum(
                self.costs(f"merged_author_hot.{each}") * share
                + self.costs(f"merged_author_cold.{each}") * (1 - share) for each in ("query_api", "mongodb"))
            rows.append((amount(threshold) if threshold < 10**9 else "none", f"{load.merged / a.followees:.0%}",
                         f"{load.merged:.0f}", amount(load.entries), amount(pushing), amount(hearing), amount(merging)))
        posts = self.a.posts * (1 + self.a.reposts_per_post) / self.a.timeline_reads
        small = zipf(100_000, 50, 100_000)
        return (table(("threshold", "follows of celebrities", "their feeds in a page", "entries/s",
                       "cores for entries", "cores of each query API to hear of them",
                       "cores for merging"), rows)
                + f"\n\nWith {posts:.2f} posts for each read of a timeline, a celebrity costs a merge in the page of "
                f"each follower, and another author {posts:.2f} entries. With 100,000 people who follow 50 each, the "
                f"greatest author has {amount(small.most)} followers: 100,000 is never met there.")

    def visible(self) -> str:
        rows = []
        for people, threshold, design in (
                *((people, 100_000, AS_IT_IS) for people in SIZES[2:]),
                *((FULL, threshold, CHANGED) for threshold in (10_000, 100_000, 1_000_000, 10**9))):
            a = with_threshold(self.a, threshold)
            n = needs(people, self.costs, a, design)
            entering = n.load.posts + n.load.reposts
            seen = queues.visible(self.partition(n), n.fold.read_by_each, entering, n.fold.partitions,
                                  int(n.load.readers), a.followees, threshold)
            rows.append((f"{amount(people)}{', changed' if design is CHANGED else ''}", n.fold.partitions,
                         amount(threshold) if threshold < 10**9 else "none",
                         *(("falls behind",) * 3 if not seen.keeps_up else (
                             f"{seen.median * 1000:.0f} ms", f"{seen.p99 * 1000:.0f} ms",
                             f"{seen.last_of_a_job:.1f} s" if seen.last_of_a_job else "none")),
                         f"{seen.busy:.0%}"))
        return table(("daily users", "partitions", "threshold", "visible, half of the posts", "visible, 99 of 100",
                      "last entry of a fan-out in steps", "a partition is busy"), rows)

    def partition(self, n: Needs) -> queues.Partition:
        """Each step waits for the database: while it works, and while its answer is under way."""
        c = self.costs
        reading = c.slope("fold", "projector")[0] + c.slope("fold", "nats")[0]
        step = sum(max(0.0, c.slope("single", each)[0] - c.slope("fold", each)[0]) for each in ("projector", "mongodb"))
        if n.design.one_reader:
            reading *= n.design.handed_on
        # Of the events that a partition is given, more are its own where others are routed elsewhere.
        own = (own_cost(c, n.load, "projector") + own_cost(c, n.load, "mongodb")) * n.load.events / n.fold.read_by_each
        entry = entry_cost(c, "projector", n.design) + entry_cost(c, "mongodb", n.design)
        return queues.Partition(step + 2 * self.a.write, reading, own, entry + self.a.write / self.a.insert,
                                self.a.batch, self.a.linger)

    def invalidations(self) -> str:
        rows = []
        for people in SIZES[2:]:
            n = self.needs(people)
            rows.append((amount(people), n.replicas, amount(n.load.entries), amount(n.fold.steps),
                         f"{n.invalidation_cores:.2f}", f"{n.invalidation_bytes / 1e6:.1f} MB/s",
                         f"{n.invalidation_bytes * n.replicas * 8 / 1e9:.1f} Gbit/s"))
        return table(("daily users", "query APIs", "entries/s", "messages/s", "cores of each, to hear them",
                      "into each", "out of the broker, to all"), rows)

    def changes(self) -> str:
        rows = []
        before = self.needs(FULL)
        for name, change in (("as it is", {}), *EACH_CHANGE, ("all of them", None)):
            n = self.needs(FULL, CHANGED if change is None else replace(AS_IT_IS, **change))
            stream = n.parts["broker"].network * 8 / 1e9
            rows.append((name, amount(n.cores), f"{n.cores / before.cores - 1:+.0%}" if change != {} else "", disk(n),
                         f"{stream:.0f} Gbit/s", *self.month(n)))
        return table(("at 200 million", "cores", "", "disks", "out of the broker", "a month, on demand",
                      "committed"), rows)

    def caches(self) -> str:
        rows = []
        reads = load_at(FULL, self.a).reads
        for replicas, sticky, places in ((3, False, 2_000), (60, False, 2_000), (60, True, 2_000), (60, True, 10_000),
                                         (60, True, 100_000)):
            hit = queues.cache_hits(reads * replicas / 60, replicas, sticky, places)
            rows.append((replicas, "yes" if sticky else "no", f"{places:,}", f"{hit:.0%}"))
        return table(("query APIs, of 1,170 reads/s each", "readers stick to one", "places", "reads that hit"), rows)

    def skew(self) -> str:
        rows = []
        for count in (4, 64, 256):
            readers, likes = queues.hottest(count)
            rows.append((count, f"{readers:.2f}", f"{likes:.1f}"))
        return table(("partitions", "readers in the fullest, to the mean", "likes in the fullest, to the mean"), rows)

    def availability(self) -> str:
        budget = queues.budget_minutes(0.9999) * 60
        rows = []
        for name, what in (("failover.relay", "a relay freezes: nothing new is visible"),
                           ("failover.projector", "a projector freezes: its partitions stand still")):
            row = self.measured["values"][name]
            rows.append((what, f"{row['median']:.1f} s, at most {row['high']:.1f} s", "no", "measured"))
        election = 12
        rows += [
            ("a member of MongoDB goes: an election", f"{election} s", "commands, and reads that no cache has",
             f"assumed: {budget / election:.0f} of them use up a month's budget"),
            ("a broker goes", "a few seconds", "no", "assumed"),
            ("a zone goes", "an election, and the leases", "as above", "untested"),
        ]
        alone = 0.999
        of_three = queues.of_all(alone, 3, 2)
        return (f"99.99 % leave {budget:.0f} s in 30 days.\n\n"
                + table(("what happens", "how long", "do requests fail", "known how"), rows)
                + f"\n\nThree members of which two must be there, each there {alone:.1%} of the time and failing by "
                f"themselves: {of_three:.5%}. Log and views are two such sets, the broker is a third that fails no "
                f"request: {of_three**2:.5%}.")

    def edge(self) -> str:
        today, at_edge = self.needs(FULL), self.needs(FULL, replace(AS_IT_IS, edge=True))
        saved = today.parts["query API"].cores - at_edge.parts["query API"].cores
        database = today.parts["views' database"].cores - at_edge.parts["views' database"].cores
        other = load_at(FULL, self.a).other_reads
        return (f"At 200 million, {at_edge.design.public_share:.0%} of {amount(other)} other reads a second carry no "
                f"token and {at_edge.design.edge_hits:.0%} of these would hit (assumed): {amount(saved)} cores of the "
                f"query API and {amount(database)} of each copy of the views' database less. All bodies are "
                f"{amount(today.egress * 30.4 / GIB)} GiB a month, compressed.")

    def money(self) -> str:
        rows = []
        for people, design in (*((people, AS_IT_IS) for people in SIZES), (FULL, CHANGED)):
            n = self.needs(people, design)
            each = dollars(n, self.prices, self.a)
            rows.append((amount(people) + (", changed" if design is CHANGED else ""),
                         *(f"${amount(each[kind])}" for kind in ("compute", "disks", "network")), *self.month(n),
                         f"${sum(each.values()) / people * 1000:.2f}"))
        low, high = ESTIMATED
        return (table(("daily users", "compute", "disks and backups", "network", "together", "committed for a year",
                       "for 1,000 daily users"), rows)
                + f"\n\nThe project began with an estimate of ${low:,} to ${high:,} a month for 200 million. Committed "
                f"for a year it is {self.beside(AS_IT_IS)} times that as it is, and {self.beside(CHANGED)} times with "
                "the changes.")

    def beside(self, design: Design) -> str:
        each = dollars(self.needs(FULL, design), self.prices, self.a)
        committed = each["compute"] * self.prices.committed + each["disks"] + each["network"]
        low, high = ESTIMATED
        return f"{committed / high:.1f} to {committed / low:.1f}"


# --- how figures are written ----------------------------------------------------------------------------------------

def amount(value: float) -> str:
    """Two digits that count: 0.12, 12, 1,200, 1.2 M."""
    for factor, name in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= factor * 0.995:
            return f"{float(f'{value / factor:.2g}'):g}{name}"
    if value < 10:
        return f"{float(f'{value:.2g}'):g}"
    return f"{float(f'{value:.2g}'):,.0f}"


def figure(value: float) -> str:
    return f"{float(f'{value:.3g}'):,g}"


def gib(value: float) -> str:
    if not value:
        return ""
    return f"{amount(value / 1024)} TiB" if value >= 1024 else f"{amount(value)} GiB"


def memory(n: Needs) -> str:
    return amount(sum(part.memory * part.copies for part in n.parts.values()))


def disk(n: Needs) -> str:
    return gib(sum(part.disk * part.copies for part in n.parts.values()))


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [tuple(head), *([str(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("|---" * len(cells) + "|" if cells[0] == "---" else f"| {' | '.join(cells)} |" for cells in lines)


INPUTS = (
    ("a post", (
        ("post.accept.command_api", "accepted: command API"), ("post.accept.mongodb", "accepted: database"),
        ("post.log_bytes", "in the log"), ("post.relay.relay", "relayed: relay"),
        ("post.relay.nats", "relayed: broker"), ("post.relay.mongodb", "relayed: database"),
        ("post.stream_bytes", "on the stream"),
        ("post.fold.projector", "folded, 4 partitions: projector"), ("post.fold.mongodb", "folded: database"),
        ("post_without_followers.stored_bytes", "in the views"))),
    ("a like", (
        ("like.accept.command_api", "accepted: command API"), ("like.accept.mongodb", "accepted: database"),
        ("like.log_bytes", "in the log"), ("like.stream_bytes", "on the stream"), ("like.views_bytes", "in the views"),
        ("like.fold.projector", "folded: projector"),
        ("like.fold.mongodb", "folded: database"))),
    ("a follow", (
        ("follow.accept.command_api", "accepted: command API"), ("follow.accept.mongodb", "accepted: database"),
        ("follow.log_bytes", "in the log"), ("follow.stream_bytes", "on the stream"),
        ("follow.views_bytes", "in the views"), ("follow.fold.projector", "folded: projector"),
        ("follow.fold.mongodb", "folded: database"))),
    ("a sign-in", (("sign_in.command_api", "command API"), ("refresh.command_api", "refreshed: command API"))),
    ("a delivery: one entry", (
        ("entry_40.projector", "40 followers: projector"), ("entry_40.mongodb", "40 followers: database"),
        ("entry_400.projector", "400 followers: projector"), ("entry_400.mongodb", "400 followers: database"),
        ("entry_1600.projector", "1,600 followers: projector"), ("entry_1600.mongodb", "1,600 followers: database"),
        ("entry_to_full_timelines.projector", "to full timelines, trimmed, with the post: projector"),
        ("entry_to_full_timelines.mongodb", "the same: database"), ("entry_400.stored_bytes", "stored"))),
    ("an invalidation message, to each query API", (
        ("entry_400.invalidation_bytes", "for an entry"), ("entry_400.spare_replica", "for an entry, nothing cached"),
        ("entry_400.replica", "for an entry, 200 timelines cached"), ("invalidation.replica", "for a small one"),
        ("invalidation.bytes", "a small one"),
        ("single_post.invalidations", "for a post that comes alone, 4 partitions"))),
    ("a partition that reads", (
        ("fold_p4.projector", "an event in a batch, 4 partitions: projector"), ("fold_p16.projector", "16 partitions"),
        ("fold_p64.projector", "64 partitions"), ("fold_p64.mongodb", "64 partitions: database"),
        ("fold_p64.nats", "64 partitions: broker"),
        ("single_p4.projector", "an event alone, 4 partitions: projector"), ("single_p16.projector", "16 partitions"),
        ("single_p64.projector", "64 partitions"), ("single_p64.mongodb", "64 partitions: database"),
        ("idle_p4.projector", "nothing, 4 partitions: projector"), ("idle_p64.projector", "64 partitions"),
        ("idle_p64.mongodb", "64 partitions: database"))),
    ("a timeline read", (
        ("timeline_hot.query_api", "cached: query API"), ("timeline_unchanged.query_api", "cached, 304: query API"),
        ("timeline_cold_posts_cached.query_api", "timeline not cached, posts are: query API"),
        ("timeline_cold_posts_cached.mongodb", "the same: database"),
        ("timeline_cold.query_api", "nothing cached: query API"), ("timeline_cold.mongodb", "the same: database"),
        ("merged_author_hot.query_api", "for each celebrity merged, cached: query API"),
        ("merged_author_cold.query_api", "not cached: query API"), ("merged_author_cold.mongodb", "the same: database"),
        ("timeline.body", "body"))),
    ("another read", (
        ("post.query_api", "a post, cached"), ("profile.query_api", "a profile, cached"),
        ("author_feed.query_api", "an author's feed: query API"), ("author_feed.mongodb", "the same: database"),
        ("post.body", "body of a post"), ("profile.body", "body of a profile"),
        ("author_feed.body", "body of a feed"))),
    ("a live stream", (
        ("stream.memory", "memory of the query API"), ("stream_second.query_api", "a quiet second: query API"),
        ("stream_second.mongodb", "a quiet second: database"), ("stream_event.query_api", "an event: query API"),
        ("stream_event.mongodb", "an event: database"), ("stream_event.bytes", "an event"))),
    ("a rebuild", (
        ("rebuild_message.operator", "a message, folded and compared: the command"),
        ("rebuild_message.mongodb", "the same: database"), ("rebuild.rate", "rate, not comparable"))),
    ("a failover", (
        ("failover.relay", "the relay freezes until another publishes"),
        ("failover.projector", "a projector freezes until another has its partitions"))),
)
