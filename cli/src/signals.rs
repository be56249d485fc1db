//! Signals of a running platform: those that stop it, and those that it survives.

use std::{fs, future::poll_fn, io, task::Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGXFSZ, for a write past the limit on file sizes (`ulimit -f`); Linux's number on all common
/// processors. Without a handler it ends the process.
const FILE_SIZE: SignalKind = SignalKind::from_raw(25);

/// The signals that a running platform handles.
pub(crate) struct Signals {
    /// Those that request an orderly stop.
    stops: Vec<Signal>,
    /// Handled, so that the write fails instead of ending the process.
    _file_size: Signal,
}

impl Signals {
    /// Starts to handle SIGTERM, SIGINT, and SIGHUP unless it is ignored, as under `nohup`.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
        if !is_ignored(SignalKind::hangup()) {
            kinds.push(SignalKind::hangup());
        }
        Ok(Self {
            stops: kinds.into_iter().map(signal).collect::<io::Result<_>>()?,
            _file_size: signal(FILE_SIZE)?,
        })
    }

    /// Waits for the next signal that requests a stop.
    pub(crate) async fn stop(&mut self) {
        poll_fn(|context| {
            // Polls all, so that each of them wakes this task.
            let came = (self.stops.iter_mut())
                .map(|signal| signal.poll_recv(context))
                .filter(Poll::is_ready)
                .count();
            match came {
                0 => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// Whether the process was started with this signal ignored.
fn is_ignored(kind: SignalKind) -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| is_in_mask(&status, kind.as_raw_value()))
}

/// Whether the signal is ignored in `status`, the text of /proc/self/status.
fn is_in_mask(status: &str, number: i32) -> bool {
    let mask = (status.lines())
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\ttierkv\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(is_in_mask(status, 1) && is_in_mask(status, 13));
        assert!(!is_in_mask(status, 2) && !is_in_mask("", 1));
    }
}
