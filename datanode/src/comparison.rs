//! The answer to `CompareTimes`: the cluster's platform time (CLOCK-STEADY).

use std::time::Duration;

use tierkv_protocol::platform_time::others::{ClusterTime, MAX_CLUSTERS, TimeAnswer, TimeQuestion};
use tierkv_rpc::proto::internal::{CompareTimesReply, CompareTimesRequest, OtherClusterTime};
use tierkv_types::{BootTime, ClusterId, Error};

use crate::service::Service;

impl Service {
    /// Answers a coordinator's question for the time.
    ///
    /// # Errors
    /// `InvalidArgument`, or `NotMaster`.
    pub(crate) fn compare_times(
        &self,
        request: CompareTimesRequest,
    ) -> Result<CompareTimesReply, Error> {
        let question = question(request)?;
        let answer = self.sequencer.compare_times(question.as_ref())?;
        Ok(reply(&answer))
    }
}

fn question(request: CompareTimesRequest) -> Result<Option<TimeQuestion>, Error> {
    let CompareTimesRequest {
        boot_time_ns,
        others,
    } = request;
    let Some(nanos) = boot_time_ns else {
        return Ok(None);
    };
    if others.len() > MAX_CLUSTERS {
        return Err(Error::invalid(format!(
            "the question has the times of {} clusters; send at most {MAX_CLUSTERS}",
            others.len()
        )));
    }
    let others = others.iter().map(cluster_time);
    Ok(Some(TimeQuestion {
        at: BootTime::from_boot(Duration::from_nanos(nanos)),
        others: others.collect::<Result<_, _>>()?,
    }))
}

fn cluster_time(wire: &OtherClusterTime) -> Result<ClusterTime, Error> {
    Ok(ClusterTime {
        cluster: ClusterId::new(&wire.cluster)?,
        platform_millis: wire.platform_time_ms,
        error: Duration::from_millis(wire.error_ms.into()),
        is_founding: wire.founding,
    })
}

fn reply(answer: &TimeAnswer) -> CompareTimesReply {
    let nanos = answer.boot_time.since_boot().as_nanos();
    CompareTimesReply {
        boot_time_ns: u64::try_from(nanos).unwrap_or(u64::MAX),
        platform_time_ms: answer.platform_millis,
        founding: answer.is_founding,
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::Code;

    use super::*;

    fn other(cluster: &str) -> OtherClusterTime {
        OtherClusterTime {
            cluster: cluster.to_owned(),
            platform_time_ms: 7,
            error_ms: 3,
            founding: true,
        }
    }

    #[test]
    fn a_question_is_read_and_bad_ones_are_refused() {
        let asked = |others| CompareTimesRequest {
            boot_time_ns: Some(5),
            others,
        };
        let read = question(asked(vec![other("c2")])).unwrap().unwrap();
        assert_eq!(read.at, BootTime::from_boot(Duration::from_nanos(5)));
        assert_eq!(read.others[0].cluster.as_str(), "c2");
        assert_eq!(read.others[0].error, Duration::from_millis(3));
        let first = CompareTimesRequest::default();
        assert_eq!(question(first).unwrap(), None);
        for others in [vec![other("C 2")], vec![other("c2"); MAX_CLUSTERS + 1]] {
            let refused = question(asked(others)).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
        }
    }
}
