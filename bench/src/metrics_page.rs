//! Reads the platform's `/metrics`.

use std::{collections::HashMap, time::Duration};

use tierkv_workload::Failure;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Timeout for the page under full load.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// The page at one moment: the sum of all series of each name.
#[derive(Clone, Debug, Default)]
pub(crate) struct MetricsPage {
    values: HashMap<String, f64>,
}

/// The count and the sum of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Gathered {
    pub(crate) count: f64,
    pub(crate) sum: f64,
}

impl Gathered {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            count: self.count - before.count,
            sum: self.sum - before.sum,
        }
    }
}

impl MetricsPage {
    /// Reads the page of the platform at the REST address `address`.
    pub(crate) async fn fetch(address: &str) -> Result<Self, Failure> {
        let failed = |why: String| Failure(format!("asking {address} for its metrics: {why}"));
        let answer = timeout(PAGE_LIMIT, ask(address))
            .await
            .map_err(|_| failed(format!("no answer in {PAGE_LIMIT:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| failed("the answer has no body".to_owned()))?;
        if head.split_ascii_whitespace().nth(1) != Some("200") {
            return Err(failed(head.lines().next().unwrap_or_default().to_owned()));
        }
        Ok(Self::parse(body))
    }

    fn parse(body: &str) -> Self {
        let mut values = HashMap::new();
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = series.split('{').next().unwrap_or(series);
            if let Ok(value) = value.parse::<f64>() {
                *values.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
        Self { values }
    }

    /// A histogram; empty if it is not on the page.
    pub(crate) fn histogram(&self, name: &str) -> Gathered {
        let value = |part: &str| {
            let name = format!("{name}_{part}");
            self.values.get(&name).copied().unwrap_or_default()
        };
        Gathered {
            count: value("count"),
            sum: value("sum"),
        }
    }
}

/// One HTTP/1.0 request; the answer ends when the server closes the connection.
async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PAGE: &str = "# TYPE tierkv_checkpoint_seconds summary\n\
        tierkv_checkpoint_seconds{quantile=\"0.5\"} 9\n\
        tierkv_checkpoint_seconds_sum{node=\"n1\"} 1.5\n\
        tierkv_checkpoint_seconds_sum{node=\"n2\"} 2\n\
        tierkv_checkpoint_seconds_count 4\n";

    async fn served(answer: String) -> Result<MetricsPage, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /metrics HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let page = MetricsPage::fetch(&address).await;
        server.await.unwrap();
        page
    }

    #[tokio::test]
    async fn a_histogram_is_read_from_the_page() {
        let page = served(format!("HTTP/1.0 200 OK\r\n\r\n{PAGE}"))
            .await
            .unwrap();
        let gathered = page.histogram("tierkv_checkpoint_seconds");
        assert_eq!(
            gathered,
            Gathered {
                count: 4.0,
                sum: 3.5
            }
        );
        let before = Gathered {
            count: 1.0,
            sum: 3.0,
        };
        assert_eq!(
            gathered.since(before),
            Gathered {
                count: 3.0,
                sum: 0.5
            }
        );
        assert_eq!(page.histogram("tierkv_log_sync_seconds").count, 0.0);
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_with_its_status() {
        let refused = served("HTTP/1.0 503 Service Unavailable\r\n\r\n".to_owned());
        let words = refused.await.unwrap_err().to_string();
        assert!(words.contains("503 Service Unavailable"), "{words}");
    }
}
