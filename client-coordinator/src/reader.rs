//! The read path.
//!
//! [`Reader::begin`] asks the cache for a whole batch at once and answers the hits;
//! [`Reader::finish`] takes one miss below: it wins the right to fill the cache, or shares
//! the read of whoever did (CACHE-LEASE), and fills only what a confirmed read brought
//! after the lease was won (CACHE-CONFIRM).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tierkv_cache::{Cache, CacheKey, Fill, Found, Lease, State};
use tierkv_protocol::cache::{AbsentEntry, Entry, ReadBound, ValueEntry, Verdict};
use tierkv_rpc::proto::{
    convert,
    internal::{Read, ReadReply, reply, request},
    v1::{Consistency, GetResponse, ReadOptions, Source},
};
use tierkv_types::{BootTime, Clock, Code, Error, ItemKey, Version, limits::DEFAULT_TIMEOUT};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    below::Below,
    flights::{Flight, Flights},
    meters::Meters,
    views::{Place, SharedViews, View},
};

/// How long a reader waits for the winner of a lease in another process, and how often it
/// looks whether the key was filled meanwhile (CACHE-LEASE).
const BUSY_PAUSE: Duration = Duration::from_millis(2);
const BUSY_LOOKS: u32 = 4;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// From the cache, if it is within the bound.
    Bounded(ReadBound),
    /// Past the cache, from the master.
    Latest,
}

/// A miss on its way below.
pub(crate) struct Miss {
    key: ItemKey,
    level: Level,
    arrived: BootTime,
    way: Way,
}

/// What the cache said of a missed key.
enum Way {
    /// This read won the lease, and its flight is under way.
    Flying(Flight),
    /// Somebody else is filling it.
    Busy,
    /// The cache has nothing to do with this read.
    Past,
}

/// A read after the cache was asked.
pub(crate) enum Begun {
    Hit(GetResponse),
    Miss(Miss),
}

/// The read path of one client coordinator.
pub(crate) struct Reader<C> {
    pub(crate) cache: Arc<C>,
    pub(crate) views: SharedViews,
    pub(crate) below: Below,
    pub(crate) flights: Arc<Flights>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) max_staleness: Duration,
}

impl<C: Cache> Reader<C> {
    /// What the options of a request ask.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown consistency, or a `min_version` that would be ignored.
    pub(crate) fn level(&self, options: Option<&ReadOptions>) -> Result<Level, Error> {
        let Some(options) = options else {
            return Ok(Level::Bounded(ReadBound {
                max_age: self.max_staleness,
                min_version: Version::ZERO,
            }));
        };
        if options.explain {
            return Err(Error::invalid("this server does not explain reads yet"));
        }
        let consistency = convert::consistency(options.consistency)?;
        if consistency != Consistency::Session && options.min_version != 0 {
            return Err(Error::invalid("min_version goes with SESSION consistency"));
        }
        if consistency == Consistency::Latest && options.max_staleness_ms.is_some() {
            return Err(Error::invalid(
                "LATEST bears no staleness: leave max_staleness_ms out",
            ));
        }
        Ok(match consistency {
            Consistency::Latest => Level::Latest,
            Consistency::Unspecified | Consistency::Cached | Consistency::Session => {
                Level::Bounded(ReadBound {
                    max_age: options
                        .max_staleness_ms
                        .map_or(self.max_staleness, |ms| Duration::from_millis(ms.into())),
                    min_version: Version::from_bits(options.min_version),
                })
            }
        })
    }

    /// Asks the cache for all keys of a batch; answers stand in their order.
    pub(crate) async fn begin(&self, wanted: &[(ItemKey, Level)]) -> Vec<Begun> {
        let arrived = self.clock.boot_time();
        let views = self.views.now();
        let places: Vec<Option<Place>> = (wanted.iter())
            .map(|(key, level)| match level {
                Level::Bounded(_) => views.place(key.slot()),
                Level::Latest => None,
            })
            .collect();
        let mut begun: Vec<Option<Begun>> = Vec::with_capacity(wanted.len());
        begun.resize_with(wanted.len(), || None);
        let mut keys = Vec::with_capacity(wanted.len());
        let mut at = Vec::with_capacity(wanted.len());
        let mut results = Vec::with_capacity(wanted.len());
        // One lookup a cluster; nearly always there is one.
        for (cluster, view) in views.clusters() {
            for (n, place) in places.iter().enumerate() {
                if let Some(place) = place
                    && place.cluster == cluster
                {
                    keys.push(CacheKey {
                        item: wanted[n].0.as_bytes(),
                        slot_revision: place.revision,
                    });
                    at.push((n, *place));
                }
            }
            if keys.is_empty() {
                continue;
            }
            self.cache.lookup(&view.cluster, &keys, &mut results).await;
            keys.clear();
            let clock = view.clock(arrived);
            for ((n, place), found) in at.drain(..).zip(results.drain(..)) {
                begun[n] = Some(self.sort(&wanted[n], view, place, found, arrived, clock));
            }
        }
        let mut hits = 0;
        let begun: Vec<Begun> = (begun.into_iter().zip(wanted))
            .map(|(begun, (key, level))| {
                let begun = begun.unwrap_or_else(|| {
                    Begun::Miss(Miss {
                        key: key.clone(),
                        level: *level,
                        arrived,
                        way: Way::Past,
                    })
                });
                hits += u64::from(matches!(begun, Begun::Hit(_)));
                begun
            })
            .collect();
        self.meters.hits.increment(hits);
        self.meters.misses.increment(begun.len() as u64 - hits);
        begun
    }

