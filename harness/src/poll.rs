//! Waiting for a state: ask again and again, with a deadline, and never just sleep.

use std::time::{Duration, Instant};

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `question` until it answers `Some`, or until `limit` has passed.
///
/// It is asked at least once, and once more at the end, so that a slow machine does not
/// fail for a pause that took too long.
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
    async fn it_asks_until_the_answer_comes() {
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
    async fn it_gives_up_at_the_deadline() {
        let answer: Option<()> = poll_until(Duration::from_millis(25), || async { None }).await;
        assert_eq!(answer, None);
    }
}
