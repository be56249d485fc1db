//! Reads the platform's `/metrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use crate::http::Request;

/// What stands behind the name of a histogram, in its lines.
const HISTOGRAM_PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The sum of all series of `name`; 0 if there is none yet.
///
/// # Errors
/// If the page can't be read.
pub async fn counter(rest: &str, name: &str) -> io::Result<f64> {
    Ok(Page::fetch(rest).await?.sum(name, &[]))
}

/// The labels of a series, by their names.
pub type Labels = BTreeMap<String, String>;

/// One line of figures.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name in front of the labels.
    pub name: String,
    /// The labels.
    pub labels: Labels,
    /// The figure.
    pub value: f64,
}

/// The page at one moment.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The metrics by their names, with their types.
    pub types: BTreeMap<String, String>,
    /// Their lines, in the page's order.
    pub series: Vec<Series>,
}

impl Page {
    /// Asks the platform whose REST address is `rest`.
    ///
    /// # Errors
    /// If the page can't be had.
    pub async fn fetch(rest: &str) -> io::Result<Self> {
        let page = Request::new("GET", "/metrics").send(rest).await?;
        Ok(Self::parse(&String::from_utf8_lossy(&page.body)))
    }

    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(named) = line.strip_prefix("# TYPE ") {
                let (name, kind) = named.split_once(' ').unwrap_or((named, ""));
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                page.series.extend(series(line));
            }
        }
        page
    }

    /// The sum of the series `name` that have all of `labels`; 0 if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let named = self.series.iter().filter(|series| series.name == name);
        let labelled = named.filter(|series| {
            let mut wanted = labels.iter();
            wanted.all(|(label, value)| {
                let found = series.labels.get(*label);
                found.is_some_and(|found| found == value)
            })
        });
        labelled.map(|series| series.value).sum()
    }

    /// The lines of a metric: of a histogram, those of its buckets, sums and counts.
    pub fn of<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = &'a Series> {
        let is_histogram = self.types.get(metric).is_some_and(|it| it == "histogram");
        let parts = if is_histogram {
            &HISTOGRAM_PARTS[..]
        } else {
            &[""]
        };
        self.series.iter().filter(move |series| {
            let part = series.name.strip_prefix(metric);
            part.is_some_and(|part| parts.contains(&part))
        })
    }

    /// The values of one label that a metric has lines for.
    #[must_use]
    pub fn values(&self, metric: &str, label: &str) -> BTreeSet<&str> {
        let series = self.series.iter().filter(|series| series.name == metric);
        let values = series.filter_map(|series| series.labels.get(label));
        values.map(String::as_str).collect()
    }
}

fn series(line: &str) -> Option<Series> {
    let (named, value) = line.rsplit_once(' ')?;
    let (name, labels) = named.split_once('{').unwrap_or((named, "}"));
    let labels = labels.strip_suffix('}')?.split(',').filter_map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Series {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP a b\n# TYPE a counter\na 1\na{x=\"y\",z=\"w\"} 2.5\nab 4\n\
                        # TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\nh_sum 2\nh_count 3\n\
                        h_other 1\n";

    #[test]
    fn series_of_one_name_are_added_up_and_others_are_not() {
        let page = Page::parse(PAGE);
        let sum = |name, labels| page.sum(name, labels);
        assert!((sum("a", &[]) - 3.5).abs() < f64::EPSILON);
        assert!((sum("a", &[("z", "w")]) - 2.5).abs() < f64::EPSILON);
        assert!(sum("a", &[("z", "y")]).abs() < f64::EPSILON);
        assert!(sum("c", &[]).abs() < f64::EPSILON);
        assert_eq!(page.values("a", "x"), BTreeSet::from(["y"]));
    }

    #[test]
    fn a_histogram_has_the_lines_of_its_parts() {
        let page = Page::parse(PAGE);
        assert_eq!(page.of("h").count(), 3);
        assert_eq!(page.of("a").count(), 2);
    }
}