    /// Reads one key to the end.
    pub(crate) async fn read(
        &self,
        key: ItemKey,
        level: Level,
        deadline: Instant,
    ) -> Result<GetResponse, Error>
    where
        C: Cache,
    {
        match self.begin(&[(key, level)]).await.pop() {
            Some(Begun::Hit(answer)) => Ok(answer),
            Some(Begun::Miss(miss)) => self.finish(miss, deadline).await,
            None => Err(Error::new(Code::Internal, "a read vanished")),
        }
    }

    /// Turns what the cache said of a key into an answer or a miss.
    fn sort(
        &self,
        (key, level): &(ItemKey, Level),
        view: &View,
        place: Place,
        found: Found,
        arrived: BootTime,
        clock: Version,
    ) -> Begun {
        let way = match (found.state, level) {
            (State::Entry(entry), Level::Bounded(bound)) => {
                match view.judge(place, found.mark.as_ref(), &entry, bound, arrived, clock) {
                    Verdict::Hit { age } => return Begun::Hit(from_cache(entry, age)),
                    Verdict::Stale => Way::Past,
                }
            }
            // At once: a lease that waited for its read would keep others waiting, and one
            // whose reader went away would be lost.
            (State::Leased(lease), _) => Way::Flying(self.fly(key, Some((lease, place.revision)))),
            (State::Busy, _) => Way::Busy,
            (State::Entry(_) | State::Unreachable, _) => Way::Past,
        };
        Begun::Miss(Miss {
            key: key.clone(),
            level: *level,
            arrived,
            way,
        })
    }

    /// Takes a miss below.
    ///
    /// # Errors
    /// What the tiers below said, or `DeadlineExceeded`.
    pub(crate) async fn finish(&self, miss: Miss, deadline: Instant) -> Result<GetResponse, Error> {
        let Miss {
            key,
            level,
            arrived,
            way,
        } = miss;
        let bound = match level {
            Level::Bounded(bound) => bound,
            Level::Latest => {
                let read = self
                    .read_below(key.as_bytes().clone(), Version::ZERO, deadline)
                    .await?;
                return Ok(from_master(read, Duration::ZERO));
            }
        };
        let flight = match way {
            Way::Flying(flight) => flight,
            Way::Busy => match self.await_winner(&(key.clone(), level), arrived).await {
                Waited::Filled(answer) => return Ok(answer),
                Waited::Joined(flight) => flight,
                Waited::InVain => self.fly(&key, None),
            },
            Way::Past => self.fly(&key, None),
        };
        let sent_at = flight.sent_at;
        // What a shared read brings is as old, to this reader, as the read's sending.
        let age = arrived.since(sent_at);
        let landed = timeout_at(deadline, flight.landed()).await.map_err(|_| {
            Error::new(
                Code::DeadlineExceeded,
                "the deadline passed before an answer came",
            )
        })?;
        match landed {
            Some(Ok(read)) if fits(&read, &bound, age) => Ok(from_master(read, age)),
            // Its time was over, or nobody could be reached; this reader may have time left.
            Some(Err(error)) if !is_passing(&error) || Instant::now() >= deadline => Err(error),
            // It was sent too long ago, or before the write that this reader wants to see.
            Some(_) | None => {
                let min_version = bound.min_version;
                let read = self
                    .read_below(key.as_bytes().clone(), min_version, deadline)
                    .await?;
                Ok(from_master(read, Duration::ZERO))
            }
        }
    }

    /// Waits a little for whoever won the lease: in this process by sharing its read, in
    /// another by looking whether the key was filled.
    async fn await_winner(&self, wanted: &(ItemKey, Level), arrived: BootTime) -> Waited {
        let key = &wanted.0;
        for _ in 0..BUSY_LOOKS {
            if let Some(flight) = self.flights.under_way(key) {
                self.meters.merged.increment(1);
                return Waited::Joined(flight);
            }
            sleep(BUSY_PAUSE).await;
            let views = self.views.now();
            let Some(place) = views.place(key.slot()) else {
                return Waited::InVain;
            };
            let cache_key = CacheKey {
                item: key.as_bytes(),
                slot_revision: place.revision,
            };
            let view = views.view(place);
            let mut results = Vec::with_capacity(1);
            self.cache
                .lookup(&view.cluster, &[cache_key], &mut results)
                .await;
            let Some(found) = results.pop() else { continue };
            let clock = view.clock(arrived);
            match self.sort(wanted, view, place, found, arrived, clock) {
                Begun::Hit(answer) => return Waited::Filled(answer),
                Begun::Miss(miss) => match miss.way {
                    Way::Flying(flight) => return Waited::Joined(flight),
                    Way::Busy => {}
                    Way::Past => return Waited::InVain,
                },
            }
        }
        Waited::InVain
    }

