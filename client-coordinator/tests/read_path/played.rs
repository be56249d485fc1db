//! The scripted cluster below the coordinator.

use super::*;

/// The cluster scripted by the test.
pub(super) struct Played {
    /// The version and value of the one key.
    pub(super) held: Mutex<Option<(u64, Bytes)>>,
    /// The number of reads received.
    pub(super) reads: AtomicUsize,
    /// The staleness bounds of the reads, in milliseconds, with their counts.
    pub(super) bounds: Mutex<BTreeMap<u32, usize>>,
    /// Reads are answered while this is open.
    pub(super) open: watch::Sender<bool>,
    pub(super) confirmed: AtomicBool,
    /// The age of answers, in milliseconds, if a replica gives them.
    pub(super) replica: Mutex<Option<u32>>,
    /// The number of reads that wanted to fill the cache.
    pub(super) filling: AtomicUsize,
    pub(super) round: AtomicU64,
    /// The number of questions for the round.
    pub(super) questions: AtomicUsize,
    /// Whether the master still writes marks.
    pub(super) marking: AtomicBool,
}

impl FrameHandler for Played {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, frame: RequestFrame, replies: &Replies<Reply>) {
        for request in frame.requests {
            let (played, replies) = (Arc::clone(self), replies.clone());
            tokio::spawn(async move {
                let answer = match request.kind.unwrap() {
                    request::Kind::Read(read) => reply::Kind::Read(played.read(read).await),
                    request::Kind::Vouch(_) => reply::Kind::Vouch(played.vouch()),
                    request::Kind::Write(_) => panic!("nothing writes here"),
                };
                replies.send(vec![reply(request.id, Ok(answer))]).await;
            });
        }
    }

    fn weight(reply: &Reply) -> usize {
        reply_weight(reply)
    }

    fn pack(&self, replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

impl Played {
    pub(super) async fn read(&self, read: Read) -> ReadReply {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if read.fills {
            self.filling.fetch_add(1, Ordering::SeqCst);
        }
        let replica = *self.replica.lock().unwrap();
        let bound = read.max_staleness_ms;
        *self.bounds.lock().unwrap().entry(bound).or_default() += 1;
        let held = self.held.lock().unwrap().clone();
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        let (version, value) = held.clone().unwrap_or((AS_OF, Bytes::new()));
        ReadReply {
            found: held.is_some(),
            value,
            version,
            clock: Version::from_millis(SystemClockMillis::now()).to_bits(),
            slot_revision: 1,
            confirmed: self.confirmed.load(Ordering::SeqCst),
            age_ms: replica.unwrap_or_default(),
            from_replica: replica.is_some(),
            ..ReadReply::default()
        }
    }

    pub(super) fn vouch(&self) -> VouchReply {
        self.questions.fetch_add(1, Ordering::SeqCst);
        VouchReply {
            epoch: 1,
            round: self.round.load(Ordering::SeqCst),
            placement_version: 1,
            pool_version: 1,
            slots: vec![SlotRun {
                first: 0,
                count: 4096,
                revision: 1,
            }],
            clock: Version::from_millis(SystemClockMillis::now()).to_bits(),
        }
    }
}

/// The version up to which absence is known.
pub(super) const AS_OF: u64 = 3;

pub(super) struct SystemClockMillis;

impl SystemClockMillis {
    pub(super) fn now() -> u64 {
        tierkv_types::Clock::wall_millis(&SystemClock)
    }
}

pub(super) struct Door {
    pub(super) played: Arc<Played>,
    /// The streams go on while this lives.
    pub(super) stop: watch::Sender<bool>,
}

#[tonic::async_trait]
impl ServerCoordinator for Door {
    type ExchangeStream = Answered<Played>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn scan(
        &self,
        _: tonic::Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("nobody scans here"))
    }

    async fn count(&self, _: tonic::Request<CountRequest>) -> Result<Response<CountReply>, Status> {
        Err(Status::unimplemented("nobody counts here"))
    }

    async fn watch(
        &self,
        _: tonic::Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
    }

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let stream = answer_frames(
            request.into_inner(),
            Arc::clone(&self.played),
            None,
            4096,
            None,
            self.stop.subscribe(),
        );
        Ok(Response::new(stream))
    }

    async fn probe(
        &self,
        _: tonic::Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {}))
    }

    async fn survey(
        &self,
        _: tonic::Request<SurveyRequest>,
    ) -> Result<Response<SurveyResponse>, Status> {
        Ok(Response::new(SurveyResponse::default()))
    }
}
