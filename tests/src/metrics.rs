//! The platform's figures about itself, as `/metrics` tells them.

use std::io;

use crate::http::Request;

/// The sum of all series of `name`; 0 if there is none yet.
///
/// # Errors
/// If the page can't be had.
pub async fn counter(rest: &str, name: &str) -> io::Result<f64> {
    let page = Request::new("GET", "/metrics").send(rest).await?;
    Ok(sum(&String::from_utf8_lossy(&page.body), name))
}

fn sum(page: &str, name: &str) -> f64 {
    (page.lines())
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let ours = rest.starts_with([' ', '{']);
            ours.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_are_added_up_and_others_are_not() {
        let page = "# HELP a b\na 1\na{x=\"y\"} 2.5\nab 4\n";
        assert!((sum(page, "a") - 3.5).abs() < f64::EPSILON);
        assert!(sum(page, "c").abs() < f64::EPSILON);
    }
}
