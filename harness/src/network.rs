//! A network whose lines a test can cut.
//!
//! ```text
//!  test ── bridge 10.77.0.1 ─┬─ host 10.77.0.2 ── a server
//!                            └─ host 10.77.0.3 ── another one
//! ```
//!
//! Each host is a network namespace with one address. The bridge and the hosts belong to a user
//! namespace, so an unprivileged user can make them, no other process of the machine sees them, and
//! they disappear with the last process inside, at the latest when the test ends or is killed. A
//! test enters such a namespace by running again in it ([`again`]), because a process with several
//! threads can't enter one. A *holder* process keeps the namespace of a host while its server is
//! killed and started again.

pub mod again;

use std::{collections::BTreeMap, ffi::OsString, process::Command, time::Duration};

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    process::{Process, Program},
};

/// The host that is the test itself.
pub const TEST: &str = "test";
/// The bridge, which also has the test's own address.
const BRIDGE: &str = "tierkv0";
/// The first three bytes of every address.
const SUBNET: &str = "10.77.0";
/// Most hosts, the test included: the last byte of an address is from 1 to 254.
const MAX_HOSTS: u8 = 254;
/// The only interface of a host, besides loopback.
const INTERFACE: &str = "eth0";
/// A hardware address that nobody has.
const NOBODYS_HARDWARE: &str = "02:00:00:00:00:00";
/// Timeout for the start of a holder.
const HOLD_LIMIT: Duration = Duration::from_secs(10);
/// Prints a line once it runs in the new namespace, and then holds it.
const HOLD: &str =
    "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && echo held && exec sleep infinity";
const IP_REMEDY: &str = "install the Debian package iproute2";
/// Seconds after which a connection that is not made counts as impossible.
const CONNECT_SECONDS: &str = "0.5";

/// How packets are lost on a cut line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A blackhole route at the sender. Its existing connections fall silent, and its attempts to
    /// connect fail at once.
    Blackhole,
    /// The sender sends to a hardware address that nobody has, so that nothing fails but by a
    /// timeout.
    Silent,
}

/// One direction of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lost {
    from: String,
    to: String,
    loss: Loss,
}

/// One network namespace.
#[derive(Debug)]
struct Host {
    /// `None`: the namespace of this process.
    holder: Option<Process>,
    address: String,
    interface: &'static str,
}

/// A bridge and the hosts on it.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<String, Host>,
    lost: Vec<Lost>,
}

impl Network {
    /// Makes the bridge in the network namespace of this process.
    ///
    /// # Errors
    /// If this process is not in a namespace of its own ([`again`]), or may not.
    fn new() -> Result<Self, Error> {
        let address = format!("{SUBNET}.1");
        ip(&[], &["link", "set", "lo", "up"])?;
        ip(&[], &["link", "add", BRIDGE, "type", "bridge"])?;
        let masked = format!("{address}/24");
        ip(&[], &["address", "add", &masked, "dev", BRIDGE])?;
        ip(&[], &["link", "set", BRIDGE, "up"])?;
        let test = Host {
            holder: None,
            address,
            interface: BRIDGE,
        };
        Ok(Self {
            hosts: BTreeMap::from([(TEST.to_owned(), test)]),
            lost: Vec::new(),
        })
    }

