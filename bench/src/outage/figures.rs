//! The figures of all rounds of a cell.

use serde::Serialize;

use super::change::Change;
use crate::rounds::median;

/// The rounds of one platform.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    /// The silence after which the cluster suspects its master (F).
    pub(crate) failover_ms: u32,
    /// The longest time without an acknowledged write: of all rounds, and the median round's.
    pub(crate) longest_ms: f64,
    pub(crate) median_ms: f64,
    /// The longest time without an answered read.
    pub(crate) longest_read_ms: f64,
    pub(crate) failed_writes: u64,
    pub(crate) failed_reads: u64,
    pub(crate) changes: Vec<Change>,
}

/// What a series has to reach.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Wanted {
    /// The longest time without an acknowledged write.
    pub(crate) longest_ms: f64,
    /// The median round's, if it has a goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) median_ms: Option<f64>,
    /// Whether no write may fail either. No read may in any cell.
    pub(crate) no_failed_writes: bool,
}

/// The figures of a cell: one series for each failover time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OutageFigures {
    pub(crate) series: Vec<(Series, Wanted)>,
    pub(crate) details: String,
}

impl Series {
    pub(crate) fn new(failover_ms: u32, changes: Vec<Change>) -> Self {
        let silences = || changes.iter().map(|change| change.silence_ms);
        let reads = changes.iter().map(|change| change.read_silence_ms);
        Self {
            failover_ms,
            longest_ms: silences().fold(0.0, f64::max),
            median_ms: median(silences()),
            longest_read_ms: reads.fold(0.0, f64::max),
            failed_writes: changes.iter().map(|change| change.failed_writes).sum(),
            failed_reads: changes.iter().map(|change| change.failed_reads).sum(),
            changes,
        }
    }

    /// Whether it reaches all of `wanted`. A series without rounds does not.
    pub(crate) fn meets(&self, wanted: Wanted) -> bool {
        !self.changes.is_empty()
            && self.longest_ms <= wanted.longest_ms
            && wanted.median_ms.is_none_or(|most| self.median_ms <= most)
            && self.failed_reads == 0
            && !(wanted.no_failed_writes && self.failed_writes > 0)
    }

    /// The text of this series in the table's details.
    fn text(&self, wanted: Wanted) -> String {
        let goal = |most: Option<f64>| {
            most.map_or_else(String::new, |most| format!(" (wanted <= {most:.0})"))
        };
        let mut text = format!(
            "F = {} ms, {} rounds: no acknowledged write for {:.0} ms at most{}, median {:.0}{}; no \
             answered read for {:.0} ms at most; failed reads {}, failed writes {}; {:.0} writes/s \
             before",
            self.failover_ms,
            self.changes.len(),
            self.longest_ms,
            goal(Some(wanted.longest_ms)),
            self.median_ms,
            goal(wanted.median_ms),
            self.longest_read_ms,
            self.failed_reads,
            self.failed_writes,
            median(self.changes.iter().map(|change| change.rate_before)),
        );
        let rejoins = || self.changes.iter().filter_map(|change| change.rejoin_ms);
        if rejoins().next().is_some() {
            let pauses = self.changes.iter();
            let pauses = pauses.filter_map(|change| change.rejoin_silence_ms);
            text += &format!(
                "; the killed node was in sync {:.1} s after its start (median; longest {:.1} s), \
                 with a pause of at most {:.0} ms",
                median(rejoins()) / 1e3,
                rejoins().fold(0.0, f64::max) / 1e3,
                pauses.fold(0.0, f64::max),
            );
        }
        if let Some(failure) = self.changes.iter().find_map(|it| it.failure.as_ref()) {
            text += &format!("; the first failure: {failure}");
        }
        text
    }
}

impl OutageFigures {
    pub(crate) fn new(series: Vec<(Series, Wanted)>) -> Self {
        let texts: Vec<String> = (series.iter())
            .map(|(series, wanted)| series.text(*wanted))
            .collect();
        Self {
            details: texts.join("; "),
            series,
        }
    }

    pub(crate) fn holds(&self) -> bool {
        let mut series = self.series.iter();
        !self.series.is_empty() && series.all(|(series, wanted)| series.meets(*wanted))
    }

    /// The longest pauses, for the table.
    pub(crate) fn longest(&self) -> String {
        let series = self.series.iter();
        let longest = series.map(|(series, _)| format!("{:.0}", series.longest_ms));
        format!("{} ms", longest.collect::<Vec<_>>().join(", "))
    }

