//! Plots the run over time: one panel per unit, one above the other.

use std::path::Path;

use plotters::{
    coord::{ranged1d::ValueFormatter, types::RangedCoordf64},
    prelude::*,
};

use super::{figures::SteadyFigures, sample::Sample};

/// The width of the plot and the height of a panel, in pixels.
const WIDTH: u32 = 1_000;
const PANEL_HEIGHT: u32 = 190;
const TITLE_HEIGHT: u32 = 36;
/// The lowest latency in the plot, in milliseconds.
const LEAST_MILLIS: f64 = 0.1;

/// One quantity over time.
struct Line {
    name: &'static str,
    color: RGBColor,
    value: fn(&Sample) -> f64,
}

/// Quantities of one unit.
struct Panel {
    unit: &'static str,
    /// Whether the axis is logarithmic.
    logarithmic: bool,
    lines: Vec<Line>,
}

const fn line(name: &'static str, color: RGBColor, value: fn(&Sample) -> f64) -> Line {
    Line { name, color, value }
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn mean_millis(seconds: f64, count: f64) -> f64 {
    if count > 0.0 {
        seconds * 1e3 / count
    } else {
        0.0
    }
}

fn panels() -> Vec<Panel> {
    let linear = |unit, lines| Panel {
        unit,
        logarithmic: false,
        lines,
    };
    vec![
        linear(
            "writes/s",
            vec![line("acknowledged writes", BLUE, |sample| sample.rate)],
        ),
        Panel {
            unit: "ms",
            logarithmic: true,
            lines: vec![
                line("longest", RED, |sample| sample.max_micros / 1e3),
                line("p99", BLUE, |sample| sample.p99_micros / 1e3),
                line("p50", GREEN, |sample| sample.p50_micros / 1e3),
            ],
        },
        linear(
            "MiB",
            vec![line("resident memory", BLUE, |sample| {
                mib(sample.resident_bytes)
            })],
        ),
        linear(
            "MiB",
            vec![line("log on disk", BLUE, |sample| mib(sample.log_bytes))],
        ),
        linear(
            "MiB",
            vec![
                line("store on disk", BLUE, |sample| mib(sample.store_bytes)),
                line("its write-ahead file", RED, |sample| {
                    mib(sample.store_wal_bytes)
                }),
            ],
        ),
        linear(
            "ms",
            vec![
                line("a checkpoint", BLUE, |sample| {
                    mean_millis(sample.checkpoint_seconds, sample.checkpoints)
                }),
                line("100 syncs of the log", RED, |sample| {
                    100.0 * mean_millis(sample.log_sync_seconds, sample.log_syncs)
                }),
            ],
        ),
        linear("% of one core", processor_lines()),
    ]
}

fn processor_lines() -> Vec<Line> {
    vec![
        line("server", BLUE, |sample| {
            let cost = sample.cost;
            cost.server.total() / cost.seconds.max(f64::MIN_POSITIVE) * 100.0
        }),
        line("generator", GREEN, |sample| {
            let cost = sample.cost;
            cost.generator.total() / cost.seconds.max(f64::MIN_POSITIVE) * 100.0
        }),
        line("everything on this machine", RED, |sample| {
            sample.cost.busy * 100.0 * cores()
        }),
    ]
}

#[allow(clippy::cast_precision_loss)]
fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

/// Draws the run into the file `path`.
pub(crate) fn plot(figures: &SteadyFigures, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let panels = panels();
    let count = panels.len();
    let height = TITLE_HEIGHT + PANEL_HEIGHT * u32::try_from(count)?;
    let title = format!(
        "steady-writes: {:.0} writes/s, cliff factor {:.1}, longest silence {:.0} ms",
        figures.rate,
        figures.cliff_factor,
        figures.silence_micros / 1e3
    );
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let body = root.titled(&title, ("sans-serif", 18))?;
    for (panel, area) in panels.iter().zip(body.split_evenly((count, 1))) {
        let values = figures.samples.iter().flat_map(|sample| {
            let lines = panel.lines.iter();
            lines.map(move |line| (line.value)(sample))
        });
        let highest = values.fold(1.0, f64::max) * 1.15;
        let end = figures.samples.last().map_or(1.0, |sample| sample.at);
        let mut builder = ChartBuilder::on(&area);
        builder
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(80);
        if panel.logarithmic {
            let y = (LEAST_MILLIS..highest).log_scale();
            draw(panel, builder.build_cartesian_2d(0.0..end, y)?, figures)?;
        } else {
            draw(
                panel,
                builder.build_cartesian_2d(0.0..end, 0.0..highest)?,
                figures,
            )?;
        }
    }
    root.present()?;
    Ok(())
}

fn draw<'a, DB, Y>(
    panel: &Panel,
    mut chart: ChartContext<'a, DB, Cartesian2d<RangedCoordf64, Y>>,
    figures: &SteadyFigures,
) -> Result<(), Box<dyn std::error::Error>>
where
    DB: DrawingBackend + 'a,
    DB::ErrorType: 'static,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .y_desc(panel.unit)
        .x_labels(13)
        .y_labels(5)
        .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
        .disable_x_mesh()
        .draw()?;
    for Line { name, color, value } in &panel.lines {
        let color = *color;
        let points = figures.samples.iter().map(|sample| {
            let value = value(sample);
            let drawn = if panel.logarithmic {
                value.max(LEAST_MILLIS)
            } else {
                value
            };
            (sample.at, drawn)
        });
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(1)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tierkv_harness::DataFolder;

    use super::*;
    use crate::steady::figures::tests::quiet;

    #[test]
    fn every_quantity_is_drawn_to_the_runs_end() {
        let (samples, windows) = quiet(60);
        let figures = SteadyFigures::new(samples, &windows).unwrap();
        let folder = DataFolder::new("plot").unwrap();
        let path = folder.data().join("steady.svg");
        plot(&figures, &path).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        for panel in panels() {
            for line in panel.lines {
                assert!(svg.contains(line.name), "{}", line.name);
            }
        }
        let lines = svg.matches("<polyline").count();
        let expected: usize = panels().iter().map(|panel| panel.lines.len()).sum();
        assert!(lines >= expected, "{lines} of {expected}");
        assert!(svg.contains("60 s"));
    }
}
