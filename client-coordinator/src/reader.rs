//! The read path.
//!
//! [`Reader::begin`] looks a whole batch up in the cache and answers the hits. [`Reader::finish`]
//! reads one miss below. Either it won the lease and may fill the cache, or it shares the read of
//! the lease's winner (CACHE-LEASE). Only a confirmed read, sent after the lease was won, fills the
//! cache (CACHE-CONFIRM); so a read with a lease asks for a confirmed one, which a replica gives, too
//! (REP-CONFIRM). Without a lease, any answer within the bound will do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use tierkv_cache::{Cache, CacheKey, Fill, Found, Lease, State};
use tierkv_protocol::cache::{AbsentEntry, Entry, ReadBound, ValueEntry, Verdict};
use tierkv_rpc::{
    last_attempt,
    proto::{
        convert,
        internal::{Read, ReadReply, reply, request},
        v1::{GetResponse, Hop, ReadOptions, Source},
    },
};
use tierkv_types::{
    BootTime, Clock, Code, Error, ItemKey, NodeId, Version, limits::DEFAULT_TIMEOUT,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    below::Below,
    flights::{Flight, Flights},
    meters::{Meters, TIER},
    read_options::{CheckedOptions, Level},
    silences::Silences,
    views::{Place, SharedViews, View},
};

/// The pause between two looks at a key that the winner of a lease in another process fills, and
/// the number of looks (CACHE-LEASE).
const BUSY_PAUSE: Duration = Duration::from_millis(2);
const BUSY_LOOKS: u32 = 4;

/// The name of the cache in a read's path.
const CACHE_TIER: &str = "cache";

/// A read that the cache did not answer.
pub(crate) struct Miss {
    key: ItemKey,
    options: CheckedOptions,
    arrived: BootTime,
    way: Way,
    /// The cache's hop, if the read is explained and asked the cache.
    cache: Option<Hop>,
}

/// What the cache returned for a missed key.
enum Way {
    /// This read won the lease, and its flight has started.
    Flying(Flight),
    /// Another reader holds the lease.
    Busy,
    /// This read bypasses the cache.
    Bypass,
}

/// The view and the time of a cache lookup.
#[derive(Clone, Copy)]
struct LookupContext<'a> {
    view: &'a View,
    arrived: BootTime,
    clock: Version,
}

/// The outcome of a cache lookup.
pub(crate) enum Lookup {
    Hit(GetResponse),
    Miss(Miss),
}

/// The read path of one client coordinator.
pub(crate) struct Reader<C> {
    pub(crate) cache: Arc<C>,
    pub(crate) views: SharedViews,
    pub(crate) below: Below,
    pub(crate) flights: Arc<Flights>,
    pub(crate) silences: Silences,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) max_staleness: Duration,
    /// The name of this coordinator's node.
    pub(crate) node: NodeId,
}

impl<C: Cache> Reader<C> {
    /// Checks the options of a request.
    ///
    /// # Errors
    /// Those of [`CheckedOptions::new`].
    pub(crate) fn check(&self, options: Option<&ReadOptions>) -> Result<CheckedOptions, Error> {
        CheckedOptions::new(options, self.max_staleness)
    }

    /// Looks all keys of a batch up in the cache; the outcomes are in their order.
    pub(crate) async fn begin(&self, wanted: &[(ItemKey, CheckedOptions)]) -> Vec<Lookup> {
        let arrived = self.clock.boot_time();
        let looked_up = self.look_up(wanted, arrived).await;
        let mut hits = 0;
        let lookups: Vec<Lookup> = (looked_up.into_iter().zip(wanted))
            .map(|(lookup, (key, options))| {
                let lookup = lookup.unwrap_or_else(|| {
                    Lookup::Miss(Miss {
                        key: key.clone(),
                        options: *options,
                        arrived,
                        way: Way::Bypass,
                        cache: None,
                    })
                });
                hits += u64::from(matches!(lookup, Lookup::Hit(_)));
                lookup
            })
            .collect();
        self.meters.hits.increment(hits);
        self.meters.misses.increment(lookups.len() as u64 - hits);
        lookups
    }