    /// Adds a host, and returns its address.
    ///
    /// # Errors
    /// If the network is full, or the system refuses.
    pub async fn add(&mut self, name: &str) -> Result<String, Error> {
        let taken = u8::try_from(self.hosts.len()).unwrap_or(MAX_HOSTS);
        if taken >= MAX_HOSTS {
            let full = format!("the network has {MAX_HOSTS} hosts already; use fewer processes");
            return Err(io_error("adding a host")(std::io::Error::other(full)));
        }
        let number = taken + 1;
        let program = Program::of_package("unshare", "install the Debian package util-linux");
        let words = ["--net", "--", "sh", "-c", HOLD];
        let mut holder = Process::spawn(&program, words, &DataFolder::new("host")?)?;
        holder
            .wait_until(
                "hold a network namespace",
                HOLD_LIMIT,
                |holder| match holder.first_line() {
                    Some(_) => Ok(Some(())),
                    None => holder.check().map(|()| None),
                },
            )
            .await?;
        let address = format!("{SUBNET}.{number}");
        let (veth, pid) = (format!("veth{number}"), holder.pid().to_string());
        let entrance = entrance(holder.pid());
        let peer = ["type", "veth", "peer", "name", INTERFACE, "netns", &pid];
        ip(&[], &[&["link", "add", &veth][..], &peer].concat())?;
        ip(&[], &["link", "set", &veth, "master", BRIDGE, "up"])?;
        let masked = format!("{address}/24");
        ip(&entrance, &["address", "add", &masked, "dev", INTERFACE])?;
        ip(&entrance, &["link", "set", INTERFACE, "up"])?;
        let host = Host {
            holder: Some(holder),
            address: address.clone(),
            interface: INTERFACE,
        };
        self.hosts.insert(name.to_owned(), host);
        Ok(address)
    }

    /// The command line prefix that starts a server on a host; empty for the test itself.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn entrance(&self, name: &str) -> Result<Vec<OsString>, Error> {
        let holder = self.host(name)?.holder.as_ref();
        Ok(holder.map_or_else(Vec::new, |holder| entrance(holder.pid())))
    }

    /// From now on, everything that one host sends to another is lost, also on existing
    /// connections.
    ///
    /// # Errors
    /// If there is no such host, or the system refuses.
    pub fn cut(&mut self, from: &str, to: &str, loss: Loss) -> Result<(), Error> {
        let lost = Lost {
            from: from.to_owned(),
            to: to.to_owned(),
            loss,
        };
        let address = self.host(to)?.address.as_str();
        let interface = self.host(from)?.interface;
        let words = match loss {
            Loss::Blackhole => vec!["route", "add", "blackhole", address],
            Loss::Silent => {
                let neighbour = ["neighbour", "replace", address, "dev", interface];
                let hardware = ["lladdr", NOBODYS_HARDWARE, "nud", "permanent"];
                [&neighbour[..], &hardware].concat()
            }
        };
        ip(&self.entrance(from)?, &words)?;
        self.lost.push(lost);
        Ok(())
    }

    /// Heals all cuts.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn heal(&mut self) -> Result<(), Error> {
        while let Some(Lost { from, to, loss }) = self.lost.pop() {
            let address = self.host(&to)?.address.as_str();
            let interface = self.host(&from)?.interface;
            let words = match loss {
                Loss::Blackhole => vec!["route", "delete", "blackhole", address],
                Loss::Silent => vec!["neighbour", "delete", address, "dev", interface],
            };
            ip(&self.entrance(&from)?, &words)?;
        }
        Ok(())
    }

    /// Whether a new TCP connection from a host to `port` of another one can be made.
    ///
    /// # Errors
    /// If there is no such host, or the system refuses.
    pub fn connects(&self, from: &str, to: &str, port: u16) -> Result<bool, Error> {
        let target = format!("/dev/tcp/{}/{port}", self.host(to)?.address);
        let words = ["timeout", CONNECT_SECONDS, "bash", "-c", "exec 3<>\"$0\""];
        let mut line = self.entrance(from)?.into_iter();
        let words = words.map(OsString::from);
        let mut line = line.by_ref().chain(words);
        let mut command = Command::new(line.next().unwrap_or_default());
        let output = command.args(line).arg(target).output();
        let output = output.map_err(io_error(format!("connecting from {from} to {to}")))?;
        Ok(output.status.success())
    }

    fn host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts.get(name).ok_or_else(|| {
            let missing = std::io::Error::other("the network has no such host");
            io_error(format!("finding the host {name}"))(missing)
        })
    }
}

