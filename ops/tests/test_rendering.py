"""Configurations and units."""

import dataclasses
import shutil
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

from bootstrap import rendering
from bootstrap.founding import founding_words
from bootstrap.inventory import ETCD, Inventory
from bootstrap.problem import Problem
from bootstrap.processes import Process, chosen, layout_of, processes_of
from bootstrap.rendering import configuration, toml

from .samples import replicated, sample

# A version as an installed build has.
VERSION = "0.1.0-0123456789ab"


def named(inventory: Inventory, name: str) -> Process:
    return chosen(processes_of(inventory), None, None, name)[0]


class Processes(unittest.TestCase):
    def test_every_tier_comes_after_the_ones_below(self) -> None:
        names = [process.name for process in processes_of(replicated())]
        etcd = ["etcd-alpha", "etcd-beta", "etcd-gamma"]
        self.assertEqual(names, [*etcd, "n1", "n2", "n3", "s-alpha", "cc-beta", "cc-gamma"])

    def test_members_of_a_cluster_stand_in_for_each_other(self) -> None:
        inventory = replicated(('c1 = ["n1", "n2", "n3"]', 'c1 = ["n1", "n2"]\nc2 = ["n3"]'))
        groups = [named(inventory, name).group() for name in ("n1", "n2", "n3", "cc-beta")]
        self.assertEqual(groups[0], groups[1])
        self.assertEqual(len(set(groups)), 3)

    def test_processes_are_chosen_by_host_role_or_name(self) -> None:
        processes = processes_of(replicated())
        on_alpha = [process.name for process in chosen(processes, "alpha", None, None)]
        self.assertEqual(on_alpha, ["etcd-alpha", "n1", "s-alpha"])
        self.assertEqual(len(chosen(processes, None, "data-node", None)), 3)
        with self.assertRaisesRegex(Problem, "no host delta; it has alpha, beta, gamma"):
            chosen(processes, "delta", None, None)
        with self.assertRaisesRegex(Problem, "processes are etcd-alpha"):
            chosen(processes, "alpha", None, "n3")

    def test_the_founding_has_all_nodes_of_a_cluster(self) -> None:
        self.assertEqual(founding_words(replicated())[:2], ["--cluster", "c1=n1,n2,n3"])


class Configurations(unittest.TestCase):
    def test_a_data_node_has_its_place_its_settings_and_coordination(self) -> None:
        inventory = replicated()
        keys = tomllib.loads(configuration(named(inventory, "n2"), inventory.name))
        url = "etcd://10.0.0.1:2379,10.0.0.2:2379,[fd00::3]:2379/shop"
        expected = {
            "node": "n2",
            "cluster": "c1",
            "data_dir": "/srv/n2",
            "listen": "10.0.0.2:7700",
            "metrics_listen": "10.0.0.2:7780",
            "limits": {"connections": 500},
            "wal": {"max_bytes": "1 GiB"},
            "coordination": {"url": url},
        }
        self.assertEqual(keys, expected)

    def test_settings_of_other_roles_are_left_out(self) -> None:
        inventory = replicated()
        keys = tomllib.loads(configuration(named(inventory, "cc-gamma"), inventory.name))
        self.assertEqual(keys["grpc_listen"], "[fd00::3]:7400")
        self.assertEqual(keys["limits"], {"connections": 500})
        self.assertNotIn("wal", keys)

    def test_a_member_of_etcd_names_all_members(self) -> None:
        text = configuration(named(replicated(), "etcd-beta"), "shop")
        peers = (
            "etcd-alpha=http://10.0.0.1:2380,etcd-beta=http://10.0.0.2:2380,"
            "etcd-gamma=http://[fd00::3]:2380"
        )
        self.assertIn(f'initial-cluster: "{peers}"\n', text)
        self.assertIn('data-dir: "/var/lib/tierkv/shop/etcd-beta"\n', text)

    def test_an_external_etcd_is_used_with_its_keys(self) -> None:
        etcd = '[etcd]\nendpoints = ["e.example:2379"]\ntls = true\nca_file = "/etc/ca.pem"\n'
        inventory = replicated(
            ("[clusters]", f"{etcd}[clusters]"),
            ('"etcd", "server-coordinator"', '"server-coordinator"'),
            ('"etcd", "client-coordinator"', '"client-coordinator"'),
            ('"etcd", "client-coordinator"', '"client-coordinator"'),
        )
        keys = tomllib.loads(rendering.admin_configuration(inventory))
        coordination = {"url": "etcds://e.example:2379/shop", "ca_file": "/etc/ca.pem"}
        self.assertEqual(keys, {"coordination": coordination})
        self.assertFalse([it for it in processes_of(inventory) if it.role == ETCD])

    def test_a_failover_time_is_checked_against_the_bound_of_the_client_coordinators(self) -> None:
        reads = "[settings.client-coordinator.reads]\nmax_staleness_ms = 9000\n"
        inventory = replicated(("[settings.all.limits]", f"{reads}[settings.all.limits]"))
        keys = tomllib.loads(rendering.admin_configuration(inventory))
        self.assertEqual(keys["reads"], {"max_staleness_ms": 9000})

    def test_toml_keeps_every_kind_of_value(self) -> None:
        keys = {"a": 'x"\\\n', "b": {"c": 1, "d": True, "e": ["ä", "😀"], "f": 1.5}}
        self.assertEqual(tomllib.loads(toml(keys)), keys)
        with self.assertRaisesRegex(Problem, "wal.max_bytes"):
            toml({"wal": {"max_bytes": {"deep": 1}}})


