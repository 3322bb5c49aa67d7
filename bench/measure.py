#!/usr/bin/env python3
"""Measures what each unit of work costs each process: CPU and bytes for a post, a delivery, a read, a live stream.

It starts stacks of its own, with the binaries in MICROBLOG_BIN_DIR or those that it builds, and the engines that it
finds: `mongod` where it is on the PATH, else the embedded one. What it finds goes to bench/measured.json, from which
bench/simulate.py computes. CPU time per unit is comparable on a busy machine; rates are not, so none is kept but
those that say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from bench_stack import API, SPARE, BenchStack, InvalidationMessages  # noqa: E402
from graph import CLASSES, Graph, celebrities  # noqa: E402
from live import LiveStreams  # noqa: E402
from results import MICROSECONDS, Results, cpu_kind, kind_of_database, per_more, short, show  # noqa: E402
from own_stack import PASSWORD  # noqa: E402
from supervisor import Failed, Supervisor, note, supervised  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "measured.json"
PARTITION_COUNTS = (4, 16, 64)
ACCEPTING, RELAYING = ("command_api", "mongodb"), ("relay", "mongodb", "nats")
FOLDING, READING = ("projector", "mongodb", "nats"), ("query_api", "mongodb")


# --- the measures: each takes a supervisor, how much, how often, and its results ---------------------------------

def commands(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """a command accepted (API, database), relayed (relay, broker), folded by its own partition; bytes of an event"""
    stack = BenchStack(supervisor)
    stack.start()
    users = [f"person_{number}" for number in range(200)]  # not the names of `register`
    stack.load({"type": "user", "username": name} for name in users)
    tokens = stack.tokens(*users)
    profiles = stack.call(stack.first("query-service", "api"),
                          [("GET", f"{API}/users/by-username/{name}", None, None) for name in users])
    ids = {answer.json()["username"]: answer.json()["user_id"] for answer in profiles}
    stack.settle()
    count = max(200, int(3000 * scale))
    posts: list[str] = []
    api, relay, projector = (stack.first("command-service", "api"), stack.first("command-service", "relay"),
                             stack.projector())

    def requests(kind: str, turn: int) -> list[tuple]:
        pairs = [(users[n % 200], users[(n + 1 + n // 200 + 20 * turn) % 200]) for n in range(count)]
        if kind == "post":
            return [("POST", f"{API}/posts", {"content": f"Sixty characters of what somebody had to say today, {n}"},
                     tokens[author]) for n, (author, _) in enumerate(pairs)]
        if kind == "like":
            return [("POST", f"{API}/posts/{posts[(turn * count + n) % len(posts)]}/like", None, tokens[liker])
                    for n, (_, liker) in enumerate(pairs)]
        return [("POST", f"{API}/users/{ids[followee]}/follow", None, tokens[follower])
                for follower, followee in pairs]

    for turn in range(repeat):
        for kind in ("post", "like", "follow"):
            wanted = requests(kind, turn)
            with stack.paused(projector):
                before, log = stack.stream(), stack.size_of("microblog")
                with stack.paused(relay):
                    started = stack.used()
                    answers = stack.call(api, wanted)
                    found.cpu(f"{kind}.accept", stack.used().since(started, stack.idle), len(wanted),
                              *ACCEPTING)
                grown = stack.size_of("microblog")
                events = len(wanted)
                found.cpu(f"{kind}.relay", stack.measure(
                    lambda: stack.wait_until_published(before["last_seq"] + 0.98 * events)), events, *RELAYING)
                stack.supervisor.pause(1)
                after = stack.stream()
                events = after["messages"] - before["messages"]
                found.add(f"{kind}.stream_bytes", "bytes", (after["bytes"] - before["bytes"]) / events)
                if "dataSize" in log:
                    found.add(f"{kind}.log_bytes", "bytes", (grown["dataSize"] - log["dataSize"]) / events)
            views = stack.size_of("microblog_views")
            found.cpu(f"{kind}.fold", stack.measure(stack.wait_until_folded), events, *FOLDING)
            if "dataSize" in views:
                more = stack.size_of("microblog_views")["dataSize"] - views["dataSize"]
                found.add(f"{kind}.views_bytes", "bytes", more / events)
            if kind == "post":
                posts.extend(answer.json()["post_id"] for answer in answers)
    sign_ins(stack, repeat, found)


def sign_ins(stack: BenchStack, repeat: int, found: Results) -> None:
    users = stack.register(8)
    api = stack.first("command-service", "api")
    stack.settle()
    for turn in range(repeat):
        wanted = [("POST", f"{API}/auth/login", {"username": user.name, "password": PASSWORD}, None) for user in users]
        started = stack.used()
        refreshes = [answer.json()["refresh_token"] for answer in stack.call(api, wanted)]
        found.cpu("sign_in", stack.used().since(started, stack.idle), len(wanted), *ACCEPTING)
        started, done = stack.used(), 0
        for _ in range(20):
            wanted = [("POST", f"{API}/auth/refresh", {"refresh_token": refresh}, None) for refresh in refreshes]
            refreshes = [answer.json()["refresh_token"] for answer in stack.call(api, wanted)]
            done += len(wanted)
        found.cpu("refresh", stack.used().since(started, stack.idle), done, *ACCEPTING)


def deliveries(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """an entry of a fan-out, by how many followers an author has; bytes stored; an invalidation message to a replica"""
    stack, graph, tokens = people(supervisor, scale)
    api, invalidations = stack.first("query-service", "api"), InvalidationMessages(stack.nats_port)
    by_class: dict[int, dict[str, float]] = {}
    for _ in range(repeat):
        for followers, authors in graph.authors.items():
            count = max(20, int(min(1500, 120_000 / max(1, followers)) * scale))
            with stack.paused(stack.projector()):
                before = stack.stream()["last_seq"]
                stack.post(authors, count, tokens)
                stack.wait_until_published(before + count)
                stored = stack.size_of("microblog_views")
                # They have the timelines in their caches, but for the spare.
                stack.call(api, [("GET", f"{API}/timeline?limit=1", None, tokens[name])
                                 for name in graph.readers[:200]])
            had, heard = stack.entries(), invalidations.count()
            used = stack.measure(stack.wait_until_folded)
            made = stack.entries() - had
            messages, size = (after - before for after, before in zip(invalidations.count(), heard))
            grown = stack.size_of("microblog_views")
            each = {name: seconds / count for name, seconds in used.items()}
            each |= {"invalidations": messages / count, "bytes": size / count, "entries": made / count}
            if "dataSize" in stored:
                each["stored"] = (grown["dataSize"] - stored["dataSize"]) / count
            by_class[followers] = each
        lowest = by_class[0]
        for followers, each in by_class.items():
            if not followers:
                continue
            more = each["entries"] - lowest["entries"]
            for process in ("query-service-projector-1", "mongodb", "nats"):
                found.add(f"entry_{followers}.{short(process)}", "µs",
                          per_more(each[process], lowest[process], more) * MICROSECONDS)
            found.add(f"entry_{followers}.invalidation_bytes", "bytes", per_more(each["bytes"], lowest["bytes"], more))
            found.add(f"entry_{followers}.spare_replica", "µs",
                      per_more(each[SPARE], lowest[SPARE], more) * MICROSECONDS)
            found.add(f"entry_{followers}.replica", "µs", per_more(
                each["query-service-api-1"], lowest["query-service-api-1"], more) * MICROSECONDS)
            if "stored" in each:
                found.add(f"entry_{followers}.stored_bytes", "bytes", per_more(each["stored"], lowest["stored"], more))
        found.add("post_without_followers.invalidations", "messages", lowest["invalidations"])
        found.add("post_without_followers.invalidation_bytes", "bytes", lowest["bytes"])
        found.add("post_without_followers.replica", "µs", lowest["query-service-api-1"] * MICROSECONDS)
        if "stored" in lowest:
            found.add("post_without_followers.stored_bytes", "bytes", lowest["stored"])
    trimmed(stack, graph, tokens, scale, found)
    one_by_one(stack, graph, tokens, invalidations, scale, found)


def trimmed(stack: BenchStack, graph: Graph, tokens: dict[str, str], scale: float, found: Results) -> None:
    """Entries to timelines that are full, so that for each one that comes an older one goes."""
    followers = 400
    for _ in range(12):
        count = max(300, int(450 * scale))
        with stack.paused(stack.projector()):
            before = stack.stream()["last_seq"]
            stack.post(graph.authors[followers][:1], count, tokens)
            stack.wait_until_published(before + count)
        had, cut = stack.entries(), stack.metric(stack.projector(), "query_service_trims_total")
        used = stack.measure(stack.wait_until_folded)
        made = stack.entries() - had
        cut = stack.metric(stack.projector(), "query_service_trims_total") - cut
        # They are all full once a round trims each of them. How many entries a trim takes away depends on how many came
        # in one step, 200 at the least.
        if cut >= 0.9 * followers:
            found.cpu("entry_to_full_timelines", used, made, *FOLDING)
            found.add("entry_to_full_timelines.trims", "trims per 1,000 entries", cut / made * 1000)
            if len(found.values["entry_to_full_timelines.trims"]) == 3:
                return
    if "entry_to_full_timelines.trims" not in found.values:
        raise Failed("timelines that are full are not trimmed")


def one_by_one(stack: BenchStack, graph: Graph, tokens: dict[str, str], invalidations: InvalidationMessages,
               scale: float, found: Results) -> None:
    """Posts that come singly, each in a batch of its own: what invalidation messages cost that are many and small."""
    for _ in range(3):
        count, heard = max(100, int(200 * scale)), invalidations.count()
        before = stack.used()
        for _ in range(count):
            stack.post(graph.authors[0], 1, tokens)
            stack.supervisor.pause(0.02)
        stack.wait_until_folded()
        used = stack.used().since(before, stack.idle)
        messages, size = (after - before for after, before in zip(invalidations.count(), heard))
        # What partitions say every half second anyway is in what the processes use when nothing happens.
        more = max(messages / 2, messages - 2 * stack.partitions * (time.monotonic() - before.at))
        found.add("invalidation.replica", "µs", used[SPARE] / more * MICROSECONDS)
        found.add("invalidation.bytes", "bytes", size / messages)
        found.add("single_post.invalidations", "messages", more / count)


def partitions(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """an event that a partition reads and that is not its own, and an idle second, by the number of partitions"""
    count = max(1000, int(12_000 * scale))
    for number in PARTITION_COUNTS:
        stack = BenchStack(supervisor, number)
        stack.start()
        users = [f"user_{number}" for number in range(256)]
        stack.load({"type": "user", "username": name} for name in users)
        tokens = stack.tokens(*users[:40])
        stack.settle()
        for process, seconds in stack.idle.items():
            if process in ("query-service-projector-1", "mongodb", "nats", SPARE):
                found.add(f"idle_p{number}.{short(process)}", "ms a second", seconds * 1000)
        for turn in range(repeat):
            before = stack.stream()["last_seq"]
            with stack.paused(stack.projector()):
                stack.load({"type": "post", "username": users[n % 256], "content": f"In turn {turn}, post {n}"}
                           for n in range(count))
                stack.wait_until_published(before + count)
            found.cpu(f"fold_p{number}", stack.measure(stack.wait_until_folded), count, *FOLDING)
            single = max(60, int(150 * scale))
            started = stack.used()
            for n in range(single):
                stack.post([users[n % 40]], 1, tokens)
                stack.supervisor.pause(0.03)
            stack.wait_until_folded()
            found.cpu(f"single_p{number}", stack.used().since(started, stack.idle), single, *FOLDING)
        stop(stack)


def reads(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """a timeline from the cache, unchanged, and from the database; a post, a profile, an author's feed"""
    stack, graph, tokens = people(supervisor, scale)
    api = stack.first("query-service", "api")
    page = f"{API}/timeline"
    for _ in range(repeat):
        restart(stack)
        others = graph.readers[:max(300, int(1000 * scale))]
        # Those who are apart share no post with anybody, so nothing of theirs is cached. The others share theirs.
        for name, readers in (("timeline_cold", graph.apart), ("timeline_cold_posts_cached", others)):
            looks = cache_looks(stack)
            used = stack.measure(lambda: stack.call(api, [("GET", page, None, tokens[reader]) for reader in readers]))
            found.cpu(name, used, len(readers), *READING)
            for cache in ("posts", "timelines"):
                found.add(f"{name}.{cache}_hit", "share", hits(looks, cache_looks(stack), cache))
        few = graph.readers[:20]
        stack.call(api, [("GET", page, None, tokens[reader]) for reader in few])
        looks, count = cache_looks(stack), max(400, int(3000 * scale))
        sent: list = []
        used = stack.measure(lambda: sent.extend(stack.call(
            api, [("GET", page, None, tokens[few[n % 20]]) for n in range(count)])))
        found.cpu("timeline_hot", used, count, *READING)
        found.add("timeline_hot.timelines_hit", "share", hits(looks, cache_looks(stack), "timelines"))
        found.add("timeline.body", "bytes", statistics.mean(len(answer.body) for answer in sent))
        tags = {reader: stack.call(api, [("GET", page, None, tokens[reader])])[0].headers["etag"] for reader in few}
        unchanged = [("GET", page, None, tokens[few[n % 20]], {"if_none_match": tags[few[n % 20]]})
                     for n in range(count)]
        found.cpu("timeline_unchanged", stack.measure(lambda: stack.call(api, unchanged)), count, *READING)
        posts = [json.loads(answer.body)["posts"] for answer in sent[:20]]
        ids = [(post["post_id"], post["user_id"]) for page_of in posts for post in page_of[:5]]
        for name, paths in (("post", [f"{API}/posts/{post}" for post, _ in ids]),
                            ("profile", [f"{API}/users/{user}" for _, user in ids]),
                            ("author_feed", [f"{API}/users/{user}/posts" for _, user in ids])):
            stack.call(api, [("GET", path, None, None) for path in paths])
            answered: list = []
            used = stack.measure(lambda: answered.extend(stack.call(
                api, [("GET", paths[n % len(paths)], None, None) for n in range(count)])))
            found.cpu(name, used, count, *READING)
            found.add(f"{name}.body", "bytes", statistics.mean(len(answer.body) for answer in answered))


