//! The order of lines with the same key: they are written one after the other, so that the last
//! one wins. Lines with different keys don't wait for each other.

use std::collections::{HashMap, VecDeque};

use super::line::Line;

/// A line and its number.
pub(super) type Turn = (u64, Line);

/// The keys in flight, and the lines that wait for them.
#[derive(Default)]
pub(super) struct Turns {
    under_way: HashMap<Vec<u8>, VecDeque<Turn>>,
    waiting: usize,
}

impl Turns {
    /// Returns the line if it may be written now, and marks its key as in flight. Otherwise the
    /// line waits.
    pub(super) fn enter(&mut self, number: u64, line: Line) -> Option<Turn> {
        match self.under_way.get_mut(&line.key) {
            Some(queue) => {
                queue.push_back((number, line));
                self.waiting += 1;
                None
            }
            None => {
                self.under_way.insert(line.key.clone(), VecDeque::new());
                Some((number, line))
            }
        }
    }

    /// Called when a line of this key is done; returns the next line that may be written.
    pub(super) fn next(&mut self, key: &[u8]) -> Option<Turn> {
        let next = self.under_way.get_mut(key).and_then(VecDeque::pop_front);
        match next {
            Some(_) => self.waiting -= 1,
            None => drop(self.under_way.remove(key)),
        }
        next
    }

    /// The number of waiting lines.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &str) -> Line {
        Line {
            key: key.into(),
            value: value.into(),
            ttl: None,
        }
    }

    #[test]
    fn lines_of_one_key_wait_for_each_other_and_others_do_not() {
        let mut turns = Turns::default();
        let number = |turn: Option<Turn>| turn.map(|(number, _)| number);
        assert_eq!(number(turns.enter(1, line("a", "1"))), Some(1));
        assert_eq!(number(turns.enter(2, line("a", "2"))), None);
        assert_eq!(number(turns.enter(3, line("b", "3"))), Some(3));
        assert_eq!(number(turns.enter(4, line("a", "4"))), None);
        assert_eq!(turns.waiting(), 2);
        assert_eq!(number(turns.next(b"a")), Some(2));
        assert_eq!(number(turns.next(b"b")), None);
        assert_eq!(number(turns.next(b"a")), Some(4));
        assert_eq!(number(turns.next(b"a")), None);
        assert_eq!((turns.waiting(), turns.under_way.len()), (0, 0));
        assert_eq!(number(turns.enter(5, line("a", "5"))), Some(5));
    }
}
