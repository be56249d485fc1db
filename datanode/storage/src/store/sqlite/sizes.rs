//! The numbers of rows that statements handle.
//!
//! A statement for many rows costs little more than one for a single row. There are few sizes,
//! so that each statement is prepared once.

/// All sizes.
pub(super) const SIZES: [usize; 6] = [1, 4, 16, 64, 256, 1_000];

/// One statement for each of [`SIZES`].
pub(super) type Statements = [String; SIZES.len()];

/// A statement for each size: `text` applied to `row` repeated so many times.
pub(super) fn statements(row: &str, text: impl Fn(&str) -> String) -> Statements {
    SIZES.map(|size| text(&repeated(row, size)))
}

/// `row`, `size` times, between commas.
pub(super) fn repeated(row: &str, size: usize) -> String {
    vec![row; size].join(",")
}

/// The index in [`SIZES`] of the smallest size for `count` rows, or of the largest size.
pub(super) fn size_over(count: usize) -> usize {
    let over = SIZES.iter().position(|size| *size >= count);
    over.unwrap_or(SIZES.len() - 1)
}

/// Cuts `rows` into pieces of exactly these sizes, the largest first, each with the index of
/// its size in [`SIZES`].
pub(super) fn pieces<T>(rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let nth = SIZES.iter().rposition(|size| *size <= rest.len())?;
        let (piece, after) = rest.split_at(SIZES[nth]);
        rest = after;
        Some((nth, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_it_in_order() {
        for count in [0, 1, 3, 4, 5, 63, 64, 999, 1_000, 1_001, 2_345] {
            let rows: Vec<usize> = (0..count).collect();
            let mut seen = Vec::new();
            for (nth, piece) in pieces(&rows) {
                assert_eq!(piece.len(), SIZES[nth]);
                seen.extend_from_slice(piece);
            }
            assert_eq!(seen, rows);
            assert!(SIZES[size_over(count)] >= count.min(1_000));
        }
    }
}
