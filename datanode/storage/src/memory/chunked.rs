//! A vector in chunks: it grows without moving its elements.
//!
//! A shard may hold hundreds of thousands of entries. A single vector would copy them all under
//! the shard's lock each time it grows, and leave its old memory to the allocator.

use std::ops::{Index, IndexMut};

/// Elements in a chunk: a power of two, so that an access takes no division.
const CHUNK_LEN: usize = 1024;

/// The elements; all chunks except the last are full.
#[derive(Debug)]
pub(super) struct Chunked<T>(Vec<Vec<T>>);

impl<T> Chunked<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        match self.0.split_last() {
            Some((last, full)) => full.len() * CHUNK_LEN + last.len(),
            None => 0,
        }
    }

    pub(super) fn push(&mut self, element: T) {
        match self.0.last_mut() {
            Some(last) if last.len() < CHUNK_LEN => last.push(element),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(element);
                self.0.push(chunk);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.0.last_mut()?;
        let element = last.pop();
        if last.is_empty() {
            self.0.pop();
        }
        element
    }
}

impl<T> Index<u32> for Chunked<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.0[at as usize / CHUNK_LEN][at as usize % CHUNK_LEN]
    }
}

impl<T> IndexMut<u32> for Chunked<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.0[at as usize / CHUNK_LEN][at as usize % CHUNK_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_a_vector_would_over_several_chunks() {
        let mut chunked = Chunked::new();
        for nth in 0..3_000 {
            assert_eq!(chunked.len(), nth as usize);
            chunked.push(nth);
        }
        chunked[2_500] = 7;
        for nth in (0..3_000).rev() {
            let expected = if nth == 2_500 { 7 } else { nth };
            assert_eq!(chunked[nth], expected);
            assert_eq!(chunked.pop(), Some(expected));
            assert_eq!(chunked.len(), nth as usize);
        }
        assert_eq!(chunked.pop(), None);
    }
}
