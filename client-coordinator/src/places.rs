//! Limited places for what may be open at the same time: watches, scans, sessions.

use std::sync::Arc;

use metrics::Gauge;
use tierkv_types::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the places are for, with the names of its limit and gauges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacesFor {
    /// The word in messages, as in "watches".
    pub(crate) what: &'static str,
    /// The limit's name.
    pub(crate) limit: &'static str,
    /// The gauge of open ones.
    pub(crate) gauge: &'static str,
    /// The gauge of the limit.
    pub(crate) limit_gauge: &'static str,
}

/// The places for one kind.
#[derive(Clone)]
pub(crate) struct Places {
    of: PlacesFor,
    count: usize,
    free: Arc<Semaphore>,
    open: Gauge,
}

/// One place, occupied until dropped.
pub(crate) struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Creates `count` places, shown in `/metrics`.
    pub(crate) fn new(of: PlacesFor, count: usize) -> Self {
        metrics::describe_gauge!(of.gauge, format!("Open {} of users.", of.what));
        metrics::describe_gauge!(
            of.limit_gauge,
            format!(
                "The bound of {}, over which new ones are refused.",
                of.gauge
            )
        );
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!(of.limit_gauge).set(count as f64);
        Self {
            of,
            count,
            free: Arc::new(Semaphore::new(count)),
            open: metrics::gauge!(of.gauge),
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// `ResourceExhausted` if none is free.
    pub(crate) fn take(&self) -> Result<Place, Error> {
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            let PlacesFor { what, limit, .. } = self.of;
            Error::exhausted(format!(
                "there are {} {what} here, which is the limit {limit}; end some, or ask another \
                 client coordinator",
                self.count
            ))
        })?;
        self.open.increment(1.0);
        Ok(Place {
            open: self.open.clone(),
            _permit: permit,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::Code;

    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_taken_again() {
        let things = PlacesFor {
            what: "things",
            limit: "max_things",
            gauge: "things",
            limit_gauge: "things_limit",
        };
        let places = Places::new(things, 2);
        let (first, _second) = (places.take().unwrap(), places.take().unwrap());
        let refused = places.take().err().unwrap();
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.message.contains("2 things") && refused.message.contains("max_things"));
        drop(first);
        assert!(places.take().is_ok());
    }
}
