//! What is left of a run: the table, the figures as JSON, and a plot a cell.

use std::{fs, path::Path};

use plotters::prelude::*;
use serde::Serialize;
use tierkv_workload::Failure;

use crate::{
    rounds::{Part, Round},
    verdict::{End, Figures, Verdict},
};

/// Fewer rounds than this make a quick look, not a figure.
pub(crate) const LEAST_ROUNDS: u64 = 5;
/// The size of a plot, in pixels.
const PLOT_SIZE: (u32, u32) = (720, 420);

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) cores: usize,
    pub(crate) keys: u64,
    pub(crate) shape: &'static str,
    pub(crate) rounds: u64,
    pub(crate) seconds_a_part: f64,
    pub(crate) cells: Vec<Verdict>,
}

impl Report {
    /// The table, for people.
    pub(crate) fn table(&self) -> String {
        let heads = [
            "cell",
            "ours/s",
            "peer/s",
            "ratio",
            "target",
            "met",
            "bound now by",
        ];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.cells.iter().map(row_of));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let mut table = format!(
            "{} records ({}), {} rounds of {} s a side, {} cores; rates are for orientation\n\n",
            self.keys, self.shape, self.rounds, self.seconds_a_part, self.cores
        );
        if self.rounds < LEAST_ROUNDS {
            table += &format!("fewer than {LEAST_ROUNDS} rounds: a quick look, no figures\n\n");
        }
        for row in rows {
            let cells = row.iter().zip(&widths).enumerate();
            let line: Vec<String> = cells
                .map(|(column, (cell, width))| match column {
                    1..=2 => format!("{cell:>width$}"),
                    _ => format!("{cell:<width$}"),
                })
                .collect();
            table += line.join("  ").trim_end();
            table.push('\n');
        }
        table
    }

    /// Writes `report.json` and the plots into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(self).map_err(Failure::of)?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(folder.join("report.json"), json))
            .map_err(|error| Failure(format!("writing into {}: {error}", folder.display())))?;
        for verdict in &self.cells {
            if let End::Measured(figures) = &verdict.end {
                let path = folder.join(format!("{}.svg", verdict.cell));
                plot(verdict, figures, &path)
                    .map_err(|error| Failure(format!("plotting {}: {error}", path.display())))?;
            }
        }
        Ok(())
    }
}

fn row_of(verdict: &Verdict) -> [String; 7] {
    let target = format!("{:.2}", verdict.target);
    let cell = verdict.cell.to_owned();
    match &verdict.end {
        End::Measured(figures) => [
            cell,
            format!("{:.0}", figures.ours_rate),
            format!("{:.0}", figures.peer_rate),
            format!(
                "{:.2} [{:.2}..{:.2}]",
                figures.ratio, figures.least_ratio, figures.greatest_ratio
            ),
            target,
            if figures.met { "yes" } else { "no" }.to_owned(),
            figures.bound.clone(),
        ],
        End::NotMeasured { reason } => [
            cell,
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            target,
            "-".to_owned(),
            // A reason may carry the end of a server's log.
            format!("NOT MEASURED: {}", reason.replace('\n', " | ")),
        ],
    }
}

/// Draws the rate of both sides over the rounds.
fn plot(
    verdict: &Verdict,
    figures: &Figures,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let rounds = &figures.rounds;
    let last = i32::try_from(rounds.len())?;
    let both = || rounds.iter().flat_map(|round| [&round.ours, &round.peer]);
    let highest = both().map(|part| part.rate).fold(0.0, f64::max);
    let title = format!(
        "{}: ratio {:.2} [{:.2}..{:.2}], wanted {:.2}",
        verdict.cell, figures.ratio, figures.least_ratio, figures.greatest_ratio, verdict.target
    );

    let area = SVGBackend::new(path, PLOT_SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(80)
        .build_cartesian_2d(1..last.max(2), 0.0..highest * 1.2)?;
    chart
        .configure_mesh()
        .x_desc("round")
        .y_desc("operations a second")
        .x_labels(rounds.len())
        .disable_x_mesh()
        .draw()?;
    let rates = |side: fn(&Round) -> &Part| -> Vec<f64> {
        rounds.iter().map(|round| side(round).rate).collect()
    };
    let ours = (verdict.work, BLUE, rates(|round| &round.ours));
    let peer = (verdict.peer, RED, rates(|round| &round.peer));
    for (name, color, rates) in [ours, peer] {
        let points = || (1..).zip(rates.iter().copied());
        chart
            .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cell::Cell, cost::Cost};

    fn report() -> Report {
        let part = |rate| Part {
            operations: 1_000,
            rate,
            p50_micros: 10.0,
            p99_micros: 20.0,
            cached: 0,
            cost: Cost::default(),
        };
        let rounds = vec![
            Round {
                ours: part(95_000.0),
                peer: part(100_000.0),
            };
            5
        ];
        Report {
            cores: 2,
            keys: 1_000_000,
            shape: "trace",
            rounds: 5,
            seconds_a_part: 3.0,
            cells: vec![
                Verdict::new(Cell::HitUnary, Ok(rounds)),
                Verdict::new(Cell::PutOne, Err("etcd ended\nwith words".to_owned())),
            ],
        }
    }

    #[test]
    fn the_table_has_a_line_for_every_cell_measured_or_not() {
        let table = report().table();
        let line = |name: &str| {
            let found = table.lines().find(|line| line.starts_with(name));
            found
                .unwrap()
                .split_ascii_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(line("hit-unary").starts_with("hit-unary 95000 100000 0.95 [0.95..0.95] 0.90 yes"));
        assert_eq!(
            line("put-one"),
            "put-one - - - 3.00 - NOT MEASURED: etcd ended | with words"
        );
        assert!(!table.contains("a quick look"));
        let quick = Report {
            rounds: 2,
            ..report()
        };
        assert!(quick.table().contains("a quick look"));
    }

    #[test]
    fn figures_and_plots_are_written() {
        let folder = std::env::temp_dir().join(format!("tierkv-report-{}", std::process::id()));
        report().write(&folder).unwrap();
        let json = fs::read_to_string(folder.join("report.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["cells"][0]["ratio"], 0.95);
        let plot = fs::read_to_string(folder.join("hit-unary.svg")).unwrap();
        assert!(plot.contains("operations a second"), "{plot}");
        assert!(!folder.join("put-one.svg").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
