"""What the data clusters report, and what follows from it for a restart."""

import json
import unittest
from typing import Any
from unittest import mock

from bootstrap import replication
from bootstrap.founding import difference
from bootstrap.inventory import Host, Inventory
from bootstrap.problem import Problem
from bootstrap.processes import chosen, processes_of
from bootstrap.reach import Result

from .samples import replicated


def cluster(master: str, in_sync: list[str], **roles: str) -> dict[str, Any]:
    """The report of c1; each node is what its role implies, or what `roles` says."""
    nodes = {node: "master" if node == master else "replica" for node in ("n1", "n2", "n3")}
    members = [{"node": node, "role": role} for node, role in (nodes | roles).items()]
    return {"id": "c1", "master": master, "in_sync": in_sync, "members": members}


ALL = ["n1", "n2", "n3"]


class Reports(unittest.TestCase):
    """`tierkv status` answers with one report after the other, the last one again and again."""

    def setUp(self) -> None:
        self.inventory = replicated()
        self.reports: list[list[dict[str, Any]] | None] = []
        self.asked: list[str] = []
        self.said: list[str] = []
        self.now = 0.0
        outer = self

        class Answering:
            def __init__(self, host: Host, _: Inventory) -> None:
                self.host = host

            def tierkv(self, words: list[str]) -> Result:
                outer.asked.append(words[-1])
                # Beta's coordinator is away; gamma's answers.
                if self.host.name == "beta":
                    raise Problem("host beta: no answer")
                left = outer.reports
                report = left.pop(0) if len(left) > 1 else left[0]
                if report is None:
                    return Result(1, "", "unavailable")
                return Result(0, json.dumps({"clusters": report}), "")

        def sleep(seconds: float) -> None:
            outer.now += seconds

        self.enterContext(mock.patch.object(replication, "Remote", Answering))
        self.enterContext(mock.patch.object(replication.time, "sleep", sleep))
        self.enterContext(mock.patch.object(replication.time, "monotonic", lambda: outer.now))
        said = mock.patch.object(replication, "say", lambda _, what: self.said.append(what))
        self.enterContext(said)

    def wait(self, node: str) -> None:
        process = chosen(processes_of(self.inventory), None, None, node)[0]
        replication.wait_in_sync(self.inventory, process)

    def test_the_first_client_coordinator_that_answers_is_asked(self) -> None:
        self.reports = [[cluster("n1", ALL)]]
        self.assertEqual(list(replication.reported(self.inventory) or {}), ["c1"])
        self.assertEqual(self.asked, ["10.0.0.2:7400", "[fd00::3]:7400"])

    def test_masters_are_known_by_the_report(self) -> None:
        self.reports = [[cluster("n3", ALL)]]
        self.assertEqual(replication.masters(self.inventory), {"n3"})
        self.reports = [None]
        self.assertEqual(replication.masters(self.inventory), set())

    def test_the_record_must_list_the_node_and_its_master_must_serve(self) -> None:
        behind = cluster("n1", ["n1", "n3"], n2="joining")
        taking_over = cluster("n1", ALL, n1="taking_over")
        early = cluster("n1", ALL, n2="starting")
        self.reports = [None, [], [behind], [taking_over], [early], [cluster("n1", ALL)]]
        self.wait("n2")
        self.assertEqual(self.now, 5 * replication.PAUSE_SECONDS)
        self.assertEqual(len(self.reports), 1)
        self.assertEqual(self.said, [])

    def test_what_does_not_get_in_sync_ends_the_restart(self) -> None:
        self.reports = [[cluster("n1", ["n1", "n3"], n2="joining")]]
        with self.assertRaisesRegex(Problem, "n2: the record of c1 does not list it in sync, for"):
            self.wait("n2")
        self.assertGreaterEqual(self.now, replication.START_SECONDS)
        self.now = 0
        self.reports = [[cluster("n1", ALL, n1="unreachable")], None]
        with self.assertRaisesRegex(Problem, "n2: no client coordinator answers, for"):
            self.wait("n2")

    def test_without_any_client_coordinator_the_node_alone_counts(self) -> None:
        self.reports = [None]
        self.wait("n2")
        self.assertEqual(
            self.said, ["no client coordinator answers, so only the node itself was asked"]
        )
        self.assertEqual(self.now, replication.NOBODY_SECONDS)


class Difference(unittest.TestCase):
    def test_it_has_the_commands_that_change_the_platform(self) -> None:
        text = difference("c1", ["n1", "n2", "n9"], ["n1", "n2", "n3"])
        self.assertIn("has the nodes n1, n2, n9, but the inventory lists n1, n2, n3", text)
        self.assertIn("add-node --address HOST:PORT --cluster c1 --node n3 --no-wait`", text)
        self.assertIn("remove-node --address HOST:PORT --cluster c1 --node n9`", text)
