//! The cost of an operation, from the kernel's counters: processor time of server and
//! generator, disk flushes, and write calls.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

/// Ticks a second in which /proc counts processor time: USER_HZ, 100 on every Linux that
/// Rust runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// Processor seconds of one process, in its own code and in the kernel for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) kernel: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.kernel
    }

    fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            kernel: self.kernel - before.kernel,
        }
    }
}

/// The cost between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Processor time of the server, all its processes together.
    pub(crate) server: Cpu,
    /// Processor time of this process.
    pub(crate) generator: Cpu,
    /// The share (of 1) of the machine's processor time that was not idle.
    pub(crate) busy: f64,
    /// Flushes of the disk with the server's data, if the kernel counts them. Each fsync that
    /// had something to sync is at least one.
    pub(crate) flushes: Option<u64>,
    /// Write system calls of the server.
    pub(crate) writes: Option<u64>,
}

/// Measures one server and this process.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    servers: Vec<u32>,
    disk: Option<PathBuf>,
}

/// The kernel's counters at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    server: Cpu,
    generator: Cpu,
    machine: Machine,
    flushes: Option<u64>,
    writes: Option<u64>,
}

/// Ticks of all cores since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Machine {
    idle: f64,
    all: f64,
}

impl Meter {
    /// Measures the processes `servers`, whose data is in `data`.
    pub(crate) fn new(servers: Vec<u32>, data: &Path) -> Self {
        Self {
            servers,
            disk: disk_of(data),
        }
    }

    /// Starts a measurement.
    pub(crate) fn start(&self) -> Measuring {
        Measuring {
            meter: self.clone(),
            before: self.read(),
        }
    }

    fn read(&self) -> Reading {
        let mut server = Cpu::default();
        for pid in &self.servers {
            let cpu = cpu_of(&pid.to_string());
            server.user += cpu.user;
            server.kernel += cpu.kernel;
        }
        Reading {
            at: Instant::now(),
            server,
            generator: cpu_of("self"),
            machine: fs::read_to_string("/proc/stat")
                .ok()
                .and_then(|text| parse_machine(&text))
                .unwrap_or_default(),
            flushes: self.disk.as_deref().and_then(flushes_of),
            writes: self.servers.iter().map(|pid| writes_of(*pid)).sum(),
        }
    }
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Measuring {
    meter: Meter,
    before: Reading,
}

impl Measuring {
    /// The cost since the start.
    pub(crate) fn stop(mut self) -> Cost {
        self.lap()
    }

    /// The cost since the start or the last lap.
    pub(crate) fn lap(&mut self) -> Cost {
        let now = self.meter.read();
        let before = std::mem::replace(&mut self.before, now);
        let all = now.machine.all - before.machine.all;
        let idle = now.machine.idle - before.machine.idle;
        let counted = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Cost {
            seconds: Duration::as_secs_f64(&(now.at - before.at)),
            server: now.server.since(before.server),
            generator: now.generator.since(before.generator),
            busy: if all > 0.0 { 1.0 - idle / all } else { 0.0 },
            flushes: counted(now.flushes, before.flushes),
            writes: counted(now.writes, before.writes),
        }
    }
}

fn cpu_of(process: &str) -> Cpu {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .ok()
        .and_then(|text| parse_cpu(&text))
        .unwrap_or_default()
}

/// Reads utime and stime of a /proc/PID/stat line. The command's name, in brackets, may contain
/// any character, so fields are counted from its end.
fn parse_cpu(stat: &str) -> Option<Cpu> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_A_SECOND);
    Some(Cpu {
        user: seconds()?,
        kernel: seconds()?,
    })
}

/// Reads the line of all cores of /proc/stat. User time includes guest time.
fn parse_machine(stat: &str) -> Option<Machine> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line
        .split_ascii_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    Some(Machine {
        idle: ticks.get(3)? + ticks.get(4)?,
        all: ticks.iter().sum(),
    })
}

/// The counters of the block device that holds `path`; file systems without one have none.
fn disk_of(path: &Path) -> Option<PathBuf> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (major_of(device), minor_of(device));
    let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
    stat.is_file().then_some(stat)
}

/// The kernel's split of a device number (makedev(3)).
const fn major_of(device: u64) -> u64 {
    ((device >> 32) & 0xffff_f000) | ((device >> 8) & 0xfff)
}

const fn minor_of(device: u64) -> u64 {
    ((device >> 12) & 0xffff_ff00) | (device & 0xff)
}

/// The 16th field of a block device's counters: completed flush requests.
fn flushes_of(disk: &Path) -> Option<u64> {
    let text = fs::read_to_string(disk).ok()?;
    text.split_ascii_whitespace().nth(15)?.parse().ok()
}

fn writes_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("syscw: "))?;
    line.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_after_any_command_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194304 100 0 0 0 250 125 0 0 20 0 4 0 77";
        let cpu = parse_cpu(stat).unwrap();
        assert_eq!((cpu.user, cpu.kernel, cpu.total()), (2.5, 1.25, 3.75));
        assert_eq!(parse_cpu("12 nothing"), None);
    }

    #[test]
    fn processor_time_of_a_server_is_read_from_the_whole_line() {
        // As Linux 6 prints it: utime and stime are fields 14 and 15, the time of children
        // that were waited for (16 and 17) does not count.
        let stat = "4242 (tierkv) S 1 4242 4242 0 -1 4194560 81234 0 3 0 123456 7890 11 22 20 0 \
                    9 0 104522 1342177280 98304 18446744073709551615 1 1 0 0 0 0 0 4096 17663 0 0 \
                    0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        let cpu = parse_cpu(stat).unwrap();
        assert_eq!((cpu.user, cpu.kernel), (1_234.56, 78.90));
        assert_eq!(
            parse_cpu("4242 (tierkv) S 1 4242 4242 0 -1 0 0 0 0 0 12"),
            None
        );
    }

    #[test]
    fn idle_time_counts_waiting_for_the_disk() {
        let stat = "cpu  10 0 20 60 5 1 2 2 9 0\ncpu0 1 1 1 1\n";
        let machine = parse_machine(stat).unwrap();
        assert_eq!((machine.idle, machine.all), (65.0, 100.0));
    }

    #[test]
    fn the_work_of_this_process_is_measured() {
        let meter = Meter::new(vec![std::process::id()], Path::new("/"));
        let measuring = meter.start();
        let mut number = 1_u64;
        while measuring.before.at.elapsed() < Duration::from_millis(100) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let cost = measuring.stop();
        assert!(cost.seconds >= 0.1);
        assert!(cost.generator.total() > 0.0, "{cost:?}");
        assert!(cost.busy > 0.0 && cost.busy <= 1.0, "{cost:?}");
    }

    #[test]
    fn device_numbers_are_split_as_the_kernel_does() {
        assert_eq!((major_of(65_024), minor_of(65_024)), (254, 0));
        assert_eq!((major_of(0x0801), minor_of(0x0801)), (8, 1));
    }
}
