//! Waiting for a state: polling with a deadline instead of a fixed sleep.

use std::time::{Duration, Instant};

/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `question` until it returns `Some`, or until `limit` has passed.
///
/// Calls it at least once, and once more after `limit`, so that a long pause on a slow machine
/// is no failure.
pub async fn poll_until<T, F>(limit: Duration, mut question: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        let last = start.elapsed() >= limit;
        if let Some(answer) = question().await {
            return Some(answer);
        }
        if last {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn polling_ends_with_the_first_answer() {
        let mut asked = 0;
        let answer = poll_until(Duration::from_secs(10), || {
            asked += 1;
            let now = asked;
            async move { (now == 3).then_some(now) }
        })
        .await;
        assert_eq!(answer, Some(3));
    }

    #[tokio::test]
    async fn polling_ends_at_the_deadline() {
        let answer: Option<()> = poll_until(Duration::from_millis(25), || async { None }).await;
        assert_eq!(answer, None);
    }
}
