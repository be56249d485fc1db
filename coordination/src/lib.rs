//! Membership, election, configuration and watches behind four traits, with their backends.
