"""The inventory: what is accepted, and how what is not is refused."""

import tempfile
import unittest
from pathlib import Path

from bootstrap.inventory import read
from bootstrap.problem import Problem

from .samples import refusal, replicated, sample


class Accepted(unittest.TestCase):
    def test_the_samples_of_the_repository_are_sound(self) -> None:
        for name in ("inventory.toml", "trial.toml"):
            inventory = sample(name)
            self.assertEqual(inventory.clusters["c1"], ("n1", "n2", "n3"), name)
            self.assertNotIn("data nodes of c1 are on", " ".join(inventory.notes))
        # A copy of it that is adapted is as good as it can be.
        self.assertEqual(sample("inventory.toml").notes, ())
        self.assertEqual({host.supervisor for host in sample("trial.toml").hosts}, {"none"})

    def test_a_host_overrides_what_the_platform_says(self) -> None:
        inventory = replicated()
        alpha, beta, gamma = inventory.hosts
        self.assertEqual([alpha.supervisor, beta.supervisor], ["systemd", "none"])
        self.assertEqual(gamma.reach, "local")
        self.assertEqual(beta.data_nodes[0].port, 7700)
        self.assertEqual(alpha.data_nodes[0].port, 7600)
        self.assertEqual(inventory.binary, Path("/etc/tierkv"))
        ports = ('name = "gamma"', 'name = "gamma"\nports = { grpc = 7401 }')
        gamma = replicated(ports).hosts[2]
        self.assertEqual((gamma.ports["grpc"], gamma.ports["rest"]), (7401, 7480))

    def test_what_works_badly_is_noted(self) -> None:
        notes = " / ".join(replicated().notes)
        self.assertIn("there is one server-coordinator", notes)
        self.assertNotIn("client-coordinator", notes)
        self.assertNotIn("c1", notes)
        fewer = replicated(('c1 = ["n1", "n2", "n3"]', 'c1 = ["n1", "n2"]\nc2 = ["n3"]'))
        notes = " / ".join(fewer.notes)
        self.assertIn("c1 has two data nodes: while one is away, it takes no writes", notes)
        self.assertIn("c2 has one data node: while it restarts", notes)
        moved = replicated(
            ('data_nodes = ["n3"]', ""),
            ('data_nodes = ["n1"]', 'data_nodes = ["n1", {name="n3",port=1,metrics_port=2}]'),
            ('roles = ["etcd", "server-coordinator"]', 'roles = ["server-coordinator"]'),
        )
        notes = " / ".join(moved.notes)
        self.assertIn("2 data nodes of c1 are on the host alpha", notes)
        self.assertIn("etcd has 2 members", notes)


class Refused(unittest.TestCase):
    def assert_refused(self, words: str, *changes: tuple[str, str]) -> None:
        self.assertIn(words, refusal(*changes))

    def test_every_problem_is_listed_at_once(self) -> None:
        text = refusal(
            ('name = "shop"', 'name = "Shop"'),
            ('address = "10.0.0.1"', 'address = "alpha"'),
            ('reach = "netns:beta"', 'reach = "telnet:beta"'),
        )
        self.assertEqual(len(text.splitlines()), 3, text)
        self.assertIn("'Shop' can't be a name", text)
        self.assertIn("[[host]] alpha: address: 'alpha' is not an IP address", text)
        self.assertIn("local, ssh:USER@HOST or netns:NAME", text)
        self.assertTrue(all(line.startswith("/etc/shop.toml: ") for line in text.splitlines()))

    def test_unknown_keys_and_wrong_types_are_named(self) -> None:
        self.assert_refused(
            "[platform]: nmae: there is no such key; there are name, binary",
            ('name = "shop"', 'name = "shop"\nnmae = "x"'),
        )
        self.assert_refused("names: there is no such key", ('name = "beta"', 'names = "beta"'))
        self.assert_refused("port: 0 is not a port", ("port = 7700", "port = 0"))
        self.assert_refused("port: True is not a port", ("port = 7700", "port = true"))
        self.assert_refused("c1: it is a list of texts", ('["n1", "n2", "n3"]', '"n1"'))
        self.assert_refused("'raid' is none of", ('"etcd", "server', '"raid", "etcd", "server'))
        self.assert_refused(
            "supervisor: 'init' is none of systemd, none",
            ('supervisor = "none"', 'supervisor = "init"'),
        )
        self.assert_refused(
            "failover_ms: 10 is not a number from 200 to 30000",
            ('name = "shop"', 'name = "shop"\nfailover_ms = 10'),
        )

    def test_what_does_not_fit_together_is_refused(self) -> None:
        self.assert_refused("no host has the data node n3", ('["n3"]', "[]"))
        self.assert_refused("the data node n4 is in no cluster", ('["n3"]', '["n3", "n4"]'))
        self.assert_refused("2 hosts have the data node n1", ('["n3"]', '["n3", "n1"]'))
        self.assert_refused(
            "n1 is named 2 times", ('c1 = ["n1", "n2", "n3"]', 'c1 = ["n1"]\nc2 = ["n1"]')
        )
        self.assert_refused("2 hosts have this name", ('name = "beta"', 'name = "alpha"'))
        self.assert_refused(
            "the data node n1 and the data node n9 would all listen on 10.0.0.1:7600",
            ('data_nodes = ["n1"]', 'data_nodes = ["n1", "n9"]'),
        )
        self.assert_refused(
            "no host has the role server-coordinator", ('"etcd", "server-coordinator"', '"etcd"')
        )
        self.assert_refused(
            "remove one of the two",
            ("[clusters]", '[etcd]\nendpoints = ["10.0.0.9:2379"]\n[clusters]'),
        )
        self.assert_refused("'10.0.0.9' is not HOST:PORT", ("[clusters]", EXTERNAL_WITHOUT_PORT))
        self.assert_refused(
            "s-alpha is also the name of a process", ('c1 = ["n1"', 'c1 = ["s-alpha", "n1"')
        )
        self.assert_refused(
            "the units of systemd can't use /home/n2",
            ('data_dir = "/srv/n2"', 'data_dir = "/home/n2"'),
            ('supervisor = "none"', ""),
        )

    def test_paths_and_settings_that_would_break_out_are_refused(self) -> None:
        for path in ("srv/n2", "/srv/n 2", "/srv/../etc", "/srv/%n", "/srv/$HOME"):
            self.assert_refused("can't be used", ('"/srv/n2"', f'"{path}"'))
        self.assert_refused(
            "[settings.data-node]: listen: the inventory's other tables set it",
            ("[settings.data-node.wal]", '[settings.data-node]\nlisten = "x"\n[settings.all.wal]'),
        )
        self.assert_refused(
            "[settings]: datanode: there is no such key",
            ("settings.data-node", "settings.datanode"),
        )

    def test_a_file_that_is_no_inventory_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "i.toml"
            with self.assertRaisesRegex(Problem, "copy ops/inventory.toml"):
                read(path)
            path.write_text("[platform\n")
            with self.assertRaisesRegex(Problem, "it is not TOML"):
                read(path)
            path.write_bytes(b"\xff")
            with self.assertRaisesRegex(Problem, "it is not UTF-8"):
                read(path)
            path.write_text("")
            with self.assertRaisesRegex(Problem, r"host: there is none; describe each with"):
                read(path)


EXTERNAL_WITHOUT_PORT = '[etcd]\nendpoints = ["10.0.0.9"]\n[clusters]'