    /// Looks keys up in the cache; `None` for those that bypass it.
    async fn look_up(
        &self,
        wanted: &[(ItemKey, CheckedOptions)],
        arrived: BootTime,
    ) -> Vec<Option<Lookup>> {
        let views = self.views.now();
        let places: Vec<Option<Place>> = (wanted.iter())
            .map(|(key, options)| match options.level {
                Level::Bounded(_) => views.place(key.slot()),
                Level::Latest => None,
            })
            .collect();
        let mut lookups: Vec<Option<Lookup>> = Vec::with_capacity(wanted.len());
        lookups.resize_with(wanted.len(), || None);
        // One lookup per cluster, all at the same time. One is not boxed: it is the usual number.
        let mut looking = views.clusters().map(|(cluster, view)| {
            let of_cluster = |(n, place): (usize, &Option<Place>)| {
                let place = place.filter(|place| place.cluster == cluster)?;
                Some((n, place))
            };
            let at: Vec<_> = (places.iter().enumerate()).filter_map(of_cluster).collect();
            self.look_up_in(view, wanted, at, arrived)
        });
        let first = looking.next();
        let others: Vec<_> = looking.collect();
        let sorted = match (first, others.is_empty()) {
            (None, _) => Vec::new(),
            (Some(only), true) => vec![only.await],
            (Some(first), false) => join_all([first].into_iter().chain(others)).await,
        };
        for (n, lookup) in sorted.into_iter().flatten() {
            lookups[n] = Some(lookup);
        }
        lookups
    }

    /// Looks up the keys of one cluster: those of `wanted` at these indexes.
    async fn look_up_in(
        &self,
        view: &View,
        wanted: &[(ItemKey, CheckedOptions)],
        at: Vec<(usize, Place)>,
        arrived: BootTime,
    ) -> Vec<(usize, Lookup)> {
        if at.is_empty() {
            return Vec::new();
        }
        let keys: Vec<CacheKey<'_>> = (at.iter())
            .map(|(n, place)| CacheKey {
                item: wanted[*n].0.as_bytes(),
                slot_revision: place.revision,
            })
            .collect();
        let mut results = Vec::with_capacity(keys.len());
        self.cache.lookup(&view.cluster, &keys, &mut results).await;
        let context = LookupContext {
            view,
            arrived,
            clock: view.clock(arrived),
        };
        (at.into_iter().zip(results))
            .map(|((n, place), found)| (n, self.sort(&wanted[n], context, place, found)))
            .collect()
    }

    /// Reads one key.
    pub(crate) async fn read(
        &self,
        key: ItemKey,
        options: CheckedOptions,
        deadline: Instant,
    ) -> Result<GetResponse, Error> {
        let arrived = self.clock.boot_time();
        let wanted = (key, options);
        let miss = match self.look_one_up(&wanted, arrived).await {
            Some(Lookup::Hit(answer)) => {
                self.meters.hits.increment(1);
                return Ok(answer);
            }
            Some(Lookup::Miss(miss)) => miss,
            None => Miss {
                key: wanted.0,
                options,
                arrived,
                way: Way::Bypass,
                cache: None,
            },
        };
        self.meters.misses.increment(1);
        // Boxed, so that a hit does not carry the state of a miss.
        Box::pin(self.finish(miss, deadline)).await
    }

    /// Looks one key up in the cache, without the work of a batch; `None` if it bypasses the cache.
    async fn look_one_up(
        &self,
        wanted: &(ItemKey, CheckedOptions),
        arrived: BootTime,
    ) -> Option<Lookup> {
        let (key, options) = wanted;
        if options.level == Level::Latest {
            return None;
        }
        let views = self.views.now();
        let place = views.place(key.slot())?;
        let view = views.view(place);
        let cache_key = CacheKey {
            item: key.as_bytes(),
            slot_revision: place.revision,
        };
        let mut results = Vec::with_capacity(1);
        (self.cache)
            .lookup(&view.cluster, &[cache_key], &mut results)
            .await;
        let context = LookupContext {
            view,
            arrived,
            clock: view.clock(arrived),
        };
        Some(self.sort(wanted, context, place, results.pop()?))
    }

