#!/usr/bin/env python3
"""The simulation on figures that are known, and that the check of docs/capacity.md finds each kind of fault."""

from __future__ import annotations

import copy
import json
import sys
import unittest
from dataclasses import replace

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

import queues  # noqa: E402
from model import (AS_IT_IS, CHANGED, LIMITS, Assumed, Costs, Design, Prices, breaks_at, dollars, fold_at,  # noqa: E402
                   load_at, needs, zipf)
from report import FULL, Report, amount  # noqa: E402
from simulate import DOCUMENT, MEASURED, differences, written  # noqa: E402

A = Assumed()
MEASURED_HERE = json.loads(MEASURED.read_text())
COSTS = Costs(MEASURED_HERE["values"])
QUIET = queues.Partition(step=0.001, message=1e-6, own=0.0, entry=1e-6)


class Arithmetic(unittest.TestCase):
    def test_the_load_of_200_million_is_the_one_that_was_asked_for(self) -> None:
        load = load_at(200e6, A)
        self.assertAlmostEqual(load.posts / A.peak_of_posts, 5_800, delta=50)
        self.assertAlmostEqual(load.posts, 12_000, delta=100)
        self.assertAlmostEqual(load.reads / A.peak_of_reads, 23_000, delta=300)
        self.assertAlmostEqual(load.reads, 70_000, delta=1_000)

    def test_followers_of_all_are_as_many_as_followees_of_all(self) -> None:
        drawn = queues.Zipf(10_000, 50)
        mean = sum(min(drawn.cap, drawn.c / rank) for rank in range(1, 10_001)) / 10_000
        self.assertAlmostEqual(mean, 50, delta=2)

    def test_few_people_have_no_celebrity_and_a_lower_threshold_has_more(self) -> None:
        self.assertEqual(zipf(100_000, 50, 100_000).pulled_share, 0)
        shares = [zipf(400_000_000, 200, threshold).pulled_share for threshold in (10**3, 10**5, 10**7)]
        self.assertEqual(shares, sorted(shares, reverse=True))
        self.assertTrue(0 < shares[2] < shares[0] < 1)

    def test_a_line_through_measured_partitions(self) -> None:
        rows = {f"fold_p{count}.x": {"unit": "µs", "median": 5 + 2 * count} for count in (4, 16, 64)}
        slope, left = Costs(rows).slope("fold", "x")
        self.assertAlmostEqual(slope, 2e-6)
        self.assertAlmostEqual(left, 5e-6)

    def test_reading_grows_with_partitions_and_the_rest_does_not(self) -> None:
        load = load_at(50e6, A)
        few, many = (fold_at(load, COSTS, A, AS_IT_IS, count) for count in (64, 256))
        self.assertGreater(many.reading_cores, 3 * few.reading_cores)
        self.assertAlmostEqual(many.own_cores, few.own_cores)
        self.assertAlmostEqual(many.stream_network / few.stream_network, 4)
        self.assertLess(many.busy, few.busy)

    def test_a_limit_is_used_up_where_it_is_said_to_break(self) -> None:
        for limit in LIMITS:
            at = breaks_at(limit, COSTS, A, AS_IT_IS)
            if at:
                before, after = (limit.used(needs(at * by, COSTS, A), COSTS, A) for by in (0.5, 1.01))
                self.assertTrue(before < 1 <= after, f"{limit.name}: {before} and {after} around {at}")

    def test_what_each_log_has_of_its_own_lasts_for_as_many_people_more(self) -> None:
        four = replace(AS_IT_IS, logs=4)
        own = [limit for limit in LIMITS if "the log:" in limit.name or "stream fills the greatest volume" in limit.name
               or "relay" in limit.name]
        self.assertEqual(len(own), 4)
        for limit in own:
            once, later = (limit.used(needs(FULL, COSTS, A, design), COSTS, A) for design in (AS_IT_IS, four))
            self.assertAlmostEqual(once / later, 4, msg=limit.name)

    def test_each_change_needs_no_more_of_what_it_is_for(self) -> None:
        plain = needs(FULL, COSTS, A)

        def changed(**change) -> object:
            return needs(FULL, COSTS, A, replace(AS_IT_IS, **change))

        self.assertLess(changed(one_reader=True).fold.stream_network, plain.fold.stream_network)
        self.assertLess(changed(routed=True).fold.read_by_each, plain.fold.read_by_each)
        self.assertLess(changed(sticky=True).invalidation_bytes, plain.invalidation_bytes)
        self.assertLess(changed(kept_days=30).parts["broker"].disk, plain.parts["broker"].disk)
        self.assertLess(changed(quiet_streams=True).cores, plain.cores)
        self.assertLess(changed(edge=True).parts["query API"].cores, plain.parts["query API"].cores)
        self.assertLess(changed(packed=True).parts["views' database"].disk, plain.parts["views' database"].disk)
        self.assertEqual(CHANGED, Design(CHANGED.name, True, True, True, True, 30, 4, True, True))

    def test_twice_the_people_cost_more_and_not_four_times(self) -> None:
        once, twice = (sum(dollars(needs(people, COSTS, A), Prices(), A).values()) for people in (5e6, 10e6))
        self.assertTrue(once < twice < 4 * once)

    def test_amounts_keep_two_digits(self) -> None:
        self.assertEqual([amount(each) for each in (0.123, 12.3, 1234, 999_999, 1.26e9)],
                         ["0.12", "12", "1,200", "1 M", "1.3 G"])