    /// The lines of the plot: their names, with the pause of each round in milliseconds. A cell of
    /// one series has its reads as the other line.
    pub(crate) fn lines(&self) -> [(String, Vec<f64>); 2] {
        let writes = |(series, _): &(Series, Wanted)| {
            let changes = series.changes.iter();
            let values = changes.map(|change| change.silence_ms).collect();
            let name = format!("no acknowledged write, F = {} ms", series.failover_ms);
            (name, values)
        };
        let reads = |(series, _): &(Series, Wanted)| {
            let changes = series.changes.iter();
            let values = changes.map(|change| change.read_silence_ms).collect();
            let name = format!("no answered read, F = {} ms", series.failover_ms);
            (name, values)
        };
        match self.series.as_slice() {
            [] => [(String::new(), Vec::new()), (String::new(), Vec::new())],
            [one] => [writes(one), reads(one)],
            [one, other, ..] => [writes(one), writes(other)],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A series of rounds with these pauses.
    pub(crate) fn series(failover_ms: u32, silences: &[f64]) -> Series {
        let change = |silence_ms: &f64| Change {
            silence_ms: *silence_ms,
            read_silence_ms: silence_ms / 2.0,
            rate_before: 1_000.0,
            ..Change::default()
        };
        Series::new(failover_ms, silences.iter().map(change).collect())
    }

    const WANTED: Wanted = Wanted {
        longest_ms: 1_600.0,
        median_ms: Some(1_250.0),
        no_failed_writes: false,
    };

    #[test]
    fn the_longest_and_the_median_round_count() {
        let series = series(1_000, &[1_200.0, 1_590.0, 1_100.0]);
        assert_eq!((series.longest_ms, series.median_ms), (1_590.0, 1_200.0));
        assert_eq!(series.longest_read_ms, 795.0);
        assert!(series.meets(WANTED));
    }

    #[test]
    fn each_part_of_the_goal_can_be_missed() {
        assert!(!series(1_000, &[1_000.0, 1_000.0, 1_601.0]).meets(WANTED));
        assert!(!series(1_000, &[1_251.0, 1_251.0, 1_000.0]).meets(WANTED));
        assert!(!series(1_000, &[]).meets(WANTED));
        let mut failed = series(1_000, &[1_000.0]);
        failed.failed_writes = 1;
        assert!(failed.meets(WANTED));
        let strict = Wanted {
            no_failed_writes: true,
            ..WANTED
        };
        assert!(!failed.meets(strict));
        failed.failed_writes = 0;
        assert!(failed.meets(strict));
        failed.failed_reads = 1;
        assert!(!failed.meets(WANTED));
    }

    #[test]
    fn a_cell_holds_if_every_series_does() {
        let fast = Wanted {
            longest_ms: 800.0,
            median_ms: None,
            no_failed_writes: false,
        };
        let both = |slowest: f64| {
            let slow = (series(1_000, &[1_200.0]), WANTED);
            OutageFigures::new(vec![slow, (series(300, &[400.0, slowest]), fast)])
        };
        assert!(both(800.0).holds() && !both(801.0).holds());
        assert!(!OutageFigures::new(Vec::new()).holds());
        let figures = both(500.0);
        assert_eq!(figures.longest(), "1200, 500 ms");
        let [slow, quick] = figures.lines();
        assert_eq!((slow.1, quick.1), (vec![1_200.0], vec![400.0, 500.0]));
        assert!(quick.0.ends_with("F = 300 ms"), "{}", quick.0);
    }

    #[test]
    fn details_have_every_figure_and_the_first_failure() {
        let mut one = series(1_000, &[1_200.0, 1_300.0]);
        let details = |series: &Series| OutageFigures::new(vec![(series.clone(), WANTED)]).details;
        let text = details(&one);
        assert!(text.starts_with("F = 1000 ms, 2 rounds: "), "{text}");
        assert!(text.contains("1300 ms at most (wanted <= 1600), median 1250 (wanted <= 1250)"));
        assert!(text.contains("failed reads 0, failed writes 0"), "{text}");
        assert!(!text.contains("in sync"), "{text}");
        one.changes[1].rejoin_ms = Some(2_500.0);
        one.changes[1].rejoin_silence_ms = Some(70.0);
        one.changes[1].failure = Some("a read: late".to_owned());
        let text = details(&one);
        assert!(text.contains("in sync 2.5 s after its start"), "{text}");
        assert!(text.contains("a pause of at most 70 ms"), "{text}");
        assert!(text.ends_with("the first failure: a read: late"), "{text}");
    }
}