    /// Turns the cache's result for a key into a hit or a miss.
    fn sort(
        &self,
        (key, options): &(ItemKey, CheckedOptions),
        context: LookupContext<'_>,
        place: Place,
        found: Found,
    ) -> Lookup {
        let LookupContext {
            view,
            arrived,
            clock,
        } = context;
        let cache = options.explain.then(|| {
            let node = self.cache.node_of(CacheKey {
                item: key.as_bytes(),
                slot_revision: place.revision,
            });
            self.hop(CACHE_TIER, node, arrived)
        });
        let way = match (found.state, &options.level) {
            (State::Entry(entry), Level::Bounded(bound)) => {
                match view.judge(place, found.mark.as_ref(), &entry, bound, arrived, clock) {
                    Verdict::Hit { age } => {
                        let mut answer = from_cache(entry, age);
                        if let Some(cache) = cache {
                            answer.path = vec![self.own_hop(arrived), cache];
                        }
                        return Lookup::Hit(answer);
                    }
                    Verdict::Stale => Way::Bypass,
                }
            }
            // Start the read at once: an idle lease would keep others waiting, and would be lost if
            // its reader went away.
            (State::Leased(lease), _) => {
                let lease = Some((lease, place.revision));
                Way::Flying(self.fly(key, lease, *options))
            }
            (State::Busy, _) => Way::Busy,
            (State::Entry(_) | State::Unreachable, _) => Way::Bypass,
        };
        Lookup::Miss(Miss {
            key: key.clone(),
            options: *options,
            arrived,
            way,
            cache,
        })
    }

    /// Reads a miss below.
    ///
    /// # Errors
    /// The errors of the tiers below, or `DeadlineExceeded`.
    pub(crate) async fn finish(
        &self,
        mut miss: Miss,
        deadline: Instant,
    ) -> Result<GetResponse, Error> {
        let (arrived, cache) = (miss.arrived, miss.cache.take());
        let (explain, slot) = (miss.options.explain, miss.key.slot());
        let silence = self.silences.of(slot);
        let answering = self.answer(miss, deadline);
        let answered = match silence {
            None => answering.await,
            // The reason must arrive before the reader's own timeout.
            Some(silence) => timeout_at(last_attempt(deadline), answering)
                .await
                .unwrap_or_else(|_| Err(silence.error())),
        };
        let mut answer = answered.map_err(|error| self.silences.explain(slot, error))?;
        if explain {
            let above = [Some(self.own_hop(arrived)), cache];
            answer.path.splice(..0, above.into_iter().flatten());
        }
        Ok(answer)
    }

    async fn answer(&self, miss: Miss, deadline: Instant) -> Result<GetResponse, Error> {
        let Miss {
            key,
            options: options @ CheckedOptions { level, explain },
            arrived,
            way,
            cache: _,
        } = miss;
        let bound = level.bound();
        let alone = async || {
            let (below, silences) = (&self.below, &self.silences);
            let read = read_below(below, silences, &key, bound, false, explain, deadline);
            Ok(from_below(read.await?, Duration::ZERO))
        };
        if level == Level::Latest {
            return alone().await;
        }
        let flight = match way {
            Way::Flying(flight) => flight,
            // A shared read has the path of the reader that sent it.
            Way::Busy | Way::Bypass if explain => return alone().await,
            Way::Busy => match self.await_winner(&(key.clone(), options), arrived).await {
                Waited::Filled(answer) => return Ok(answer),
                Waited::Joined(flight) => flight,
                Waited::InVain => self.fly(&key, None, options),
            },
            Way::Bypass => self.fly(&key, None, options),
        };
        let sent_at = flight.sent_at;
        // For this reader, the result of a shared read is as old as its sending.
        let age = arrived.since(sent_at);
        let landed = timeout_at(deadline, flight.landed()).await.map_err(|_| {
            Error::new(
                Code::DeadlineExceeded,
                "the deadline passed before an answer came",
            )
        })?;
        match landed {
            Some(Ok(read)) if fits(&read, &bound, age) => Ok(from_below(read, age)),
            // The shared read timed out or reached nobody; this reader may have time left.
            Some(Err(error)) if !is_passing(&error) || Instant::now() >= deadline => Err(error),
            // It was sent too long ago, or before the write that this reader must see.
            Some(_) | None => alone().await,
        }
    }

    fn own_hop(&self, arrived: BootTime) -> Hop {
        self.hop(TIER, self.node.as_str(), arrived)
    }

    fn hop(&self, tier: &str, node: &str, since: BootTime) -> Hop {
        let took = self.clock.boot_time().since(since);
        convert::hop(tier, node, took)
    }