fn entrance(holder: u32) -> Vec<OsString> {
    let namespace = format!("--net=/proc/{holder}/ns/net");
    ["nsenter", &namespace, "--"].map(OsString::from).into()
}

/// Runs `ip` with `words`, in the namespace of `entrance`.
fn ip(entrance: &[OsString], words: &[&str]) -> Result<(), Error> {
    let what = format!("ip {}", words.join(" "));
    let program = Program::of_package("ip", IP_REMEDY).located()?;
    let mut line = entrance.iter().cloned().chain([program.into_os_string()]);
    let mut command = Command::new(line.next().unwrap_or_default());
    let output = command.args(line).args(words).output();
    let output = output.map_err(io_error(what.as_str()))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io_error(what)(std::io::Error::other(printed)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stdout)] // Why a machine can't run a test is for people.

    use std::{
        io::{ErrorKind, Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::{again::Place, *};
    use crate::{Surroundings, poll_until};

    /// Longer than a packet takes that is not lost.
    const HEARD_WITHIN: Duration = Duration::from_millis(500);
    /// Timeout for an echo after healing: TCP waits ever longer before it sends again.
    const PATIENCE: Duration = Duration::from_secs(20);
    const PORT: u16 = 7000;
    /// Connects to the address, then copies what it receives back.
    const ECHO: &str = "exec 3<>\"$0\" && exec cat <&3 >&3";

    /// Whether as much as `text` comes back within a moment.
    fn hears(line: &mut TcpStream, text: &[u8]) -> bool {
        let mut back = vec![0; text.len()];
        match line.read_exact(&mut back) {
            Ok(()) => {
                assert_eq!(back, text);
                true
            }
            Err(error) => {
                let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(is_late, "{error}");
                false
            }
        }
    }

    fn echoes(line: &mut TcpStream, text: &[u8]) -> bool {
        line.write_all(text).unwrap();
        hears(line, text)
    }

    #[tokio::test]
    async fn a_cut_silences_existing_connections_and_prevents_new_ones() {
        let test = "network::tests::a_cut_silences_existing_connections_and_prevents_new_ones";
        let mut network = match again::enter(test).unwrap() {
            Place::Inside(network) => network,
            Place::Done => return,
            Place::Refused(why) => return println!("not checked: {why}"),
        };
        network.add("a").await.unwrap();
        let listener = TcpListener::bind((format!("{SUBNET}.1"), PORT)).unwrap();
        let bash = Program::of_package("bash", "install the Debian package bash");
        let target = format!("/dev/tcp/{SUBNET}.1/{PORT}");
        let surroundings = Surroundings::default().wrap(network.entrance("a").unwrap());
        let folder = DataFolder::new("echo").unwrap();
        let echo = Process::spawn_in(&bash, ["-c", ECHO, &target], &folder, &surroundings);
        let _echo = echo.unwrap();
        let mut line = listener.accept().unwrap().0;
        line.set_read_timeout(Some(HEARD_WITHIN)).unwrap();
        assert!(echoes(&mut line, b"before"));
        assert!(network.connects("a", TEST, PORT).unwrap());
        for (from, to) in [("a", TEST), (TEST, "a")] {
            for loss in [Loss::Blackhole, Loss::Silent] {
                network.cut(from, to, loss).unwrap();
                assert!(!echoes(&mut line, b"late"), "{loss:?} from {from}");
                assert!(!network.connects("a", TEST, PORT).unwrap());
                network.heal().unwrap();
                let healed = poll_until(PATIENCE, || {
                    let is_heard = hears(&mut line, b"late");
                    async move { is_heard.then_some(()) }
                });
                healed.await.expect("what was late comes after healing");
                assert!(echoes(&mut line, b"after"));
                assert!(network.connects("a", TEST, PORT).unwrap());
            }
        }
    }
}