def merges(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """an author's feed that is merged into a page, because the author is a celebrity"""
    stack = BenchStack(supervisor, CELEBRITY_THRESHOLD="40")
    stack.start()
    lines, groups = celebrities()
    stack.load(lines)
    tokens = stack.tokens(*(reader for group in groups.values() for reader in group))
    stack.settle()
    found.add("merges.celebrities", "authors in the sum of partitions", stack.metric(
        stack.first("query-service", "api"), "query_service_celebrity_authors"))
    api, page = stack.first("query-service", "api"), f"{API}/timeline"
    for _ in range(repeat):
        restart(stack)
        cold, hot = {}, {}
        for followed, readers in groups.items():
            asked = [("GET", page, None, tokens[reader]) for reader in readers]
            cold[followed] = stack.measure(lambda: stack.call(api, asked))
            times = max(5, int(20 * scale))
            hot[followed] = stack.measure(lambda: stack.call(api, asked * times))
            for process in ("query-service-api-1", "mongodb"):
                cold[followed][process] /= len(asked)
                hot[followed][process] /= len(asked) * times
        least, most = min(groups), max(groups)
        for name, used in (("merged_author_cold", cold), ("merged_author_hot", hot)):
            for process in ("query-service-api-1", "mongodb"):
                found.add(f"{name}.{short(process)}", "µs", per_more(
                    used[most][process], used[least][process], most - least) * MICROSECONDS)


def streams(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """a live stream that is quiet (memory, CPU), and an event on it"""
    stack, graph, tokens = people(supervisor, scale)
    api = stack.first("query-service", "api")
    everybody = max(CLASSES)
    readers = graph.followers_of[everybody]
    before = stack.used()
    with LiveStreams(api.port, [tokens[reader] for reader in readers]) as live:
        stack.patiently("all streams are open",
                        lambda: stack.metric(api, "query_service_live_streams") == len(readers))
        stack.supervisor.pause(20)
        held = stack.used().resident[api.name] - before.resident[api.name]
        found.add("stream.memory", "bytes", held / len(readers))
        for _ in range(repeat):
            seconds = 30
            used = stack.measure(lambda: stack.supervisor.pause(seconds))
            for process in ("query-service-api-1", "mongodb"):
                found.add(f"stream_second.{short(process)}", "µs",
                          used[process] / len(readers) / seconds * MICROSECONDS)
            had, count = stack.metric(api, "query_service_live_events_total"), max(5, int(20 * scale))
            started, received = stack.used(), live.bytes
            for _ in range(count):
                stack.post(graph.authors[everybody], 1, tokens)
                stack.supervisor.pause(0.5)
            wanted = had + count * len(readers)
            stack.patiently("all streams have all events",
                            lambda: stack.metric(api, "query_service_live_events_total") >= wanted)
            ended = stack.used()
            sent = stack.metric(api, "query_service_live_events_total") - had
            # What the streams use anyway is no part of it.
            quiet = {short(name): found.values[f"stream_second.{short(name)}"][-1] / MICROSECONDS * len(readers)
                     for name in ("query-service-api-1", "mongodb")}
            used = ended.since(started, stack.idle)
            for process in ("query-service-api-1", "mongodb"):
                alone = max(0.0, used[process] - quiet[short(process)] * (ended.at - started.at))
                found.add(f"stream_event.{short(process)}", "µs", alone / sent * MICROSECONDS)
            stack.supervisor.pause(1)
            found.add("stream_event.bytes", "bytes", (live.bytes - received) / sent)


def rebuild(supervisor: Supervisor, scale: float, repeat: int, found: Results) -> None:
    """all views made anew from the stream, and compared: CPU for each message; the rate is this machine's just then"""
    stack, _, _ = people(supervisor, scale)
    messages = stack.stream()["messages"]
    for _ in range(min(repeat, 2)):
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        before, began = stack.used(), time.monotonic()
        stack.operate("query-service", "rebuild", "--fresh")
        seconds = time.monotonic() - began
        used = stack.used().since(before, stack.idle)
        operator = resource.getrusage(resource.RUSAGE_CHILDREN)
        used["operator"] = operator.ru_utime + operator.ru_stime - children.ru_utime - children.ru_stime
        # The command folds most partitions itself.
        found.cpu("rebuild_message", used, messages, "mongodb", "operator")
        found.add("rebuild.rate", "messages a second, this machine", messages / seconds)
        stack.operate("query-service", "rebuild", "--drop")


def failover(supervisor: Supervisor, _scale: float, repeat: int, found: Results) -> None:
    """how long until another process works when one stops answering without a word"""
    stack = BenchStack(supervisor)
    stack.add("command-service", "relay")
    stack.add("query-service", "projector")
    stack.start()
    stack.load({"type": "user", "username": f"user_{number}"} for number in range(40))
    tokens = stack.tokens(*(f"user_{number}" for number in range(40)))
    stack.settle()
    for _ in range(repeat):
        for kind, roles in (("relay", stack.all("command-service", "relay")),
                            ("projector", stack.all("query-service", "projector"))):
            holders = [role for role in roles if stack.metric(
                role, "relay_active" if kind == "relay" else "query_service_partitions_held") > 0]
            if not holders:
                raise Failed(f"no {kind} is at work")
            with stack.paused(holders[0]):
                began, last = time.monotonic(), stack.stream()["last_seq"]
                stack.post(list(tokens), 40, tokens)
                if kind == "relay":
                    stack.wait("the other relay publishes", lambda: stack.stream()["last_seq"] >= last + 40)
                else:
                    others = [role for role in roles if role is not holders[0]]
                    stack.wait("the others hold all partitions", lambda: sum(stack.metric(
                        role, "query_service_partitions_held") for role in others) >= stack.partitions)
                found.add(f"failover.{kind}", "seconds", time.monotonic() - began)
            stack.wait_until_folded()


# --- what several of them need -------------------------------------------------------------------------------------

def people(supervisor: Supervisor, scale: float) -> tuple[BenchStack, Graph, dict[str, str]]:
    """A stack with readers who follow many, and authors with a known number of followers."""
    stack = BenchStack(supervisor)
    stack.start()
    graph = Graph.of(scale)
    stack.load(graph.lines())
    stack.wait_until_folded()
    tokens = stack.tokens(*graph.readers, *graph.apart, *(name for names in graph.authors.values() for name in names))
    stack.settle()
    return stack, graph, tokens


def restart(stack: BenchStack) -> None:
    """A query API that remembers nothing."""
    api = stack.first("query-service", "api")
    stack.supervisor.stop(api.process)
    stack.start_role(api)
    stack.wait_until_ready(api)
    stack.supervisor.pause(2)  # until it has heard every partition, it uses no cache


def stop(stack: BenchStack) -> None:
    for role in reversed(stack.roles):
        stack.supervisor.stop(role.process)
    stack.supervisor.stop(*stack.engines.values())


def cache_looks(stack: BenchStack) -> dict[tuple[str, str], float]:
    api = stack.first("query-service", "api")
    return {(cache, outcome): stack.metric(api, "query_service_cache_looks_total", cache=cache, outcome=outcome)
            for cache in ("posts", "timelines") for outcome in ("hit", "miss")}


def hits(before: dict, after: dict, cache: str) -> float:
    hit, miss = (after[cache, outcome] - before[cache, outcome] for outcome in ("hit", "miss"))
    return hit / (hit + miss) if hit + miss else 0.0


MEASURES = {each.__name__: each for each in (
    commands, deliveries, partitions, reads, merges, streams, rebuild, failover)}


# --- the command line -----------------------------------------------------------------------------------------------

def measure(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else {}
    values = kept.get("values", {})
    for name in arguments.measures or MEASURES:
        found, began = Results(name), time.monotonic()
        note(f"{name}: {MEASURES[name].__doc__}")
        supervised_alone(supervisor, MEASURES[name], arguments, found)
        values = {key: row for key, row in values.items() if row["command"] != f"make bench ONLY={name}"}
        values |= found.rows()
        show(found)
        note(f"{name}: {time.monotonic() - began:.0f} s, load average {os.getloadavg()[0]:.1f}")
        if not arguments.dry:
            RESULTS.write_text(json.dumps({
                "machine": {"cores": os.cpu_count(), "kind": f"{cpu_kind()}, shared", "system": platform.system()},
                "date": time.strftime("%Y-%m-%d"), "binaries": arguments.binaries,
                "database": arguments.database or kind_of_database(supervisor), "values": dict(sorted(values.items())),
            }, indent=1, ensure_ascii=False) + "\n")
    return 0


def supervised_alone(supervisor: Supervisor, work, arguments: argparse.Namespace, found: Results) -> None:
    """The next measure has the machine for itself."""
    running = len(supervisor._running)
    work(supervisor, arguments.scale, arguments.repeat, found)
    supervisor.stop(*reversed(supervisor._running[running:]))


def parse() -> argparse.Namespace:
    listed = "\n".join(f"  {name:<12} {each.__doc__}" for name, each in MEASURES.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"measures:\n{listed}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="all, if none is named")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything: 0.1 to try the script")
    parser.add_argument("--repeat", type=int, default=3, help="how often each figure is measured")
    parser.add_argument("--binaries", default="release", help="which build it is, for the record")
    parser.add_argument("--database", help="which database it is, for the record, if it is not one that is known")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.measures if name not in MEASURES]:
        parser.error(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    if arguments.repeat < 1 or arguments.scale <= 0:
        parser.error("--repeat wants 1 or more, --scale more than 0")
    return arguments


if __name__ == "__main__":
    options = parse()
    sys.exit(supervised(lambda supervisor: measure(supervisor, options)))