class Queues(unittest.TestCase):
    def test_a_partition_with_little_to_do_makes_posts_visible_after_a_linger_and_a_step(self) -> None:
        seen = queues.visible(QUIET, 50, 50, 4, 10_000, 10, 10**9)
        self.assertTrue(seen.keeps_up)
        self.assertAlmostEqual(seen.median, 0.003, delta=0.0005)

    def test_a_partition_with_more_than_it_can_do_falls_behind(self) -> None:
        slow = replace(QUIET, message=0.01)
        self.assertFalse(queues.visible(slow, 1_000, 100, 4, 10_000, 10, 10**9).keeps_up)

    def test_a_lower_threshold_ends_fan_outs_in_steps(self) -> None:
        high, low = (queues.visible(QUIET, 400, 200, 4, 4_000_000, 200, threshold) for threshold in (10**9, 1_000))
        self.assertGreater(high.last_of_a_job, 0)
        self.assertEqual(low.last_of_a_job, 0)

    def test_caches_hit_as_the_arithmetic_assumes(self) -> None:
        reads = load_at(FULL, A).reads
        self.assertAlmostEqual(queues.cache_hits(reads, 60, False, 2_000), A.hot_share, delta=0.02)
        self.assertAlmostEqual(queues.cache_hits(reads, 60, True, 100_000), A.hot_share_sticky, delta=0.06)

    def test_members_that_fail_by_themselves(self) -> None:
        self.assertAlmostEqual(queues.of_all(0.9, 3, 2), 0.9**3 + 3 * 0.9**2 * 0.1)
        self.assertAlmostEqual(queues.budget_minutes(0.9999), 4.32)


class TheCheck(unittest.TestCase):
    blocks = Report(MEASURED_HERE).blocks()
    document = written(DOCUMENT.read_text(), blocks)

    def test_the_document_that_was_written_is_right(self) -> None:
        self.assertEqual(differences(self.document, self.blocks), [])

    def test_a_figure_that_was_changed_by_hand(self) -> None:
        wrong = self.document.replace("| 200 M | ", "| 201 M | ", 1)
        self.assertIn("differs in line", "".join(differences(wrong, self.blocks)))

    def test_a_measure_that_is_another_now(self) -> None:
        measured = copy.deepcopy(MEASURED_HERE)
        measured["values"]["post.accept.mongodb"]["median"] *= 2
        found = "".join(differences(self.document, Report(measured).blocks()))
        for table in ("answer", "inputs", "parts", "limits"):
            self.assertIn(f"the table {table} differs", found)

    def test_an_assumption_that_is_another_now(self) -> None:
        found = "".join(differences(self.document, Report(MEASURED_HERE, replace(A, followees=300)).blocks()))
        self.assertIn("the table threshold differs", found)

    def test_tables_that_are_missing_or_unknown(self) -> None:
        self.assertIn("the table money is not in", "".join(differences(
            self.document.replace("<!-- simulate: money -->", "<!-- simulate: gold -->"), self.blocks)))
        self.assertIn("a table gold that nobody computes", "".join(differences(
            self.document.replace("<!-- simulate: money -->", "<!-- simulate: gold -->"), self.blocks)))


if __name__ == "__main__":
    unittest.main()
