//! Channel pools, frames, deadlines and status details: how tiers and SDK talk.
