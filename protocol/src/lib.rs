//! Pure state machines of TierKV: events in, commands out, no I/O and no clock.
