"""Where everything of a platform is on its hosts.

PREFIX/opt/tierkv/VERSION/tierkv          the binary; each build has a folder of its own
PREFIX/opt/tierkv/current                 a link to the VERSION that was installed last
PREFIX/etc/tierkv/PLATFORM/NAME.toml      the configuration of a process (etcd: NAME.yml)
PREFIX/etc/tierkv/PLATFORM/admin.toml     that of `tierkv admin`
PREFIX/var/lib/tierkv/PLATFORM/NAME       the data of a process
PREFIX/var/log/tierkv/PLATFORM/NAME.log   its output (supervisor none; else the journal)
PREFIX/run/tierkv/PLATFORM/NAME.pid       its process id (supervisor none)
/etc/systemd/system/tierkv-PLATFORM-NAME.service
"""

from dataclasses import dataclass

UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class Layout:
    """The paths of one platform."""

    prefix: str
    platform: str

    @property
    def programs(self) -> str:
        return f"{self.prefix}/opt/tierkv"

    @property
    def configuration(self) -> str:
        return f"{self.prefix}/etc/tierkv/{self.platform}"

    @property
    def data(self) -> str:
        return f"{self.prefix}/var/lib/tierkv/{self.platform}"

    @property
    def logs(self) -> str:
        return f"{self.prefix}/var/log/tierkv/{self.platform}"

    @property
    def run(self) -> str:
        return f"{self.prefix}/run/tierkv/{self.platform}"

    @property
    def admin(self) -> str:
        return f"{self.configuration}/admin.toml"

    @property
    def current(self) -> str:
        return f"{self.programs}/current"

    @property
    def current_program(self) -> str:
        return f"{self.current}/tierkv"

    def program(self, version: str) -> str:
        return f"{self.programs}/{version}/tierkv"

    def log(self, process: str) -> str:
        return f"{self.logs}/{process}.log"

    def unit(self, process: str) -> str:
        return f"tierkv-{self.platform}-{process}.service"
