//! Which member of a cluster is asked for a read: the power of two choices.
//!
//! Of two members picked at random, the one with clearly more reads in flight or clearly slower
//! answers is left out. (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
//! 2001.) Small differences don't count: the nearest member would otherwise get nearly all reads of
//! a quiet cluster, and the others' caches and connections would be cold when they are needed.

use std::time::Duration;

use crate::load::Standing;

/// A member has clearly more reads in flight than another one if it has more than so many times as
/// many, and so many on top.
const IN_FLIGHT_FACTOR: usize = 2;
const IN_FLIGHT_SLACK: usize = 8;
/// As much for the moving average of answers.
const LATENCY_FACTOR: u32 = 3;
const LATENCY_SLACK: Duration = Duration::from_millis(5);

/// Chooses one of the members whose index `may_be` accepts; `None` if it accepts none. Members that
/// don't answer are chosen only if no other one is left. `pick` returns a random number below its
/// argument.
pub(crate) fn choose(
    members: &[Standing],
    may_be: impl Fn(usize) -> bool,
    mut pick: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let able = |wants_out: bool| -> Vec<usize> {
        (0..members.len())
            .filter(|at| may_be(*at) && members[*at].is_out == wants_out)
            .collect()
    };
    let mut able_now = able(false);
    if able_now.is_empty() {
        able_now = able(true);
    }
    match able_now.len() {
        0 => None,
        1 => Some(able_now[0]),
        count => {
            let one = able_now.swap_remove(pick(count));
            let other = able_now[pick(count - 1)];
            Some(better(members, one, other))
        }
    }
}

/// The first of two members, unless it is clearly worse.
fn better(members: &[Standing], one: usize, other: usize) -> usize {
    let (a, b) = (&members[one], &members[other]);
    match is_worse(a, b) && !is_worse(b, a) {
        true => other,
        false => one,
    }
}

fn is_worse(a: &Standing, b: &Standing) -> bool {
    a.in_flight > IN_FLIGHT_FACTOR * b.in_flight + IN_FLIGHT_SLACK
        || a.latency > LATENCY_FACTOR * b.latency + LATENCY_SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(in_flight: usize, millis: u64) -> Standing {
        Standing {
            in_flight,
            latency: Duration::from_millis(millis),
            is_out: false,
        }
    }

    /// The shares of 3,000 choices, in percent.
    fn shares(members: &[Standing]) -> Vec<usize> {
        let mut counts = vec![0; members.len()];
        for _ in 0..3_000 {
            let chosen = choose(members, |_| true, |below| rand::random_range(0..below));
            counts[chosen.unwrap()] += 1;
        }
        counts.into_iter().map(|count| count / 30).collect()
    }

    #[test]
    fn members_that_are_nearly_equal_get_equal_shares() {
        let members = [answering(0, 1), answering(4, 2), answering(8, 3)];
        for share in shares(&members) {
            assert!((28..39).contains(&share), "{share} %");
        }
    }

    #[test]
    fn a_loaded_or_slow_member_is_left_out_where_there_is_a_choice() {
        assert_eq!(
            shares(&[answering(1, 1), answering(1, 1), answering(40, 1)])[2],
            0
        );
        assert_eq!(
            shares(&[answering(1, 30), answering(1, 1), answering(1, 1)])[0],
            0
        );
        // Loaded here, slow there: neither is clearly worse.
        let shares = shares(&[answering(40, 1), answering(1, 30)]);
        assert!(shares.iter().all(|share| *share > 40), "{shares:?}");
    }

    #[test]
    fn members_that_do_not_answer_are_a_last_resort() {
        let out = Standing {
            is_out: true,
            ..answering(0, 0)
        };
        assert_eq!(shares(&[out, answering(100, 100), out]), [0, 100, 0]);
        let both = shares(&[out, out]);
        assert!(both.iter().all(|share| *share > 40), "{both:?}");
        let only_first = choose(&[out, answering(0, 0)], |at| at == 0, |_| 0);
        assert_eq!(only_first, Some(0));
        assert_eq!(choose(&[answering(0, 0)], |_| false, |_| 0), None);
    }
}
