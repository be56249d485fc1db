//! Clocks for the protocols: injected, never read from `std` inside them.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clock_steering::unix::{EMPTY_TIMEX, UnixClock};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// The bit of the kernel's clock status for an unsynchronised clock (`linux/timex.h`).
const STA_UNSYNC: i32 = 0x0040;

/// Time since this machine booted, suspends included (`CLOCK_BOOTTIME`).
///
/// Ages and leases are measured on it: it never jumps, and it runs while the machine sleeps.
/// Readings of two machines can't be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// The instant `since_boot` after the machine booted.
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time from the boot to the instant.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `by` later.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// The boot and time namespace that boot-time readings count from. Only readings with equal `Boot`
/// can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's id of the boot.
    pub id: [u8; 16],
    /// The offset of the process's time namespace on the boot-time clock, in nanoseconds.
    pub offset_nanos: i64,
}

/// All clocks of a process at one moment. A node stores it and continues from it after a restart
/// (CLOCK-STEADY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeReading {
    /// Platform time, in milliseconds since the Unix epoch.
    pub platform_millis: u64,
    /// The boot-time clock.
    pub boot_time: BootTime,
    /// The origin of `boot_time`; `None` if the system does not report it.
    pub boot: Option<Boot>,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub wall_millis: u64,
    /// Whether the kernel reported the wall clock as synchronised. Only then is its distance to
    /// another synchronised reading the time that passed.
    pub is_synchronised: bool,
}

/// The clocks of a tier's machine, behind a trait so that tests control time.
pub trait Clock: Send + Sync + 'static {
    /// The boot-time clock, for ages, leases and deadlines.
    fn boot_time(&self) -> BootTime;

    /// The origin of the boot-time clock; `None` if the system does not report it. A process reads
    /// it once and keeps it: it can't change while the process runs, and reading it opens files.
    fn boot(&self) -> Option<Boot>;

    /// The machine's wall clock, in milliseconds since the Unix epoch. It may be set at any time,
    /// so platform time is only drawn towards it (CLOCK-STEADY).
    fn wall_millis(&self) -> u64;

    /// Whether the kernel reports the wall clock as synchronised.
    fn is_synchronised(&self) -> bool;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot_time(&self) -> BootTime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(to_duration(now))
    }

    fn boot(&self) -> Option<Boot> {
        let offsets = time_namespace(fs::read_to_string("/proc/self/timens_offsets")).ok()?;
        Some(Boot {
            id: boot_id().ok()?,
            offset_nanos: boot_offset_nanos(&offsets)?,
        })
    }

    fn wall_millis(&self) -> u64 {
        // A clock before 1970 is useless.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }

    fn is_synchronised(&self) -> bool {
        let mut state = EMPTY_TIMEX;
        let is_read = UnixClock::CLOCK_REALTIME.adjtime(&mut state).is_ok();
        is_read && state.status & STA_UNSYNC == 0
    }
}

/// The kernel's id of this boot of the machine.
///
/// # Errors
/// If the system does not report it.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    // A UUID: 32 hexadecimal digits and four hyphens.
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(id.to_be_bytes())
}

/// The offsets of the time namespace. A kernel without time namespaces has neither the file nor
/// an offset; after any other failure the offset is unknown, and not 0.
fn time_namespace(read: io::Result<String>) -> io::Result<String> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// The offset of the boot-time clock in `/proc/self/timens_offsets`; 0 if it is not listed. Each
/// line is a clock's name, seconds and nanoseconds.
fn boot_offset_nanos(text: &str) -> Option<i64> {
    let Some(line) = text.lines().find(|line| line.starts_with("boottime")) else {
        return Some(0);
    };
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<i64>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(nanos)
}

fn to_duration(time: rustix::time::Timespec) -> Duration {
    // Neither part is negative on a running Linux; if one were, zero would be safe.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clocks_go_forward() {
        let clock = SystemClock;
        let before = clock.boot_time();
        assert!(clock.boot_time() >= before);
        assert!(
            clock.wall_millis() > 1_600_000_000_000,
            "the wall clock is before 2020"
        );
        assert_eq!(clock.boot(), clock.boot());
        assert!(clock.boot().is_some(), "the kernel reports its boot");
    }

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let text = "monotonic          7         0\nboottime     -100000        25\n";
        assert_eq!(boot_offset_nanos(text), Some(-99_999_999_999_975));
        assert_eq!(boot_offset_nanos(""), Some(0));
        assert_eq!(boot_offset_nanos("boottime many"), None);
    }

    #[test]
    fn offsets_that_cannot_be_read_are_not_taken_for_none() {
        let failed = |kind: io::ErrorKind| time_namespace(Err(kind.into()));
        assert_eq!(failed(io::ErrorKind::NotFound).unwrap(), "");
        let out_of_descriptors = io::Error::from_raw_os_error(24);
        assert!(time_namespace(Err(out_of_descriptors)).is_err());
        assert!(failed(io::ErrorKind::PermissionDenied).is_err());
    }

    #[test]
    fn a_later_earlier_instant_is_no_time_ago() {
        let early = BootTime::from_boot(Duration::from_secs(1));
        let late = early.after(Duration::from_secs(2));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
