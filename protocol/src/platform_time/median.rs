//! The platform's time: the median of the clusters' times.

use tierkv_types::ClusterId;

/// The median of the clusters' times. Of an even number of clusters, the one with the highest id
/// does not count, so of two it is the time of the lower id. So all who know the same clusters
/// choose the same time, also while two are equally far apart; a mean would follow a single wrong
/// clock, however wrong it is.
#[must_use]
pub fn median<'a, T: Ord + Copy>(
    clusters: impl IntoIterator<Item = (&'a ClusterId, T)>,
) -> Option<T> {
    let mut clusters: Vec<_> = clusters.into_iter().collect();
    clusters.sort_unstable();
    if clusters.len().is_multiple_of(2) {
        clusters.pop();
    }
    clusters.sort_unstable_by_key(|(_, time)| *time);
    let (_, time) = clusters.get(clusters.len() / 2)?;
    Some(*time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[(&str, i64)]) -> Option<i64> {
        let ids: Vec<_> = (times.iter())
            .map(|(id, _)| ClusterId::new(id).unwrap())
            .collect();
        median(ids.iter().zip(times.iter().map(|(_, time)| *time)))
    }

    #[test]
    fn the_middle_time_counts_and_of_two_the_lower_ids() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("c1", 7)]), Some(7));
        assert_eq!(of(&[("c2", 1), ("c1", 9)]), Some(9));
        assert_eq!(of(&[("c1", 1), ("c2", 9)]), Some(1));
        assert_eq!(of(&[("c1", 3_600), ("c2", 0), ("c3", 1)]), Some(1));
        // Two and two: the highest id, c4, does not count.
        assert_eq!(of(&[("c1", 0), ("c2", 9), ("c3", 1), ("c4", 8)]), Some(1));
        assert_eq!(of(&[("c1", 1), ("c2", 9), ("c3", 0), ("c4", 8)]), Some(1));
    }
}
