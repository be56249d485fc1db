//! Plots the rounds of a cell: both sides, round by round.

use std::path::Path;

use plotters::prelude::*;

/// The size of a plot, in pixels.
const SIZE: (u32, u32) = (720, 420);

/// The data of a plot.
#[derive(Clone, Debug)]
pub(crate) struct Rounds<'a> {
    pub(crate) title: String,
    pub(crate) unit: &'a str,
    /// The names of both sides, ours first, with their values in each round.
    pub(crate) sides: [(&'a str, Vec<f64>); 2],
}

impl Rounds<'_> {
    /// Draws the plot into the file `path`.
    pub(crate) fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let values = || self.sides.iter().flat_map(|(_, values)| values);
        let rounds = self.sides.iter().map(|(_, values)| values.len()).max();
        let rounds = rounds.unwrap_or(0);
        let last = i32::try_from(rounds)?;
        let highest = values().copied().fold(0.0, f64::max);

        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(80)
            .build_cartesian_2d(1..last.max(2), 0.0..highest * 1.2)?;
        chart
            .configure_mesh()
            .x_desc("round")
            .y_desc(self.unit)
            .x_labels(rounds)
            .disable_x_mesh()
            .draw()?;
        for ((name, values), color) in self.sides.iter().zip([BLUE, RED]) {
            let points = || (1..).zip(values.iter().copied());
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
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
}