    /// Waits a little for the winner of the lease: in this process by sharing its read, in another
    /// by checking whether the key was filled.
    async fn await_winner(&self, wanted: &(ItemKey, CheckedOptions), arrived: BootTime) -> Waited {
        let key = &wanted.0;
        for _ in 0..BUSY_LOOKS {
            if let Some(flight) = self.flights.under_way(key) {
                self.meters.merged.increment(1);
                return Waited::Joined(flight);
            }
            sleep(BUSY_PAUSE).await;
            let Some(lookup) = self.look_one_up(wanted, arrived).await else {
                return Waited::InVain;
            };
            match lookup {
                Lookup::Hit(answer) => return Waited::Filled(answer),
                Lookup::Miss(miss) => match miss.way {
                    Way::Flying(flight) => return Waited::Joined(flight),
                    Way::Busy => {}
                    Way::Bypass => return Waited::InVain,
                },
            }
        }
        Waited::InVain
    }

    /// Starts the read of a key, or shares one in progress. A read with a lease, won at a revision
    /// of its slot, may fill the cache; it always starts a new flight, because it must be sent
    /// after the lease was won. The read is sent with the staleness bound of `options`. A reader
    /// with a stricter bound that shares it checks the answer against its own ([`fits`]).
    fn fly(&self, key: &ItemKey, lease: Option<(Lease, u64)>, options: CheckedOptions) -> Flight {
        let share = lease.is_none();
        let (flight, pilot) = self.flights.take_off(key, self.clock.boot_time(), share);
        let Some(pilot) = pilot else {
            self.meters.merged.increment(1);
            return flight;
        };
        let (below, cache, key) = (self.below.clone(), Arc::clone(&self.cache), key.clone());
        let (meters, silences) = (Arc::clone(&self.meters), self.silences.clone());
        // Readers that share it need not see this reader's own write.
        let bound = ReadBound {
            min_version: Version::ZERO,
            ..options.level.bound()
        };
        // In its own task: readers that share it must not depend on the first one.
        tokio::spawn(async move {
            let deadline = Instant::now() + DEFAULT_TIMEOUT;
            let explain = options.explain;
            let fills = lease.is_some();
            let read = read_below(&below, &silences, &key, bound, fills, explain, deadline);
            let outcome = read.await;
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
}

/// The outcome of waiting for the winner of a lease.
enum Waited {
    Filled(GetResponse),
    Joined(Flight),
    InVain,
}

async fn read_below(
    below: &Below,
    silences: &Silences,
    key: &ItemKey,
    bound: ReadBound,
    fills: bool,
    explain: bool,
    deadline: Instant,
) -> Result<ReadReply, Error> {
    let _place = silences.admit(key.slot())?;
    let read = request::Kind::Read(Read {
        item_key: key.as_bytes().clone(),
        min_version: bound.min_version.to_bits(),
        placement_version: 0,
        explain,
        // Rounded down: the answer must not be staler.
        max_staleness_ms: u32::try_from(bound.max_age.as_millis()).unwrap_or(u32::MAX),
        fills,
        // The server coordinator knows it better: it hears of it more often.
        clock: 0,
    });
    match below.ask(read, deadline).await? {
        reply::Kind::Read(read) => Ok(read),
        _ => Err(Error::new(
            Code::Internal,
            "a tier's answer belongs to another operation than the request",
        )),
    }
}

/// Whether the result of a shared read satisfies one of its readers.
fn fits(read: &ReadReply, bound: &ReadBound, age: Duration) -> bool {
    let age = age.saturating_add(Duration::from_millis(read.age_ms.into()));
    age <= bound.max_age && Version::from_bits(read.version) >= bound.min_version
}

/// Whether the same read may succeed for a reader with more time.
const fn is_passing(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::DeadlineExceeded)
}

/// The cache entry of a read, in its own memory: it must not keep the received frame alive.
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
    let (source, age_ms) = (Source::Cache.into(), convert::age_ms(age));
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

/// The answer of a read below. `waited`: how long before this reader's arrival it was sent. The
/// node's age counts to its own answer, which came after that; so the sum is at least how stale the
/// answer was when the reader arrived.
fn from_below(read: ReadReply, waited: Duration) -> GetResponse {
    let source = match read.from_replica {
        true => Source::Replica,
        false => Source::Master,
    };
    GetResponse {
        found: read.found,
        value: read.value,
        version: read.version,
        source: source.into(),
        age_ms: read.age_ms.saturating_add(convert::age_ms(waited)),
        expires_at_ms: Version::from_bits(read.expires).millis(),
        path: read.path,
    }
}