    /// Starts the read of a key, or shares one that is under way. One that may fill the
    /// cache, by a lease won at a revision of its slot, always starts anew, because it must be sent after its lease was won.
    fn fly(&self, key: &ItemKey, lease: Option<(Lease, u64)>) -> Flight {
        let share = lease.is_none();
        let (flight, pilot) = self.flights.take_off(key, self.clock.boot_time(), share);
        let Some(pilot) = pilot else {
            self.meters.merged.increment(1);
            return flight;
        };
        let (below, cache, key) = (self.below.clone(), Arc::clone(&self.cache), key.clone());
        let meters = Arc::clone(&self.meters);
        // In a task of its own: those who share it must not depend on whoever came first.
        tokio::spawn(async move {
            let deadline = Instant::now() + DEFAULT_TIMEOUT;
            let outcome = read_below(&below, key.as_bytes().clone(), Version::ZERO, deadline).await;
            if let Some((lease, slot_revision)) = lease {
                let cache_key = CacheKey {
                    item: key.as_bytes(),
                    slot_revision,
                };
                match &outcome {
                    Ok(read) if read.confirmed && read.slot_revision == slot_revision => {
                        if cache.fill(cache_key, lease, to_entry(read)).await == Fill::Stored {
                            meters.fills.increment(1);
                        }
                    }
                    _ => cache.release(cache_key, lease).await,
                }
            }
            pilot.land(outcome);
        });
        flight
    }

    async fn read_below(
        &self,
        item_key: Bytes,
        min_version: Version,
        deadline: Instant,
    ) -> Result<ReadReply, Error> {
        read_below(&self.below, item_key, min_version, deadline).await
    }
}

/// How waiting for the winner of a lease ended.
enum Waited {
    Filled(GetResponse),
    Joined(Flight),
    InVain,
}

async fn read_below(
    below: &Below,
    item_key: Bytes,
    min_version: Version,
    deadline: Instant,
) -> Result<ReadReply, Error> {
    let min_version = min_version.to_bits();
    let read = request::Kind::Read(Read {
        item_key,
        min_version,
        placement_version: 0,
        explain: false,
    });
    match below.ask(read, deadline).await? {
        reply::Kind::Read(read) => Ok(read),
        _ => Err(Error::new(
            Code::Internal,
            "a tier answered another operation than was asked",
        )),
    }
}

/// Whether what a shared read brought is good enough for one of its readers.
fn fits(read: &ReadReply, bound: &ReadBound, age: Duration) -> bool {
    age <= bound.max_age && Version::from_bits(read.version) >= bound.min_version
}

/// Whether the same read may succeed for a reader who has more time.
const fn is_passing(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::DeadlineExceeded)
}

/// What goes into the cache, in memory of its own: it must not pin the frame it came in.
fn to_entry(read: &ReadReply) -> Entry {
    let version = Version::from_bits(read.version);
    let filled = Version::from_bits(read.clock);
    match read.found {
        true => Entry::Value(ValueEntry {
            version,
            expires: (read.expires != 0).then(|| Version::from_bits(read.expires)),
            filled,
            value: Bytes::copy_from_slice(&read.value),
        }),
        false => Entry::Absent(AbsentEntry { version, filled }),
    }
}

fn from_cache(entry: Entry, age: Duration) -> GetResponse {
    let (source, age_ms) = (Source::Cache.into(), millis(age));
    match entry {
        Entry::Value(entry) => GetResponse {
            found: true,
            value: entry.value,
            version: entry.version.to_bits(),
            expires_at_ms: entry.expires.map_or(0, Version::millis),
            source,
            age_ms,
            path: Vec::new(),
        },
        Entry::Absent(entry) => GetResponse {
            version: entry.version.to_bits(),
            source,
            age_ms,
            ..GetResponse::default()
        },
    }
}

fn from_master(read: ReadReply, age: Duration) -> GetResponse {
    GetResponse {
        found: read.found,
        value: read.value,
        version: read.version,
        source: Source::Master.into(),
        age_ms: millis(age),
        expires_at_ms: Version::from_bits(read.expires).millis(),
        path: Vec::new(),
    }
}

/// Whole milliseconds, rounded up: an age is an upper bound.
fn millis(age: Duration) -> u32 {
    u32::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}