class Units(unittest.TestCase):
    """`systemd-analyze` needs programs that exist, so they get a prefix."""

    def setUp(self) -> None:
        if shutil.which("systemd-analyze") is None:
            self.fail("systemd-analyze is missing: run `ops/deps.sh test`")
        folder = tempfile.TemporaryDirectory(prefix="tierkv-units-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write_units(self, inventory: Inventory) -> list[Path]:
        inventory = dataclasses.replace(inventory, prefix=str(self.folder))
        program = Path(layout_of(inventory).program(VERSION))
        program.parent.mkdir(parents=True)
        shutil.copy("/bin/true", program)
        paths = []
        for process in processes_of(inventory):
            path = self.folder / Path(rendering.unit_path(process, inventory)).name
            path.write_text(rendering.unit(process, inventory, VERSION))
            paths.append(path)
        return paths

    def verify(self, paths: list[Path]) -> subprocess.CompletedProcess[str]:
        line = ["systemd-analyze", "verify", "--man=no", *map(str, paths)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60)

    def test_the_units_of_the_sample_are_verified(self) -> None:
        paths = self.write_units(sample("inventory.toml"))
        self.assertEqual(len(paths), 10)
        ended = self.verify(paths)
        # It exits 0 also where it has only warned.
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))

    def test_a_wrong_unit_is_noticed(self) -> None:
        path = self.write_units(sample("inventory.toml"))[1]
        path.write_text(path.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
        self.assertIn("'NoNewPrivilege'", self.verify([path]).stderr)

    def test_only_what_has_data_may_write(self) -> None:
        inventory = sample("inventory.toml")
        units = {
            name: rendering.unit(named(inventory, name), inventory, VERSION)
            for name in ("n2", "etcd-gamma", "cc-alpha")
        }
        self.assertIn("\nReadWritePaths=/srv/tierkv/n2\n", units["n2"])
        self.assertIn("\nReadWritePaths=/var/lib/tierkv/shop/etcd-gamma\n", units["etcd-gamma"])
        self.assertNotIn("ReadWritePaths", units["cc-alpha"])
        for unit in units.values():
            self.assertIn(f"\nTimeoutStopSec={rendering.STOP_SECONDS}\n", unit)
            self.assertNotIn("$", unit)
        command = f"\nExecStart=/opt/tierkv/{VERSION}/tierkv datanode --config /etc/tierkv/shop/n2"
        self.assertIn(command, units["n2"])
